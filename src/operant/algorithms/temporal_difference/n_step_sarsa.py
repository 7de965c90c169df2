"""n-step SARSA (Sutton and Barto, section 7.2): n rewards as they came, then an estimate of the rest.

    repeat
        follow the ε-greedy policy
        G = r_1 + γ r_2 + ... + γ^(n-1) r_n + γ^n Q(s_n, a_n)                   (equation 7.4)
        Q(s_0, a_0) <- Q(s_0, a_0) + α [ G - Q(s_0, a_0) ]                       (equation 7.5)

with s_0 the state n steps ago. Where an episode ends within n steps, G stops there: with Q = 0 if it terminated, with
the value of the last state and action if it was only cut off. n = 1 is SARSA; an n longer than every episode is Monte
Carlo. `expected` puts Σ_a π(a | s_n) Q(s_n, a) in place of Q(s_n, a_n) (equation 7.8).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.episode import Episode, episode, forget, keep, kept
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, rate
from operant.core.errors import InputError
from operant.core.linear import epsilon_greedy, expected, toward, value_of
from operant.core.random import Stream
from operant.mdp.simulator import actions, current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Learning):
    n: int = 4
    """Rewards that are taken as they came."""
    expected: bool = False
    """Go on from the mean over the next action, not from the one that was drawn."""


@dataclasses.dataclass
class State:
    world: Any
    w: NDArray[np.float64]
    """[X, A]: Q(s, a) = w[:, a]·x(s)."""
    visits: NDArray[np.int64]
    random: Stream
    latest: Episode
    """A ring of the last n decisions; decision t is at t modulo n."""
    action: NDArray[np.int64]
    """[n + 1]: those of the ring, and what was chosen for the present state."""
    step: int = 0


def init(world: Any, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`."""
    if config.n < 1:
        raise InputError(f"n is {config.n}: give a whole number, 1 or more")
    w, visits, random = begin(world, config, seed)
    action = np.zeros(config.n + 1, dtype=np.int64)
    action[-1] = epsilon_greedy(w, current(world), actions(world), config.epsilon, random)
    return State(world, w, visits, random, episode(world, config.n), action)


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64], latest: Episode, action: NDArray[np.int64], first: int, last: float, rule: Rule
) -> None:
    """Q(s, a) += α [G - Q(s, a)] for decision `first`; `last` is the value of what followed the newest, 0 at an end."""
    n, g = len(latest.reward), last
    for i in range(latest.length[0] - 1, first - 1, -1):
        g = latest.reward[i % n] + rule.gamma * g
    x, a = kept(latest.x, first % n), action[first % n]
    toward(w, x, a, g, rate(rule, x, a))


@njit_loop
def learn(
    world: Any,
    w: NDArray[np.float64],
    rule: Rule,
    latest: Episode,
    action: NDArray[np.int64],
    mean: bool,
    steps: int,
) -> None:
    n, x, a = len(latest.reward), current(world), int(action[-1])
    for _ in range(steps):
        reward, after, terminated, truncated = step(world, a)
        epsilon, t = explore(rule), latest.length[0]
        action[t % n] = a
        keep(latest.x, t % n, x)
        latest.reward[t % n] = reward
        latest.length[0] = t + 1
        b, last = epsilon_greedy(w, after, actions(world), epsilon, rule.random), 0.0
        if not terminated:
            last = expected(w, after, actions(world), epsilon) if mean else value_of(w, after, b)
        over = terminated or truncated
        for first in range(max(0, t + 1 - n), t + 1 if over else t + 2 - n):
            update(w, latest, action, first, last, rule)
        x, a = after, b
        if over:
            forget(latest)
            x = reset(world)
            a = epsilon_greedy(w, x, actions(world), epsilon, rule.random)
    action[-1] = a


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run = loop_on(state.world, learn)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(state.world, state.w, config.rule(state), state.latest, state.action, config.expected, steps)
        state.step += steps
        yield finished(state.world, episodes)
