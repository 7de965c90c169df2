"""Expected SARSA (van Seijen et al. 2009): the mean over the next action in place of one that was drawn.

    repeat
        choose a ε-greedily in Q, observe r, s'
        Q(s, a) <- Q(s, a) + α [ r + γ Σ_a' π(a' | s') Q(s', a') - Q(s, a) ]          (Sutton and Barto, equation 6.9)

π is the policy that is followed, so that the mean update is SARSA's, without the noise of a'. With another ε for π it
learns off its policy: with 0, π is greedy and this is Q-learning.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, rate
from operant.core.errors import InputError
from operant.core.linear import Features, epsilon_greedy, expected, toward
from operant.core.random import Stream
from operant.mdp.simulator import actions, current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Learning):
    target_epsilon: float | None = None
    """ε of the policy that is valued; none = of the one that is followed, 0 = Q-learning."""


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
    if config.target_epsilon is not None and not 0 <= config.target_epsilon <= 1:
        raise InputError(f"target_epsilon is {config.target_epsilon}: give a number from 0 to 1")
    return State(world, *begin(world, config, seed))


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64],
    x: Features,
    a: int,
    reward: float,
    discount: float,
    after: Features,
    n: int,
    epsilon: float,
    alpha: float,
) -> None:
    """Q(s, a) += α [r + discount Σ_a' π(a' | s') Q(s', a') - Q(s, a)], where s' has n actions."""
    toward(w, x, a, reward + discount * expected(w, after, n, epsilon) if discount > 0 else reward, alpha)


@njit_loop
def learn(world: Any, w: NDArray[np.float64], rule: Rule, target_epsilon: float, steps: int) -> None:
    """`target_epsilon` below 0: that of the policy that is followed."""
    x, n = current(world), actions(world)
    for _ in range(steps):
        epsilon = explore(rule)
        a = epsilon_greedy(w, x, n, epsilon, rule.random)
        reward, after, terminated, truncated = step(world, a)
        n = actions(world)
        valued = epsilon if target_epsilon < 0 else target_epsilon
        update(w, x, a, reward, 0.0 if terminated else rule.gamma, after, n, valued, rate(rule, x, a))
        x = after
        if terminated or truncated:
            x = reset(world)
            n = actions(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run = loop_on(state.world, learn)
    valued = -1.0 if config.target_epsilon is None else config.target_epsilon
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(state.world, state.w, config.rule(state), valued, steps)
        state.step += steps
        yield finished(state.world, episodes)
