"""Monte Carlo prediction: values are means of the returns that followed.

    repeat
        follow π to the end of the episode
        for its states s, with the returns G after them
            v(s) <- v(s) + α [ G - v(s) ]          (Sutton and Barto, equation 6.1; with features section 9.3)

α = 0 stands for 1 / visits: v is then the mean of all returns. With `visits` "first" only the first visit to a state in
each episode counts (section 5.1), which makes the mean unbiased; with "every", all do: less variance, some bias. An
episode that is cut off goes on, in the return, with the value of the state it was cut at.

The lectures' example: ten rewards from S0 on sum to 3, V(S0) is 0, α = 0.1 and γ = 1. After the episode V(S0) = 0.3:

>>> from operant.mdp.model import from_transitions
>>> from operant.mdp.simulator import simulator
>>> rewards = [1, 0, 0, 0, 0, 0, 1, 1, 0, 0]
>>> line = from_transitions(range(10), [0] * 10, range(1, 11), [1] * 10, rewards, gamma=1.0, ends=[10])
>>> config = Config(steps=10, alpha=0.1)
>>> state = init(simulator(line, 0), np.ones((11, 1)), config)
>>> finished = list(train(state, config))
>>> round(float(state.w[0, 0]), 3)
0.3
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.episode import (
    Episode,
    episode,
    forget,
    go_to,
    must_end,
    record,
    returns,
    toward_means,
)  # fmt: skip
from operant.algorithms.temporal_difference.prediction import (
    Policy,
    act,
    may_be_counted,
    value,
    weights,
)  # fmt: skip
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.errors import InputError
from operant.core.random import Stream, stream
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    alpha: float = 0.0
    """α: the step size; 0 = 1 / visits, for means of all returns."""
    visits: Literal["first", "every"] = "every"
    """Which visits of an episode to a state count."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s)."""
    total: NDArray[np.float64]
    """[X, 1]: how many returns each state or group has had."""
    visited: NDArray[np.int64]
    """[S]: the last episode that each state was visited in, counted from 1; empty if every visit counts."""
    episode: Episode
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, config: Config, seed: int = 0) -> State:
    """Raises `InputError` for first visits and for means where states are known by features."""
    must_end(world)
    w = weights(world, dataclasses.replace(config, alpha=config.alpha or 1.0), policy)
    if config.visits not in ("first", "every"):
        raise InputError(f'visits is "first" or "every", not {config.visits!r}')
    if config.visits == "first" and world.features is not None:
        raise InputError('visits is "first", and features do not say which state was visited: take "every"')
    if config.alpha == 0:
        may_be_counted(world)
    visited = np.zeros(len(w) if config.visits == "first" else 0, dtype=np.int64)
    return State(world, policy, w, np.zeros_like(w), visited, episode(world), stream(seed, 1))


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    w: NDArray[np.float64],
    total: NDArray[np.float64],
    visited: NDArray[np.int64],
    episode: Episode,
    gamma: float,
    alpha: float,
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
            toward_means(w, total, visited, episode, alpha)
            forget(episode)
            x = reset(world)
    return steps


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    gamma = discount_of(state.world, config)
    run = partial(
        loop_on(state.world, learn), state.world, state.policy, state.w, state.total, state.visited,
        state.episode, gamma, config.alpha, state.random,
    )  # fmt: skip
    while state.step < config.steps:
        due, episodes = state.step + config.until_report(state.step), int(state.world.place[2])
        go_to(due, state, run)
        yield finished(state.world, episodes)
