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

from operant.core.errors import InputError
from operant.mdp.backup import optimal_backup
from operant.mdp.chain import policy_reward_process
from operant.mdp.model import MDP
from operant.mdp.solution import Metrics, Solution, answer, certify, certify_episodic, solution


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


def init(mdp: MDP) -> State:
    """Raises InputError if γ = 1 and from some state no end can be reached."""
    rows = np.where(mdp.end, -1, mdp.first[:-1])
    if mdp.gamma == 1:
        toward = _toward_ends(mdp)
        if (lost := ~mdp.end & (toward < 0)).any():
            raise InputError(
                f"gamma is 1 and from state {int(np.argmax(lost))} no end can be reached, whatever is done: its value "
                "is no finite number. Give a discount below 1, or an end"
            )
        rows = toward
    return State(mdp, rows)


def _toward_ends(mdp: MDP) -> NDArray[np.int64]:
    """[S]: for each state a row that may lead one step closer to an end; -1 at ends and where there is none."""
    matrix, state = mdp.matrix() > 0, mdp.row_states()
    found, reached = np.full(mdp.states, -1), mdp.end.copy()
    while True:
        closer = (matrix @ reached.astype(np.float64) > 0) & ~reached[state]
        if not closer.any():
            return found
        rows = np.flatnonzero(closer)[::-1]
        found[state[rows]] = rows
        reached[state[rows]] = True


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
            raise _endless()
        value = process.value()
        optimal_backup(mdp.rows, mdp.gamma, value, out, greedy)
        state.step += 1
        # A gain that rounding could have made is none: policies of equal worth would follow one another for ever.
        better = going & (out - value > 1e-10 * (1 + np.abs(value)))
        yield {"policy/changed": float(better.sum()), "bound/largest_change": float(np.abs(out - value).max())}
        if not better.any() or state.step >= config.max_improvements:
            break
        state.rows = np.where(better, greedy, state.rows)
    if mdp.gamma < 1:
        shift, error = certify(mdp, value, out, greedy)
        answer = out
    else:
        (answer, error), shift = certify_episodic(mdp, value, _slowest(mdp, value, state.rows), greedy), 0.0
        greedy = state.rows
        if error == np.inf:
            raise _endless()
    state.result = solution(mdp, answer, greedy, shift, error, config.error, state.step + 1, started)


def _endless() -> InputError:
    return InputError(
        "gamma is 1 and some policy can go on for ever without losing, so the optimal values cannot be proved: give a "
        "discount below 1, or a cost for every step"
    )


def _slowest(mdp: MDP, value: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """[S]: steps to an end where, of the actions that are best in `value`, always the slowest is taken; inf = never."""
    owner = mdp.row_states()
    worth = mdp.reward + mdp.matrix() @ value
    best = np.flatnonzero(worth >= value[owner] - 1e-9 * (1 + np.abs(value[owner])))
    best = np.union1d(best, rows[rows >= 0])
    among = _rows_of(mdp, best)
    chosen = np.where(rows >= 0, np.searchsorted(best, rows), -1)
    going, out, greedy = ~mdp.end, np.empty(mdp.states), np.empty(mdp.states, dtype=np.int64)
    while True:
        process = policy_reward_process(among, np.where(going, among.action[chosen], -1))
        steps = process.chain.hitting_time(np.flatnonzero(mdp.end))
        if not np.isfinite(steps).all():
            return steps
        optimal_backup(among.rows, 1.0, steps, out, greedy)
        slower = going & (out - steps > 1e-9 * (1 + steps))
        if not slower.any():
            return steps
        chosen = np.where(slower, greedy, chosen)


def _rows_of(mdp: MDP, rows: NDArray[np.int64]) -> MDP:
    """The model with only these rows, each of which pays 1."""
    matrix, owner = mdp.matrix()[rows], mdp.row_states()[rows]
    first = np.searchsorted(owner, np.arange(mdp.states + 1))
    return MDP(first, mdp.action[rows], matrix.indptr, matrix.indices, matrix.data, np.ones(len(rows)), 1.0, mdp.end)


def solve(mdp: MDP, config: Config | None = None) -> Solution:
    """The answer in one call."""
    state = init(mdp)
    return answer(state, train(state, config or Config()))
