"""TD(0) (Sutton 1988): move each value towards the reward and the value of the state that follows.

    repeat
        act by π, observe r, s'
        v(s) <- v(s) + α [ r + γ v(s') - v(s) ]          (Sutton and Barto, equation 6.2)

With features, w <- w + α [ r + γ v(s') - v(s) ] x(s) (section 9.3, semi-gradient TD): the target is taken as given,
though it moves with w. The value is 0 where the episode terminated, and counts where it was only cut off.

The lectures' example: a step from S0 pays 1, all values are 0, α = 0.1 and γ = 1. At once, the value of S0 is 0.1:

>>> w = np.zeros((2, 1))
>>> update(w, 0, 1.0, 1.0, 1, alpha=0.1)
>>> float(w[0, 0])
0.1
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.prediction import Policy, act, td_error, weights
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.linear import Features, add_to
from operant.core.random import Stream, stream
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    alpha: float = 0.1
    """α: the step size; with features that of every weight."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s)."""
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`."""
    return State(world, policy, weights(world, config, policy), stream(seed, 1))


@numba.njit(cache=True)
def update(w: NDArray[np.float64], x: Features, reward: float, discount: float, after: Features, alpha: float) -> None:
    """v(s) += α [r + discount v(s') - v(s)]; the discount is 0 at an end."""
    add_to(w, x, 0, alpha * td_error(w, x, reward, discount, after))


@njit_loop
def learn(
    world: Any, policy: Policy, w: NDArray[np.float64], gamma: float, alpha: float, random: Stream, steps: int
) -> None:
    x = current(world)
    for _ in range(steps):
        reward, after, terminated, truncated = step(world, act(world, policy, random))
        update(w, x, reward, 0.0 if terminated else gamma, after, alpha)
        x = after
        if terminated or truncated:
            x = reset(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run, gamma = loop_on(state.world, learn), discount_of(state.world, config)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(state.world, state.policy, state.w, gamma, config.alpha, state.random, steps)
        state.step += steps
        yield finished(state.world, episodes)
