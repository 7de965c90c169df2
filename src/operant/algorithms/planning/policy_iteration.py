"""Policy iteration (Howard 1960): evaluate a policy exactly, improve it, until no action is better.

    π <- a policy that reaches an end if one can be reached, else the first actions
    repeat
        evaluate    v <- (I - γ P_π)^-1 r_π
        improve     π(s) <- argmax_a [ r(s, a) + γ Σ_s' p(s' | s, a) v(s') ], where that is better than π(s)
    until nothing changes; then one full sweep proves how far v can be from V*

It needs few rounds, and works without a discount too, where every policy ends or one that does not loses for ever. A
round solves a linear system: for models of many thousand states take modified policy iteration.
"""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from operant.mdp.backup import NO_COPY, optimal_backup
from operant.mdp.chain import policy_reward_process
from operant.mdp.episodic import certify_episodic, endless, rounding, rows_toward_ends, slowest_steps
from operant.mdp.free_loops import Merged, merge_free_loops
from operant.mdp.model import MDP
from operant.mdp.solution import Metrics, Solution, answer, certify, shifted, solution


@dataclasses.dataclass(frozen=True)
class Config:
    error: float = 1e-6
    """The largest distance from the optimal values that is accepted, in every state."""
    max_improvements: int = 1000
    """Stop here if the policy still changes; the answer says what it is worth."""


@dataclasses.dataclass
class State:
    mdp: MDP = dataclasses.field(metadata={"saved": False})
    rows: NDArray[np.int64]
    """[S]: the row that the policy chooses in each state, -1 at ends."""
    result: Solution | None = dataclasses.field(default=None, metadata={"saved": False})
    step: int = 0
    merged: Merged | None = dataclasses.field(default=None, metadata={"saved": False})
    """How `mdp` comes from the model that was given, where free loops were merged."""


def init(mdp: MDP) -> State:
    """Raises InputError if γ = 1 and from some state no end can be reached."""
    if mdp.gamma < 1:
        return State(mdp, np.where(mdp.end, -1, mdp.first[:-1]))
    merged = merge_free_loops(mdp)
    if merged is None:
        return State(mdp, rows_toward_ends(mdp))
    return State(merged.mdp, rows_toward_ends(merged.mdp, merged.label), merged=merged)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every improvement; `state.result` is the answer at the end.

    Raises InputError if γ = 1 and a policy that may never end does not lose by it.
    """
    mdp, started = state.mdp, time.perf_counter()
    out, greedy = np.empty(mdp.states), np.empty(mdp.states, dtype=np.int64)
    going = ~mdp.end
    while True:
        process = policy_reward_process(mdp, np.where(going, mdp.action[state.rows], -1))
        if mdp.gamma == 1 and not np.isfinite(process.chain.hitting_time(np.flatnonzero(mdp.end))).all():
            raise endless()
        value = process.value()
        optimal_backup(mdp.rows, mdp.gamma, value, out, greedy, NO_COPY)
        state.step += 1
        # A gain that rounding could have made is none: policies of equal worth would follow one another for ever.
        missed = np.abs(process.reward + mdp.gamma * (process.chain.transition @ value) - value)[going]
        better = going & (out - value > 4 * (missed.max(initial=0.0) + rounding(mdp, value)))
        yield {"policy/changed": float(better.sum()), "bound/largest_change": float(np.abs(out - value).max())}
        if not better.any() or state.step >= config.max_improvements:
            break
        state.rows = np.where(better, greedy, state.rows)
    if mdp.gamma < 1:
        shift, error = certify(mdp, value, out, greedy)
        value = shifted(mdp, out, shift)
    else:
        value, error = certify_episodic(mdp, value, slowest_steps(mdp, value, state.rows))
        greedy = state.rows
        if error == np.inf:
            raise endless()
    state.result = solution(mdp, value, greedy, error, config.error, state.step + 1, started, state.merged)


def solve(mdp: MDP, config: Config | None = None) -> Solution:
    """The answer in one call."""
    state = init(mdp)
    return answer(state, train(state, config or Config()))
