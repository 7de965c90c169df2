"""SARSA (Rummery and Niranjan 1994): learn what the policy that is followed is worth, exploration included.

    choose a ε-greedily in Q
    repeat
        observe r, s'; choose a' ε-greedily in Q
        Q(s, a) <- Q(s, a) + α [ r + γ Q(s', a') - Q(s, a) ]          (Sutton and Barto, equation 6.7)
        s, a <- s', a'

where Q(s', a') is 0 if the episode terminated at s', and counts where it was only cut off there.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, rate
from operant.core.linear import Features, epsilon_greedy, toward, value_of
from operant.core.random import Stream
from operant.mdp.simulator import actions, current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Learning):
    pass


@dataclasses.dataclass
class State:
    world: Any
    w: NDArray[np.float64]
    """[X, A]: Q(s, a) = w[:, a]·x(s)."""
    visits: NDArray[np.int64]
    random: Stream
    action: NDArray[np.int64]
    """[1]: what was chosen for the present state."""
    step: int = 0


def init(world: Any, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`."""
    w, visits, random = begin(world, config, seed)
    a = epsilon_greedy(w, current(world), actions(world), config.epsilon, random)
    return State(world, w, visits, random, np.array([a]))


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64], x: Features, a: int, reward: float, discount: float, after: Features, b: int, alpha: float
) -> None:
    """Q(s, a) += α [r + discount Q(s', b) - Q(s, a)]; the discount is 0 at an end."""
    toward(w, x, a, reward + discount * value_of(w, after, b) if discount > 0 else reward, alpha)


@njit_loop
def learn(world: Any, w: NDArray[np.float64], rule: Rule, action: NDArray[np.int64], steps: int) -> None:
    x, a = current(world), int(action[0])
    for _ in range(steps):
        reward, after, terminated, truncated = step(world, a)
        epsilon = explore(rule)
        b = epsilon_greedy(w, after, actions(world), epsilon, rule.random)
        update(w, x, a, reward, 0.0 if terminated else rule.gamma, after, b, rate(rule, x, a))
        x, a = after, b
        if terminated or truncated:
            x = reset(world)
            a = epsilon_greedy(w, x, actions(world), epsilon, rule.random)
    action[0] = a


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run = loop_on(state.world, learn)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(state.world, state.w, config.rule(state), state.action, steps)
        state.step += steps
        yield finished(state.world, episodes)
