"""Gradient TD: true stochastic gradients of the projected Bellman error, which no policy and no features make diverge.

    repeat
        act by b, observe r, s';  ρ = π(a | s) / b(a | s);  δ = r + γ v(s') - v(s)
        GTD2        w <- w + α ρ [x(s) - γ x(s')] h·x(s)               (Sutton and Barto, section 11.7)
        TDC         w <- w + α ρ [δ x(s) - γ x(s') h·x(s)]
        both        h <- h + β ρ [δ - h·x(s)] x(s)

h estimates (E[x xᵀ])^-1 E[δ x], what a least-squares fit of the TD errors would be; β is larger than α, so that it can
follow (Sutton et al. 2009). TDC is TD(0) with a correction; GTD2 has the same fixed point.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.prediction import (
    Policy,
    act,
    chance,
    covers,
    td_error,
    value,
    weights,
)  # fmt: skip
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.errors import InputError
from operant.core.linear import Features, add_to
from operant.core.random import Stream, stream
from operant.mdp.simulator import current, reset, step

RULES = ("gtd2", "tdc")
GTD2, _ = range(2)


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    alpha: float = 0.01
    """α: the step size of the values."""
    beta: float = 0.1
    """β: the step size of the second set of weights."""
    rule: Literal["gtd2", "tdc"] = "tdc"
    """Which of the two updates."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    behaviour: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s)."""
    h: NDArray[np.float64]
    """[X, 1]: the second set, a linear fit of the TD errors."""
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, behaviour: Policy, config: Config, seed: int = 0) -> State:
    """`policy` is valued, `behaviour` acts. Raises `InputError` where that one leaves out what the other does."""
    if config.rule not in RULES:
        raise InputError(f"rule is {config.rule!r}: give one of {', '.join(RULES)}")
    w = weights(world, config, policy, behaviour)
    covers(policy, behaviour)
    return State(world, policy, behaviour, w, np.zeros_like(w), stream(seed, 1))


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64],
    h: NDArray[np.float64],
    x: Features,
    reward: float,
    discount: float,
    after: Features,
    ratio: float,
    alpha: float,
    beta: float,
    rule: int,
) -> None:
    """One step of both sets of weights; the discount is 0 at an end."""
    delta, fitted = td_error(w, x, reward, discount, after), value(h, x)
    add_to(w, x, 0, alpha * ratio * (fitted if rule == GTD2 else delta))
    if discount > 0:
        add_to(w, after, 0, -alpha * ratio * discount * fitted)
    add_to(h, x, 0, beta * ratio * (delta - fitted))


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    behaviour: Policy,
    w: NDArray[np.float64],
    h: NDArray[np.float64],
    gamma: float,
    alpha: float,
    beta: float,
    rule: int,
    random: Stream,
    steps: int,
) -> None:
    x = current(world)
    for _ in range(steps):
        a = act(world, behaviour, random)
        rho = chance(world, policy, a) / chance(world, behaviour, a)
        reward, after, terminated, truncated = step(world, a)
        update(w, h, x, reward, 0.0 if terminated else gamma, after, rho, alpha, beta, rule)
        x = after
        if terminated or truncated:
            x = reset(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run, gamma = loop_on(state.world, learn), discount_of(state.world, config)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(
            state.world, state.policy, state.behaviour, state.w, state.h, gamma, config.alpha, config.beta,
            RULES.index(config.rule), state.random, steps,
        )  # fmt: skip
        state.step += steps
        yield finished(state.world, episodes)
