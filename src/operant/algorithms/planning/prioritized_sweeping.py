"""Prioritised sweeping (Moore and Atkeson 1993): back up the state whose value would change most.

    repeat
        s <- the most urgent state
        v(s) <- max_a [ r(s, a) + γ Σ_s' p(s' | s, a) v(s') ], which changes it by δ
        for predecessors s0 of s:   urgency(s0) <- urgency(s0) + γ max_a p(s | s0, a) |δ|
    until no state is urgent and one full sweep proves that v is close enough to V*

Where rewards are rare it follows what they change, and leaves the rest alone. It needs no discount where every policy
ends, or loses by going on.
"""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from operant.core.heap import heap
from operant.mdp.backup import NO_COPY, NONE, optimal_backup
from operant.mdp.episodic import endless
from operant.mdp.model import MDP
from operant.mdp.priority import predecessors, prioritized_backups, refill
from operant.mdp.solution import Metrics, Solution, State, answer, begin, prove, solution, unchanged


@dataclasses.dataclass(frozen=True)
class Config:
    error: float = 1e-6
    """The largest distance from the optimal values that is accepted, in every state."""
    max_sweeps: int = 1_000_000
    """Stop here if that is not reached, counting a sweep for as many backups as there are states."""


def init(mdp: MDP, value: NDArray[np.float64] | None = None) -> State:
    """Starts from `value`; if that is not given, from what one step pays at most.

    Raises InputError if γ = 1 and from some state no end can be reached.
    """
    return begin(mdp, value)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after as many backups as there are states; `state.result` is the answer at the end.

    Raises InputError if γ = 1 and a policy that may never end does not lose by it.
    """
    mdp, started, backups = state.mdp, time.perf_counter(), 0
    out, greedy = np.empty(mdp.states), np.empty(mdp.states, dtype=np.int64)
    waiting, before = heap(mdp.states), predecessors(mdp)
    least = config.error * max(1 - mdp.gamma, 1e-2)
    while state.result is None:
        optimal_backup(mdp.rows, mdp.gamma, state.value, out, NONE, NO_COPY)
        urgency = np.abs(out - state.value)
        change = float(urgency.max(initial=0.0))
        refill(waiting, urgency, least)
        state.step += 1
        while waiting.count[0] > 0 and state.step < config.max_sweeps - 1:
            backups += prioritized_backups(
                mdp.rows, mdp.gamma, state.value, before, urgency, waiting, least, mdp.states
            )
            state.step += 1
            yield {"bound/largest_change": float(urgency.max(initial=0.0))}
            # Bounds may be close while states are still urgent: look after 8, 16, 32 ... sweeps too.
            if state.step >= 8 and state.step.bit_count() == 1:
                break
        value, error = prove(mdp, state.value, out, greedy)
        yield {"bound/error": error}
        still = unchanged(state.value, change)
        if still and error == np.inf and mdp.gamma == 1:
            raise endless()
        if error <= config.error or still or state.step >= config.max_sweeps - 1:
            sweeps = backups / mdp.states + 2
            state.result = solution(mdp, value, greedy, error, config.error, sweeps, started, state.merged)
        elif mdp.gamma < 1:
            state.value = value
        if waiting.count[0] == 0:
            least /= 10


def solve(mdp: MDP, config: Config | None = None, value: NDArray[np.float64] | None = None) -> Solution:
    """The answer in one call."""
    state = init(mdp, value)
    return answer(state, train(state, config or Config()))
