"""Modified policy iteration (Puterman and Shin 1978): improve the policy rarely, evaluate it cheaply in between.

    v <- max_a r(·, a)
    repeat
        improve     π <- greedy in v; v <- T v; bounds on V* from the changes of this sweep
        evaluate    v <- T_π v, until its changes differ far less than those of the improvement did
    until the bounds are close enough together

How far less: by the share of states in which π is new. A policy that has nearly settled is worth evaluating well. Its
rows are copied behind one another, so that a sweep of evaluation reads no row of another action.
"""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from operant.mdp.backup import NO_COPY, Rows, evaluate_policy, quick_threads, read_only_rows
from operant.mdp.model import MDP
from operant.mdp.solution import (
    Metrics,
    Solution,
    State,
    answer,
    begin,
    certify,
    only_rounding,
    require_discount,
    shifted,
    solution,
)


@dataclasses.dataclass(frozen=True)
class Config:
    error: float = 1e-6
    """The largest distance from the optimal values that is accepted, in every state."""
    precision: float = 0.5
    """A policy is evaluated until its changes differ by this part of what the last improvement's did, or by a smaller
    part where its actions are new in a smaller share of states."""
    max_evaluations: int = 1000
    """Sweeps over one policy at most."""
    max_improvements: int = 10_000
    """Stop here if the error is not reached; the answer says so."""


def init(mdp: MDP, value: NDArray[np.float64] | None = None) -> State:
    """Starts from `value`; if that is not given, from what one step pays at most.

    Raises InputError if γ is not below 1.
    """
    require_discount(mdp)
    return begin(mdp, value)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every improvement; `state.result` is the answer at the end."""
    mdp, started = state.mdp, time.perf_counter()
    out, greedy, room = np.empty(mdp.states), np.full(mdp.states, -1), _room(mdp)
    policy = read_only_rows(room)
    evaluations, before = 0.0, np.inf
    share = mdp.states / max(len(mdp.reward), 1)
    with quick_threads(mdp.rows):
        while state.result is None:
            held = greedy.copy()
            shift, error = certify(mdp, state.value, out, greedy, room)
            state.value, out = out, state.value
            state.step += 1
            yield {"bound/error": error}
            stuck = error >= before and only_rounding(mdp, state.value, error)
            if error <= config.error or stuck or state.step >= config.max_improvements:
                sweeps = state.step + share * evaluations
                best = shifted(mdp, state.value, shift)
                state.result = solution(mdp, best, greedy, error, config.error, sweeps, started)
                return
            before = error
            part = min(config.precision, max(float((greedy != held).mean()), 1e-4))
            spread = max(part * error, config.error / 4) * 2 * (1 - mdp.gamma) / max(mdp.gamma, 1e-300)
            evaluations += evaluate_policy(policy, mdp.gamma, state.value, out, spread, config.max_evaluations, NO_COPY)


def _room(mdp: MDP) -> Rows:
    """For the rows of any policy: a place in each state for its longest row. They pay 0 and lead nowhere as yet."""
    states, width = mdp.states, 0 if mdp.end.any() else mdp.rows.width
    longest = np.full(states, width)
    if not width and len(acting := np.flatnonzero(np.diff(mdp.first))):
        longest[acting] = np.maximum.reduceat(np.diff(mdp.start), mdp.first[acting])
    start = np.concatenate([[0], np.cumsum(longest)])
    next_state, probability = np.zeros(start[-1], np.uint32), np.zeros(start[-1])
    return Rows(np.arange(states + 1), start, next_state, probability, np.zeros(states), width)


def solve(mdp: MDP, config: Config | None = None, value: NDArray[np.float64] | None = None) -> Solution:
    """The answer in one call."""
    state = init(mdp, value)
    return answer(state, train(state, config or Config()))
