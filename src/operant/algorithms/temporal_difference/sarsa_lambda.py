"""SARSA(λ): every reward is credited to all decisions before it, the less the longer ago they were.

    choose a ε-greedily in Q; z <- 0
    repeat
        observe r, s'; choose a' ε-greedily in Q
        δ <- r + γ Q(s', a') - Q(s, a)
        z <- γ λ z + ∇Q(s, a)           accumulating traces (Sutton and Barto, equation 12.5, and section 12.7)
        w <- w + α δ z
        s, a <- s', a'; at the end of an episode z <- 0

Replacing traces (Singh and Sutton 1996): z is the feature where it is active, not the sum over visits. Dutch traces are
true online SARSA(λ) (van Seijen et al. 2016): z <- γ λ z + (1 - α γ λ z·∇Q) ∇Q and w <- w + α (δ + Q - Q') z -
α (Q - Q') ∇Q, with Q' what Q(s, a) was thought to be a step before; it equals the λ-return seen so far at every step.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, rate
from operant.core.errors import InputError
from operant.core.linear import Features, add_to, epsilon_greedy, value_of
from operant.core.random import Stream
from operant.core.traces import DUTCH, KINDS, Traces, fade, mark, spread, traces_of
from operant.mdp.simulator import actions, current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Learning):
    lambda_: float = 0.9
    """λ: how slowly credit fades; 0 = SARSA, 1 = Monte Carlo."""
    trace: Literal["accumulating", "replacing", "dutch"] = "replacing"
    """What happens to a trace at another visit; dutch = true online SARSA(λ)."""


@dataclasses.dataclass
class State:
    world: Any
    w: NDArray[np.float64]
    """[X, A]: Q(s, a) = w[:, a]·x(s)."""
    visits: NDArray[np.int64]
    random: Stream
    action: NDArray[np.int64]
    """[1]: what was chosen for the present state."""
    traces: Traces
    step: int = 0


def init(world: Any, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`."""
    if not 0 <= config.lambda_ <= 1:
        raise InputError(f"lambda_ is {config.lambda_}: give a number from 0 to 1")
    if config.trace not in KINDS:
        raise InputError(f"trace is {config.trace!r}: give one of {', '.join(KINDS)}")
    w, visits, random = begin(world, config, seed)
    a = epsilon_greedy(w, current(world), actions(world), config.epsilon, random)
    return State(world, w, visits, random, np.array([a]), traces_of(w))


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64],
    traces: Traces,
    x: Features,
    a: int,
    reward: float,
    discount: float,
    after: Features,
    b: int,
    decay: float,
    alpha: float,
    kind: int,
) -> None:
    """One step of the box above; the discount is 0 at an end, decay is γ λ, and `kind` a place in KINDS."""
    q, q_after = value_of(w, x, a), value_of(w, after, b) if discount > 0 else 0.0
    delta = reward + discount * q_after - q
    fade(traces, decay)
    mark(traces, x, a, alpha, kind)
    if kind == DUTCH:
        change = q - traces.before[0]
        spread(w, traces, alpha * (delta + change))
        add_to(w, x, a, -alpha * change)
        traces.before[0] = q_after
    else:
        spread(w, traces, alpha * delta)


@njit_loop
def learn(
    world: Any,
    w: NDArray[np.float64],
    rule: Rule,
    action: NDArray[np.int64],
    traces: Traces,
    lambda_: float,
    kind: int,
    steps: int,
) -> None:
    x, a = current(world), int(action[0])
    for _ in range(steps):
        reward, after, terminated, truncated = step(world, a)
        epsilon = explore(rule)
        b = epsilon_greedy(w, after, actions(world), epsilon, rule.random)
        discount, decay = 0.0 if terminated else rule.gamma, rule.gamma * lambda_
        update(w, traces, x, a, reward, discount, after, b, decay, rate(rule, x, a), kind)
        x, a = after, b
        if terminated or truncated:
            fade(traces, 0.0)
            x = reset(world)
            a = epsilon_greedy(w, x, actions(world), epsilon, rule.random)
    action[0] = a


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run, kind = loop_on(state.world, learn), KINDS.index(config.trace)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(state.world, state.w, config.rule(state), state.action, state.traces, config.lambda_, kind, steps)
        state.step += steps
        yield finished(state.world, episodes)
