"""Q-learning (Watkins 1989): learn what the greedy policy is worth while following another one.

    repeat
        choose a ε-greedily in Q, observe r, s'
        Q(s, a) <- Q(s, a) + α [ r + γ max_a' Q(s', a') - Q(s, a) ]          (Sutton and Barto, equation 6.8)

where the maximum is 0 if the episode terminated at s', and counts where it was only cut off there.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, q_update, rate
from operant.core.linear import epsilon_greedy
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
    step: int = 0


def init(world: Any, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`."""
    return State(world, *begin(world, config, seed))


@njit_loop
def learn(world: Any, w: NDArray[np.float64], rule: Rule, steps: int) -> None:
    x, n = current(world), actions(world)
    for _ in range(steps):
        a = epsilon_greedy(w, x, n, explore(rule), rule.random)
        reward, after, terminated, truncated = step(world, a)
        n = actions(world)
        q_update(w, x, a, reward, 0.0 if terminated else rule.gamma, after, n, rate(rule, x, a))
        x = after
        if terminated or truncated:
            x = reset(world)
            n = actions(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run = loop_on(state.world, learn)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(state.world, state.w, config.rule(state), steps)
        state.step += steps
        yield finished(state.world, episodes)
