"""Least-squares Monte Carlo: the linear values with the least squared distance to all returns that were seen.

    A^-1 <- I / ridge, b <- 0
    repeat
        follow π to the end of the episode
        for its states s, with the returns G after them
            A <- A + x(s) x(s)ᵀ,  b <- b + G x(s)
    w = A^-1 b                                     (the minimum of Σ [G - w·x(s)]²; Sutton and Barto, section 9.3)

The rows enter as those of LSTD do, with x(s') = 0 and the return as reward. On a table this is batch Monte Carlo: each
value is the mean of its returns (section 6.3). An episode that is cut off goes on, in the return, with the value that
the state it was cut at had at the last report.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference import lstd
from operant.algorithms.temporal_difference.episode import (
    Episode,
    episode,
    forget,
    go_to,
    kept,
    must_end,
    record,
    returns,
)
from operant.algorithms.temporal_difference.prediction import Policy, act, value, weights
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.random import Stream, stream
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    ridge: float = 1e-3
    """What A begins with in each place of its diagonal; it draws values to 0, less the more is seen."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s), as of the last report."""
    inverse: NDArray[np.float64]
    """[X, X]: A^-1."""
    b: NDArray[np.float64]
    """[X, 1]."""
    room: NDArray[np.float64]
    """[X, 3]: where a step computes."""
    episode: Episode
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, config: Config, seed: int = 0) -> State:
    must_end(world)
    w = weights(world, config, policy)
    size = len(w)
    return State(
        world, policy, w, np.eye(size) / config.ridge, np.zeros_like(w), np.zeros((size, 3)), episode(world),
        stream(seed, 1),
    )  # fmt: skip


@numba.njit(cache=True)
def update(inverse: NDArray[np.float64], b: NDArray[np.float64], room: NDArray[np.float64], episode: Episode) -> None:
    """A += x xᵀ and b += target x for every decision of an episode, with A kept as its inverse."""
    for t in range(episode.length[0]):
        x = kept(episode.x, t)
        lstd.update(inverse, b, room[:, 2:], room[:, :2], x, episode.target[t], 0.0, x, 0.0)


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    w: NDArray[np.float64],
    inverse: NDArray[np.float64],
    b: NDArray[np.float64],
    room: NDArray[np.float64],
    episode: Episode,
    gamma: float,
    random: Stream,
    steps: int,
) -> int:
    """How many steps were taken: fewer if the record of the episode is full."""
    x = current(world)
    for taken in range(steps):
        if episode.length[0] == len(episode.reward):
            return taken
        reward, after, terminated, truncated = step(world, act(world, policy, random))
        record(episode, x, reward, 1.0)
        x = after
        if terminated or truncated:
            returns(episode, gamma, 0.0 if terminated else value(w, after))
            update(inverse, b, room, episode)
            forget(episode)
            x = reset(world)
    return steps


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    gamma = discount_of(state.world, config)
    run = partial(
        loop_on(state.world, learn), state.world, state.policy, state.w, state.inverse, state.b, state.room,
        state.episode, gamma, state.random,
    )  # fmt: skip
    while state.step < config.steps:
        due, episodes = state.step + config.until_report(state.step), int(state.world.place[2])
        go_to(due, state, run)
        state.w[:] = state.inverse @ state.b
        yield finished(state.world, episodes)
