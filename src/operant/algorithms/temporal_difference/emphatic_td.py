"""Emphatic TD(λ) (Sutton, Mahmood and White 2016): updates weighed so that off-policy TD is stable again.

    e <- 0, F <- 0 at the start of an episode
    repeat
        act by b, observe r, s';  ρ = π(a | s) / b(a | s);  δ = r + γ v(s') - v(s)
        F <- γ ρ_before F + 1                       (Sutton and Barto, section 11.8, with interest 1)
        M <- λ + (1 - λ) F
        e <- ρ [γλ e + M x(s)]
        w <- w + α δ e

F counts how much of the way that π would have taken led here, so that states are weighed as if π had been followed from
wherever b has been. It converges in the mean; F is a product of ratios, so the variance may be great.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.prediction import (
    Policy,
    act,
    add_all,
    chance,
    covers,
    shrink,
    td_error,
    weights,
)  # fmt: skip
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.linear import Features, add_to
from operant.core.random import Stream, stream
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    alpha: float = 0.01
    """α: the step size; with features that of every weight."""
    lambda_: float = 0.0
    """λ: how long a trace lasts; 0 = one step."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    behaviour: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s)."""
    e: NDArray[np.float64]
    """[X, 1]: the traces."""
    followed: NDArray[np.float64]
    """[1]: γ ρ F of the step before; 0 at the start of an episode."""
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, behaviour: Policy, config: Config, seed: int = 0) -> State:
    """`policy` is valued, `behaviour` acts. Raises `InputError` where that one leaves out what the other does."""
    w = weights(world, config, policy, behaviour)
    covers(policy, behaviour)
    return State(world, policy, behaviour, w, np.zeros_like(w), np.zeros(1), stream(seed, 1))


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64],
    e: NDArray[np.float64],
    followed: NDArray[np.float64],
    x: Features,
    reward: float,
    discount: float,
    after: Features,
    ratio: float,
    lambda_: float,
    gamma: float,
    alpha: float,
) -> None:
    """One step; the discount is 0 at an end, γ is not."""
    delta = td_error(w, x, reward, discount, after)
    f = followed[0] + 1
    shrink(e, ratio * gamma * lambda_)
    add_to(e, x, 0, ratio * (lambda_ + (1 - lambda_) * f))
    add_all(w, alpha * delta, e)
    followed[0] = gamma * ratio * f


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    behaviour: Policy,
    w: NDArray[np.float64],
    e: NDArray[np.float64],
    followed: NDArray[np.float64],
    gamma: float,
    lambda_: float,
    alpha: float,
    random: Stream,
    steps: int,
) -> None:
    x = current(world)
    for _ in range(steps):
        a = act(world, behaviour, random)
        rho = chance(world, policy, a) / chance(world, behaviour, a)
        reward, after, terminated, truncated = step(world, a)
        update(w, e, followed, x, reward, 0.0 if terminated else gamma, after, rho, lambda_, gamma, alpha)
        x = after
        if terminated or truncated:
            shrink(e, 0.0)
            followed[0] = 0.0
            x = reset(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run, gamma = loop_on(state.world, learn), discount_of(state.world, config)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(
            state.world, state.policy, state.behaviour, state.w, state.e, state.followed, gamma, config.lambda_,
            config.alpha, state.random, steps,
        )  # fmt: skip
        state.step += steps
        yield finished(state.world, episodes)
