"""Finite horizons (Bellman 1957): so many steps and no more; solved backwards, exactly, with any discount.

    V_0(s) <- what the last state is worth, 0 if nothing is said
    for h = 1 ... H:   V_h(s) <- max_a [ r(s, a) + γ Σ_s' p(s' | s, a) V_{h-1}(s') ]

h counts the steps that are left, and the best action depends on it.
"""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.mdp.backup import NO_COPY, optimal_backup, quick_threads
from operant.mdp.model import MDP
from operant.mdp.solution import Metrics


@dataclasses.dataclass(frozen=True)
class Config:
    horizon: int = 100
    """Steps, H."""


@dataclasses.dataclass
class State:
    mdp: MDP = dataclasses.field(metadata={"saved": False})
    value: NDArray[np.float64]
    """[H + 1, S]: V_h in row h."""
    policy: NDArray[np.int64]
    """[H + 1, S]: the best action with h steps left, the lowest of equals; -1 at ends and where none are left."""
    step: int = 0


def init(mdp: MDP, config: Config, last: NDArray[np.float64] | None = None) -> State:
    """`last` [S] is what states are worth after the last step (0); ends are worth nothing.

    Raises InputError where the horizon is below 1 or `last` belongs to another model.
    """
    if config.horizon < 1:
        raise InputError(f"the horizon is {config.horizon}: give a whole number of steps, 1 or more")
    value = np.zeros((config.horizon + 1, mdp.states))
    if last is not None:
        if last.shape != (mdp.states,) or not np.isfinite(last).all():
            raise InputError(f"last has the shape {last.shape}; give {mdp.states} finite numbers, one a state")
        value[0] = np.where(mdp.end, 0.0, last)
    return State(mdp, value, np.full(value.shape, -1))


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every step."""
    mdp, greedy = state.mdp, np.empty(state.mdp.states, dtype=np.int64)
    with quick_threads(mdp.rows):
        while state.step < config.horizon:
            h = state.step + 1
            low, high = optimal_backup(mdp.rows, mdp.gamma, state.value[h - 1], state.value[h], greedy, NO_COPY)
            state.policy[h, ~mdp.end] = mdp.action[greedy[~mdp.end]]
            state.step = h
            yield {"bound/largest_change": max(abs(low), abs(high))}


@dataclasses.dataclass(frozen=True)
class Solution:
    """The best that can be had in each number of steps left."""

    value: NDArray[np.float64]
    """[H + 1, S]."""
    policy: NDArray[np.int64]
    """[H + 1, S]."""
    seconds: float


def solve(mdp: MDP, config: Config | None = None, last: NDArray[np.float64] | None = None) -> Solution:
    """The answer in one call."""
    config, started = config or Config(), time.perf_counter()
    state = init(mdp, config, last)
    for _ in train(state, config):
        pass
    return Solution(state.value, state.policy, time.perf_counter() - started)
