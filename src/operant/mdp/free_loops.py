"""States between which one can move for ever at no cost, made one.

Without a discount, such a set of states (an end component whose rows pay 0: de Alfaro 1997, section 3.2) hides the
optimum from every sweep: whatever its states are worth, they can go on being worth it. But all of them are worth the
same, since whoever is in one can first go to any other for nothing; and staying for ever is worth 0. So the set
becomes one state that keeps the rows by which it can be left, and gets one more that ends there and then for 0. The
optimum is the same (Haddad and Monmege 2018, for reaching a goal), and nobody can idle. Probabilities of a row are
taken to sum to exactly 1, whatever rounding made of their sum.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from operant.mdp.model import MDP


class Merged(NamedTuple):
    """A model without free loops, and how it comes from the one that has them."""

    mdp: MDP
    original: MDP
    label: NDArray[np.int64]
    """[S]: the state of `mdp` that each original state has become."""
    row: NDArray[np.int64]
    """[R']: the original row of each; -1 where it is to stay for ever."""
    inside: NDArray[np.int64]
    """The original rows that are the loops."""


def merge_free_loops(mdp: MDP) -> Merged | None:
    """None if there are no free loops."""
    component, inside = _components(mdp)
    if not len(inside):
        return None
    # Sets of states first, then the others, then one end for those who stay for ever.
    sets = int(component.max()) + 1
    alone = component < 0
    label = np.where(alone, sets + np.cumsum(alone) - 1, component)
    states = sets + int(alone.sum()) + 1
    kept = np.ones(len(mdp.action), dtype=bool)
    kept[inside] = False
    row = np.concatenate([np.flatnonzero(kept), np.full(sets, -1)])
    owner = np.concatenate([label[mdp.row_states()[kept]], np.arange(sets)])
    order = np.argsort(owner, kind="stable")
    row, owner = row[order], owner[order]
    first = np.searchsorted(owner, np.arange(states + 1))
    action = np.arange(len(row)) - first[owner]
    matrix = mdp.matrix()
    stay = sparse.csr_array((np.ones(sets), (np.arange(sets), np.full(sets, states - 1))), shape=(sets, states))
    to = sparse.csr_array((np.ones(mdp.states), (np.arange(mdp.states), label)), shape=(mdp.states, states))
    moves = sparse.csr_array(sparse.vstack([matrix[np.flatnonzero(kept)] @ to, stay]))[order]
    moves.sort_indices()
    reward = np.where(row >= 0, mdp.reward[row], 0.0)
    end = np.zeros(states, dtype=bool)
    end[label[mdp.end]] = end[-1] = True
    # Chances to reach several states of a set are added up, which bounds must know of.
    mixed = mdp.mixed[0] + mdp.longest, mdp.mixed[1]
    merged = MDP(first, action, moves.indptr, moves.indices, moves.data, reward, mdp.gamma, end, mixed=mixed)
    return Merged(merged, mdp, label, row, inside)


def _components(mdp: MDP) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """([S] the number of each state's free loops, -1 where it has none; the rows that never leave them)."""
    matrix, owner = mdp.matrix(), mdp.row_states()
    rows = np.flatnonzero(mdp.reward == 0)
    while True:
        steps = (
            sparse.csr_array((np.ones(len(rows)), (owner[rows], np.arange(len(rows)))), shape=(mdp.states, len(rows)))
            @ matrix[rows]
        )
        label = csgraph.connected_components(steps, connection="strong")[1]
        # A row stays if all its successors are in the set of its own state, which then has a way back from each.
        transitions = matrix[rows].tocoo()
        leaves = label[transitions.coords[1]] != label[owner[rows][transitions.coords[0]]]
        leaves &= transitions.data > 0
        going = np.ones(len(rows), dtype=bool)
        going[transitions.coords[0][leaves]] = False
        if going.all():
            break
        rows = rows[going]
    component = np.full(mdp.states, -1)
    found, number = np.unique(label[owner[rows]], return_inverse=True)
    component[owner[rows]] = number if len(found) else -1
    return component, rows


def expand(
    merged: Merged, value: NDArray[np.float64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(value [S], policy [S]) of the original model, from the values of the merged one and the rows that it chose.

    In a free loop the policy goes to the state whose row leaves it, or round and round where staying is best.
    """
    mdp, loops, matrix = merged.original, merged.inside, merged.original.matrix()
    owner, states = mdp.row_states(), np.arange(mdp.states)
    chosen = np.where(rows[merged.label] >= 0, merged.row[rows[merged.label]], -1)
    inside = np.zeros(mdp.states, dtype=bool)
    inside[owner[loops]] = True
    there = ~inside | ((chosen >= 0) & (owner[chosen] == states))
    way = np.where(there, chosen, -1)
    # Backwards from the states that leave; where nobody does, any row of the loop will do.
    while not there.all():
        closer = (matrix[loops] @ there.astype(np.float64) > 0) & ~there[owner[loops]]
        if not closer.any():
            closer = ~there[owner[loops]]
        found = loops[closer][::-1]
        way[owner[found]] = found
        there[owner[found]] = True
    return value[merged.label], np.where(way >= 0, mdp.action[way], -1).astype(np.int64)
