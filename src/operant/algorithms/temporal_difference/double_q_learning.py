"""Double Q-learning (van Hasselt 2010): one table chooses the best action, another says what it is worth.

    repeat
        choose a ε-greedily in Q1 + Q2, observe r, s'
        with chance 1/2   Q1(s, a) <- Q1(s, a) + α [ r + γ Q2(s', argmax_a' Q1(s', a')) - Q1(s, a) ]
        else              the same with Q1 and Q2 exchanged          (Sutton and Barto, equation 6.10)

The largest of several noisy estimates is too large on average. Here the noise of the choice is not the noise of the
value, so what is learned is not too large; it may be too small.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, rate
from operant.core.linear import Features, add_to, epsilon_greedy, greedy, value_of
from operant.core.random import Stream, below
from operant.mdp.simulator import actions, current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Learning):
    pass


@dataclasses.dataclass
class State:
    world: Any
    w: NDArray[np.float64]
    """[X, A]: the mean of the two, which the policy is greedy in."""
    visits: NDArray[np.int64]
    random: Stream
    first: NDArray[np.float64]
    """[X, A]: Q1."""
    second: NDArray[np.float64]
    step: int = 0


def init(world: Any, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`."""
    w, visits, random = begin(world, config, seed)
    return State(world, w, visits, random, w.copy(), w.copy())


@numba.njit(cache=True)
def update(
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    mean: NDArray[np.float64],
    x: Features,
    a: int,
    reward: float,
    discount: float,
    after: Features,
    n: int,
    alpha: float,
    random: Stream,
) -> None:
    """Q1(s, a) += α [r + discount Q2(s', argmax Q1(s', ·)) - Q1(s, a)], where s' has n actions, and the mean alike."""
    target = reward
    if discount > 0:
        target += discount * value_of(other, after, greedy(own, after, n, random))
    change = alpha * (target - value_of(own, x, a))
    add_to(own, x, a, change)
    add_to(mean, x, a, change / 2)


@njit_loop
def learn(
    world: Any,
    w: NDArray[np.float64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    rule: Rule,
    steps: int,
) -> None:
    x, n = current(world), actions(world)
    for _ in range(steps):
        a = epsilon_greedy(w, x, n, explore(rule), rule.random)
        reward, after, terminated, truncated = step(world, a)
        n = actions(world)
        discount, alpha = 0.0 if terminated else rule.gamma, rate(rule, x, a)
        if below(rule.random, 2) == 0:
            update(first, second, w, x, a, reward, discount, after, n, alpha, rule.random)
        else:
            update(second, first, w, x, a, reward, discount, after, n, alpha, rule.random)
        x = after
        if terminated or truncated:
            x = reset(world)
            n = actions(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run = loop_on(state.world, learn)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(state.world, state.w, state.first, state.second, config.rule(state), steps)
        state.step += steps
        yield finished(state.world, episodes)
