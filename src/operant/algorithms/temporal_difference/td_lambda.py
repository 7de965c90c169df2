"""TD(λ) with eligibility traces (Sutton 1988): each TD error also moves the values of the states before.

    e <- 0 at the start of an episode
    repeat
        act by π, observe r, s';  δ = r + γ v(s') - v(s)
        accumulating    e <- γλ e + x(s)                            (Sutton and Barto, equation 12.5)
        replacing       e <- γλ e;  e_i <- x_i(s) where x_i(s) ≠ 0  (equation 12.12)
        dutch           e <- γλ e + [1 - αγλ e·x(s)] x(s)           (equation 12.11)
        w <- w + α δ e                                              (equation 12.7)

Dutch traces are those of true online TD(λ) (van Seijen et al. 2016), whose update has a second part,

        w <- w + α [δ + v(s) - v_old] e - α [v(s) - v_old] x(s)

with v_old the value that s had when it was reached, before w changed. It equals, at each step, the λ-return algorithm
that does all its updates anew whenever there is one more reward. λ = 0 is TD(0) with every trace.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.prediction import Policy, act, td_error, value, weights
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.errors import InputError
from operant.core.linear import Features, add_to
from operant.core.random import Stream, stream
from operant.core.traces import DUTCH, KINDS, Traces, fade, mark, spread, traces_of
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    alpha: float = 0.1
    """α: the step size; with features that of every weight."""
    lambda_: float = 0.9
    """λ: how long a trace lasts; 0 = TD(0), 1 = Monte Carlo."""
    trace: Literal["accumulating", "replacing", "dutch"] = "dutch"
    """What another visit does to a trace; dutch = true online TD(λ)."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s)."""
    traces: Traces
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, config: Config, seed: int = 0) -> State:
    """Raises `InputError` for a trace of another name."""
    if config.trace not in KINDS:
        raise InputError(f"trace is {config.trace!r}: give one of {', '.join(KINDS)}")
    w = weights(world, config, policy)
    return State(world, policy, w, traces_of(w), stream(seed, 1))


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64],
    traces: Traces,
    x: Features,
    reward: float,
    discount: float,
    after: Features,
    decay: float,
    alpha: float,
    kind: int,
) -> None:
    """One step of the box above, where `decay` is γλ; the discount is 0 at an end."""
    delta = td_error(w, x, reward, discount, after)
    fade(traces, decay)
    mark(traces, x, 0, alpha, kind)
    if kind == DUTCH:
        moved, reached = value(w, x) - traces.before[0], value(w, after) if discount > 0 else 0.0
        spread(w, traces, alpha * (delta + moved))
        add_to(w, x, 0, -alpha * moved)
        traces.before[0] = reached
    else:
        spread(w, traces, alpha * delta)


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    w: NDArray[np.float64],
    traces: Traces,
    gamma: float,
    lambda_: float,
    alpha: float,
    kind: int,
    random: Stream,
    steps: int,
) -> None:
    x = current(world)
    for _ in range(steps):
        reward, after, terminated, truncated = step(world, act(world, policy, random))
        update(w, traces, x, reward, 0.0 if terminated else gamma, after, gamma * lambda_, alpha, kind)
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
            state.world, state.policy, state.w, state.traces, gamma, config.lambda_, config.alpha,
            KINDS.index(config.trace), state.random, steps,
        )  # fmt: skip
        state.step += steps
        yield finished(state.world, episodes)
