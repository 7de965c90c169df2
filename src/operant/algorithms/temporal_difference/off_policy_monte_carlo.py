"""Off-policy Monte Carlo: values of π from episodes of another policy b, by importance sampling.

    repeat
        follow b to the end of the episode; ρ_t = π(a_t | s_t) / b(a_t | s_t), W_t = ρ_t ρ_{t+1} ⋯ ρ_{T-1}
        from the last decision to the first
            G_t = r_t + γ G_{t+1}
            ordinary        target W_t G_t, weight 1                           (Sutton and Barto, equation 5.5)
            weighted        target G_t, weight W_t                             (equation 5.6)
            per decision    target D_t = ρ_t (r_t + γ D_{t+1}), weight 1       (equations 5.13 and 5.14)
        v(s_t) <- v(s_t) + α weight [ target - v(s_t) ]

α = 0 stands for 1 / the sum of weights: v is then their weighted mean. With first visits, ordinary and per-decision
means are unbiased; weighted ones are biased, and vary far less. An episode that is cut off goes on, in the return, with
the value of the state it was cut at.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference import monte_carlo
from operant.algorithms.temporal_difference.episode import (
    Episode,
    forget,
    go_to,
    record,
    returns,
    toward_means,
)  # fmt: skip
from operant.algorithms.temporal_difference.prediction import Policy, act, chance, covers, fits, value
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, discount_of, finished
from operant.core.errors import InputError
from operant.core.random import Stream
from operant.mdp.simulator import current, reset, step

SAMPLINGS = ("ordinary", "weighted", "per_decision")
ORDINARY, WEIGHTED, PER_DECISION = range(3)


@dataclasses.dataclass(frozen=True)
class Config(monte_carlo.Config):
    sampling: Literal["ordinary", "weighted", "per_decision"] = "weighted"
    """What the ratios multiply: the return, its weight in the mean, or each reward."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    behaviour: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s)."""
    total: NDArray[np.float64]
    """[X, 1]: the sum of the weights of the returns of each state or group."""
    visited: NDArray[np.int64]
    """[S]: the last episode that each state was visited in, counted from 1; empty if every visit counts."""
    episode: Episode
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, behaviour: Policy, config: Config, seed: int = 0) -> State:
    """`policy` is valued, `behaviour` acts. Raises `InputError` where that one leaves out what the other does."""
    if config.sampling not in SAMPLINGS:
        raise InputError(f"sampling is {config.sampling!r}: give one of {', '.join(SAMPLINGS)}")
    fits(world, behaviour)
    covers(policy, behaviour)
    begun = monte_carlo.init(world, policy, config, seed)
    return State(world, policy, behaviour, begun.w, begun.total, begun.visited, begun.episode, begun.random)


@numba.njit(cache=True)
def targets(episode: Episode, gamma: float, last: float, sampling: int) -> None:
    """Targets of all decisions, and their weights in place of the ratios; `last` is the value of what came after."""
    if sampling != PER_DECISION:
        returns(episode, gamma, last)
    g, product = last, 1.0
    for t in range(episode.length[0] - 1, -1, -1):
        rho = episode.ratio[t]
        product *= rho
        g = rho * (episode.reward[t] + gamma * g)
        if sampling == WEIGHTED:
            episode.ratio[t] = product
        else:
            episode.target[t] = product * episode.target[t] if sampling == ORDINARY else g
            episode.ratio[t] = 1.0


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    behaviour: Policy,
    w: NDArray[np.float64],
    total: NDArray[np.float64],
    visited: NDArray[np.int64],
    episode: Episode,
    gamma: float,
    alpha: float,
    sampling: int,
    random: Stream,
    steps: int,
) -> int:
    """How many steps were taken: fewer if the record of the episode is full."""
    x = current(world)
    for taken in range(steps):
        if episode.length[0] == len(episode.reward):
            return taken
        a = act(world, behaviour, random)
        rho = chance(world, policy, a) / chance(world, behaviour, a)
        reward, after, terminated, truncated = step(world, a)
        record(episode, x, reward, rho)
        x = after
        if terminated or truncated:
            targets(episode, gamma, 0.0 if terminated else value(w, after), sampling)
            toward_means(w, total, visited, episode, alpha)
            forget(episode)
            x = reset(world)
    return steps


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    gamma = discount_of(state.world, config)
    run = partial(
        loop_on(state.world, learn), state.world, state.policy, state.behaviour, state.w, state.total,
        state.visited, state.episode, gamma, config.alpha, SAMPLINGS.index(config.sampling), state.random,
    )  # fmt: skip
    while state.step < config.steps:
        due, episodes = state.step + config.until_report(state.step), int(state.world.place[2])
        go_to(due, state, run)
        yield finished(state.world, episodes)
