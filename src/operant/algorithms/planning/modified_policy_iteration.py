"""Modified policy iteration (Puterman and Shin 1978): improve the policy rarely, evaluate it cheaply in between.

    v <- 0
    repeat
        improve     π <- greedy in v; v <- T v; bounds on V* from the changes of this sweep
        evaluate    v <- T_π v, until its changes differ far less than those of the improvement did
    until the bounds are close enough together

The rows of π are copied behind one another first, so that a sweep of evaluation reads no row of another action.
"""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from operant.mdp.backup import choose_rows, evaluate_policy
from operant.mdp.model import MDP
from operant.mdp.solution import (
    Metrics,
    Solution,
    certify,
    last,
    only_rounding,
    require_discount,
    solution,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    error: float = 1e-6
    """The largest distance from the optimal values that is accepted, in every state."""
    precision: float = 0.1
    """A policy is evaluated until its changes differ by this part of what the last improvement's did."""
    max_evaluations: int = 1000
    """Sweeps over one policy at most."""
    max_improvements: int = 10_000
    """Stop here if the error is not reached; the answer says so."""


@dataclasses.dataclass
class State:
    mdp: MDP = dataclasses.field(metadata={"saved": False})
    value: NDArray[np.float64]
    result: Solution | None = dataclasses.field(default=None, metadata={"saved": False})
    step: int = 0


def init(mdp: MDP, value: NDArray[np.float64] | None = None) -> State:
    """Starts from `value` (0 if not given). Raises InputError if γ is not below 1."""
    require_discount(mdp)
    start = np.zeros(mdp.states) if value is None else np.array(value, dtype=np.float64)
    start[mdp.end] = 0.0
    return State(mdp, start)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every improvement; `state.result` is the answer at the end."""
    mdp, started = state.mdp, time.perf_counter()
    out, greedy = np.empty(mdp.states), np.empty(mdp.states, dtype=np.int64)
    policy = _room(mdp)
    evaluations, before = 0.0, np.inf
    share = mdp.states / max(len(mdp.reward), 1)
    while state.result is None:
        shift, error = certify(mdp, state.value, out, greedy)
        state.value, out = out, state.value
        state.step += 1
        yield {"bound/error": error}
        stuck = error >= before and only_rounding(mdp, state.value, error)
        if error <= config.error or stuck or state.step >= config.max_improvements:
            sweeps = state.step + share * evaluations
            state.result = solution(mdp, state.value, greedy, shift, error, config.error, sweeps, started)
            return
        before = error
        choose_rows(greedy, mdp.start, mdp.next_state, mdp.probability, mdp.reward, *policy)
        spread = max(config.precision * error, config.error / 4) * 2 * (1 - mdp.gamma) / max(mdp.gamma, 1e-300)
        evaluations += evaluate_policy(*policy, mdp.gamma, state.value, out, spread, config.max_evaluations)


def _room(mdp: MDP) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float64], NDArray[np.float64]]:
    """Arrays for the rows of any policy: as many transitions as the longest row of each state has."""
    longest = np.zeros(mdp.states, dtype=np.int64)
    acting = np.flatnonzero(np.diff(mdp.first))
    if len(acting):
        longest[acting] = np.maximum.reduceat(np.diff(mdp.start), mdp.first[acting])
    size = int(longest.sum())
    return np.empty(mdp.states + 1, np.int64), np.empty(size, np.uint32), np.empty(size), np.empty(mdp.states)


def solve(mdp: MDP, config: Config | None = None, value: NDArray[np.float64] | None = None) -> Solution:
    """The answer in one call."""
    state = init(mdp, value)
    last(train(state, config or Config()))
    assert state.result is not None
    return state.result
