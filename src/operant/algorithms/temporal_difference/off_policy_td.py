"""Off-policy semi-gradient TD(λ): values of π from steps of another policy b.

    e <- 0 at the start of an episode
    repeat
        act by b, observe r, s';  ρ = π(a | s) / b(a | s);  δ = r + γ v(s') - v(s)
        e <- e + x(s)
        w <- w + α ρ δ e                   (λ = 0: equation 11.2 of Sutton and Barto; else 12.7 with 12.25)
        e <- γλ ρ e

The ratio of a step multiplies its own TD error and, through the trace, all later ones. A table converges; with features
this can diverge, as on Baird's counterexample (section 11.2): use gradient TD or emphatic TD there.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.prediction import Policy, act, chance, covers, td_error, weights
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.linear import Features
from operant.core.random import Stream, stream
from operant.core.traces import ACCUMULATING, Traces, fade, mark, spread, traces_of
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    alpha: float = 0.1
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
    traces: Traces
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, behaviour: Policy, config: Config, seed: int = 0) -> State:
    """`policy` is valued, `behaviour` acts. Raises `InputError` where that one leaves out what the other does."""
    w = weights(world, config, policy, behaviour)
    covers(policy, behaviour)
    return State(world, policy, behaviour, w, traces_of(w), stream(seed, 1))


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64],
    traces: Traces,
    x: Features,
    reward: float,
    discount: float,
    after: Features,
    ratio: float,
    decay: float,
    alpha: float,
) -> None:
    """One step of the box above, where `decay` is γλ; the discount is 0 at an end."""
    mark(traces, x, 0, alpha, ACCUMULATING)
    spread(w, traces, alpha * ratio * td_error(w, x, reward, discount, after))
    fade(traces, decay * ratio)


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    behaviour: Policy,
    w: NDArray[np.float64],
    traces: Traces,
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
        update(w, traces, x, reward, 0.0 if terminated else gamma, after, rho, gamma * lambda_, alpha)
        x = after
        if terminated or truncated:
            fade(traces, 0.0)
            x = reset(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run, gamma = loop_on(state.world, learn), discount_of(state.world, config)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(
            state.world, state.policy, state.behaviour, state.w, state.traces, gamma, config.lambda_, config.alpha,
            state.random, steps,
        )  # fmt: skip
        state.step += steps
        yield finished(state.world, episodes)
