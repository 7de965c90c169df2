"""The off-line λ-return algorithm: at the end of the episode, a mean of all n-step returns for each state.

    repeat
        follow π to the end of the episode, with w unchanged
        from the last decision to the first
            G_t = r_t + γ [(1 - λ) v(s_{t+1}) + λ G_{t+1}]       (Sutton and Barto, equation 12.18)
        from the first decision to the last
            v(s_t) <- v(s_t) + α [ G_t - v(s_t) ]                (equation 12.4)

λ = 0 is TD(0) with the values of the episode's beginning, λ = 1 Monte Carlo. An episode that is cut off goes on, in the
return, with the value of the state it was cut at. On tensors the recurrence is `operant.core.returns.lambda_return`.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.episode import (
    Episode,
    episode,
    forget,
    go_to,
    kept,
    must_end,
    record,
    toward_targets,
)
from operant.algorithms.temporal_difference.prediction import Policy, act, value, weights
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.random import Stream, stream
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    alpha: float = 0.1
    """α: the step size; with features that of every weight."""
    lambda_: float = 0.9
    """λ: 0 = the values of the next states, 1 = all rewards to the end."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s)."""
    episode: Episode
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, config: Config, seed: int = 0) -> State:
    must_end(world)
    return State(world, policy, weights(world, config, policy), episode(world), stream(seed, 1))


@numba.njit(cache=True)
def lambda_returns(w: NDArray[np.float64], episode: Episode, gamma: float, lambda_: float, last: float) -> None:
    """target_t = r_t + γ [(1 - λ) v(s_{t+1}) + λ target_{t+1}]; both are `last` after the final decision."""
    following = g = last
    for t in range(episode.length[0] - 1, -1, -1):
        g = episode.reward[t] + gamma * ((1 - lambda_) * following + lambda_ * g)
        episode.target[t] = g
        following = value(w, kept(episode.x, t))


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    w: NDArray[np.float64],
    episode: Episode,
    gamma: float,
    lambda_: float,
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
            lambda_returns(w, episode, gamma, lambda_, 0.0 if terminated else value(w, after))
            toward_targets(w, episode, alpha)
            forget(episode)
            x = reset(world)
    return steps


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    gamma = discount_of(state.world, config)
    run = partial(
        loop_on(state.world, learn), state.world, state.policy, state.w, state.episode, gamma, config.lambda_,
        config.alpha, state.random,
    )  # fmt: skip
    while state.step < config.steps:
        due, episodes = state.step + config.until_report(state.step), int(state.world.place[2])
        go_to(due, state, run)
        yield finished(state.world, episodes)
