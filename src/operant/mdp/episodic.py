"""How far values can be from the optimum where there is no discount.

For γ = 1, let h >= 1 + P_π h for the greedy policy π, so at least its steps to an end, and T_π v >= v - c. Then
V* >= v - c h. And if u = v + ε h satisfies u >= T u + η with η > 0, then V* <= u, and every policy that may go on for
ever loses without limit: Σ_{k<n} r <= u - P^n u - n η (compare Bertsekas and Tsitsiklis 1991, proposition 1).
"""

import math

import numpy as np
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.mdp.backup import NO_COPY, NONE, optimal_backup
from operant.mdp.chain import MarkovChain, policy_reward_process
from operant.mdp.model import MDP

EPSILON = float(np.finfo(np.float64).eps)


def unit_of_rounding(mdp: MDP) -> float:
    """A sum of K products is off by at most K u of its terms' sizes, and a row of probabilities by K u from 1.

    What rows are mixtures of counts as terms too.
    """
    return (mdp.longest + mdp.mixed[0] + 4) * EPSILON


def rounding(mdp: MDP, value: NDArray[np.float64]) -> float:
    """How wrong value - T value may be; more than 0 even where nothing is paid."""
    return float(unit_of_rounding(mdp) * max(mdp.largest_reward + 2 * np.abs(value).max(initial=0.0), 1e-150))


def certify_episodic(
    mdp: MDP, value: NDArray[np.float64], steps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """For γ = 1: (v, error) such that |v - V*| <= error in every state; the error is inf where nothing can be proved.

    `steps` is a guess of the steps to an end under the slowest of the best policies. What follows from it is checked.
    """
    if not np.isfinite(steps).all():
        return value, math.inf
    going, out, greedy = ~mdp.end, np.empty(mdp.states), np.empty(mdp.states, dtype=np.int64)
    optimal_backup(mdp.rows, mdp.gamma, value, out, greedy, NO_COPY)
    after = mdp.matrix()[greedy[going]] @ steps
    shortest = float((steps[going] - after).min(initial=1.0)) - rounding(mdp, steps)
    if not (shortest > 0 and (steps[mdp.end] == 0).all() and (steps >= 0).all()):
        return value, math.inf
    h = steps / shortest
    lower = value - (max(0.0, float((value - out)[going].max(initial=0.0))) + rounding(mdp, value)) * h
    rise = max(0.0, float((out - value)[going].max(initial=0.0))) + rounding(mdp, value)
    for scale in (4, 64, 1024, 2**20):
        upper = value + scale * rise * h
        optimal_backup(mdp.rows, mdp.gamma, upper, out, NONE, NO_COPY)
        if (upper - out > 2 * rounding(mdp, upper))[going].all():
            return (lower + upper) / 2, float((upper - lower).max()) / 2 * (1 + 4 * EPSILON)
    return value, math.inf


def slowest_steps(mdp: MDP, value: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """[S]: steps to an end where, of the actions that are best in `value`, always the slowest is taken; inf = never."""
    owner = mdp.row_states()
    worth = mdp.reward + mdp.matrix() @ value
    top = np.full(mdp.states, -np.inf)
    np.maximum.at(top, owner, worth)
    # Rows that could be best as far as the values are known: to what a sweep still changes, and rounding.
    doubt = np.abs(top - value)[~mdp.end].max(initial=0.0) + rounding(mdp, value)
    best = np.union1d(np.flatnonzero(worth >= top[owner] - 2 * doubt), rows[rows >= 0])
    among = _rows_of(mdp, best)
    chosen = np.where(rows >= 0, np.searchsorted(best, rows), -1)
    going, out, greedy = ~mdp.end, np.empty(mdp.states), np.empty(mdp.states, dtype=np.int64)
    while True:
        process = policy_reward_process(among, np.where(going, among.action[chosen], -1))
        steps = process.chain.hitting_time(np.flatnonzero(mdp.end))
        if not np.isfinite(steps).all():
            return steps
        optimal_backup(among.rows, 1.0, steps, out, greedy, NO_COPY)
        slower = going & (out - steps > 1e-9 * (1 + steps))
        if not slower.any():
            return steps
        chosen = np.where(slower, greedy, chosen)


def require_loss(mdp: MDP, rows: NDArray[np.int64]) -> None:
    """Raise `InputError` if the policy of these rows can go on for ever and does not lose by it, step for step."""
    going = ~mdp.end
    process = policy_reward_process(mdp, np.where(going, mdp.action[rows], -1))
    label, closed = process.chain.classes()
    for kept in np.flatnonzero(closed):
        members = np.flatnonzero(label == kept)
        if mdp.end[members].any():
            continue
        inside = MarkovChain(process.chain.transition[members][:, members])
        gain, paid = inside.stationary() @ process.reward[members], np.abs(process.reward[members]).max()
        if gain >= -1e-12 * paid:
            raise endless()


def _rows_of(mdp: MDP, rows: NDArray[np.int64]) -> MDP:
    """The model with only these rows, each of which pays 1."""
    matrix, owner = mdp.matrix()[rows], mdp.row_states()[rows]
    first = np.searchsorted(owner, np.arange(mdp.states + 1))
    return MDP(first, mdp.action[rows], matrix.indptr, matrix.indices, matrix.data, np.ones(len(rows)), 1.0, mdp.end)


def endless() -> InputError:
    """What to say where nothing can be proved without a discount."""
    return InputError(
        "gamma is 1 and some policy can go on for ever without losing, so the optimal values cannot be proved: give a "
        "discount below 1, or a cost for every step"
    )


def rows_toward_ends(mdp: MDP, label: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """[S]: for each state a row that may lead one step closer to an end; -1 at ends.

    Raises `InputError` for a state from which no end can be reached, by the number of which `label` makes its own.
    """
    matrix, state = mdp.matrix() > 0, mdp.row_states()
    found, reached = np.full(mdp.states, -1), mdp.end.copy()
    while True:
        closer = (matrix @ reached.astype(np.float64) > 0) & ~reached[state]
        if not closer.any():
            break
        rows = np.flatnonzero(closer)[::-1]
        found[state[rows]] = rows
        reached[state[rows]] = True
    if not reached.all():
        lost = int(np.argmin(reached if label is None else reached[label]))
        raise InputError(
            f"gamma is 1 and from state {lost} no end can be reached, whatever is done: its value "
            "is no finite number. Give a discount below 1, or an end"
        )
    return found
