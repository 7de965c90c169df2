"""Sweeps that follow the most urgent state, compiled.

A backup that changes v(s') by δ can change those of its predecessors s by γ max_a p(s' | s, a) |δ| at most. Sums of
these since a state's last backup bound how much it would change, so an empty queue means that no state would by more
than the least urgency that was let in.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import njit_loop
from operant.core.heap import Heap, pop, push
from operant.mdp.backup import Rows, backup_state
from operant.mdp.model import MDP


class Predecessors(NamedTuple):
    """From which states each state can be reached in a step, as in a CSR matrix."""

    start: NDArray[np.int64]
    state: NDArray[np.int64]
    chance: NDArray[np.float64]
    """max_a p(s' | s, a)."""


def predecessors(mdp: MDP) -> Predecessors:
    """Those of every state of a model."""
    table = mdp.matrix().tocoo()
    source, target = mdp.row_states()[table.coords[0]], table.coords[1].astype(np.int64)
    order = np.lexsort((source, target))
    source, target, chance = source[order], target[order], np.asarray(table.data, dtype=np.float64)[order]
    new = np.ones(len(source), dtype=bool)
    new[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
    at = np.flatnonzero(new)
    largest = np.maximum.reduceat(chance, at) if len(at) else chance
    return Predecessors(np.searchsorted(target[at], np.arange(mdp.states + 1)), source[at], largest)


@njit_loop
def refill(waiting: Heap, urgency: NDArray[np.float64], least: float) -> None:
    """Let every state wait that is more urgent than `least`, and no other."""
    waiting.count[0] = 0
    waiting.place[:] = -1
    for s in range(len(urgency)):
        if urgency[s] > least:
            push(waiting, s, urgency[s])


@njit_loop
def prioritized_backups(
    rows: Rows,
    gamma: float,
    value: NDArray[np.float64],
    before: Predecessors,
    urgency: NDArray[np.float64],
    waiting: Heap,
    least: float,
    most: int,
) -> int:
    """Back up the most urgent state, `most` times or until none is more urgent than `least`; how often."""
    for done in range(most):
        s = pop(waiting)
        if s < 0:
            return done
        urgency[s] = 0.0
        new = backup_state(rows, gamma, value, s)
        change = abs(new - value[s])
        value[s] = new
        for k in range(before.start[s], before.start[s + 1]):
            source = before.state[k]
            most_change = float(urgency[source] + gamma * before.chance[k] * change)
            urgency[source] = most_change
            if most_change > least:
                push(waiting, source, most_change)
    return most
