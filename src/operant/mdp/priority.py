"""A queue of states, the most urgent first, and sweeps that follow it, compiled.

A backup that changes v(s') by δ can change those of its predecessors s by γ max_a p(s' | s, a) |δ| at most. Sums of
these since a state's last backup bound how much it would change, so an empty queue means that no state would by more
than the least urgency that was let in.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import njit_loop
from operant.mdp.backup import Rows, backup_state
from operant.mdp.model import MDP


class Queue(NamedTuple):
    """A binary heap."""

    urgency: NDArray[np.float64]
    """[S]: of every state, also of those that do not wait."""
    heap: NDArray[np.int64]
    """[S]: the states that wait; each before its children 2i + 1 and 2i + 2."""
    place: NDArray[np.int64]
    """[S]: where in the heap each state is; -1 where it does not wait."""
    size: NDArray[np.int64]
    """[1]: how many wait."""


class Predecessors(NamedTuple):
    """From which states each state can be reached in a step, as in a CSR matrix."""

    start: NDArray[np.int64]
    state: NDArray[np.int64]
    chance: NDArray[np.float64]
    """max_a p(s' | s, a)."""


def queue(states: int) -> Queue:
    return Queue(np.zeros(states), np.empty(states, np.int64), np.full(states, -1), np.zeros(1, np.int64))


def predecessors(mdp: MDP) -> Predecessors:
    """Those of every state of a model."""
    source = np.repeat(mdp.row_states(), np.diff(mdp.start))
    target = mdp.next_state.astype(np.int64)
    order = np.lexsort((source, target))
    source, target, chance = source[order], target[order], mdp.probability[order]
    new = np.ones(len(source), dtype=bool)
    new[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
    at = np.flatnonzero(new)
    largest = np.maximum.reduceat(chance, at) if len(at) else chance
    return Predecessors(np.searchsorted(target[at], np.arange(mdp.states + 1)), source[at], largest)


@njit_loop
def push(waiting: Queue, s: int, urgency: float) -> None:
    """Let s wait with this urgency, or move it to where the urgency puts it."""
    waiting.urgency[s] = urgency
    i = waiting.place[s]
    if i < 0:
        i = waiting.size[0]
        waiting.size[0] += 1
    while i > 0 and waiting.urgency[waiting.heap[(i - 1) // 2]] < urgency:
        _put(waiting, waiting.heap[(i - 1) // 2], i)
        i = (i - 1) // 2
    _sink(waiting, s, i)


@njit_loop
def pop(waiting: Queue) -> int:
    """The most urgent state, which then waits no more and whose urgency is 0; -1 if none waits."""
    if waiting.size[0] == 0:
        return -1
    top = waiting.heap[0]
    waiting.place[top], waiting.urgency[top] = -1, 0.0
    waiting.size[0] -= 1
    if waiting.size[0] > 0:
        _sink(waiting, waiting.heap[waiting.size[0]], 0)
    return top


@njit_loop
def _sink(waiting: Queue, s: int, i: int) -> None:
    """Put s at i, or below where there are more urgent states."""
    size, urgency, heap = waiting.size[0], waiting.urgency, waiting.heap
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and urgency[heap[child + 1]] > urgency[heap[child]]:
            child += 1
        if urgency[heap[child]] <= urgency[s]:
            break
        _put(waiting, heap[child], i)
        i = child
    _put(waiting, s, i)


@njit_loop
def _put(waiting: Queue, s: int, i: int) -> None:
    waiting.heap[i] = s
    waiting.place[s] = i


@njit_loop
def refill(waiting: Queue, change: NDArray[np.float64], least: float) -> None:
    """Let every state wait whose value would change by more than `least`, and no other."""
    waiting.size[0] = 0
    waiting.place[:] = -1
    for s in range(len(change)):
        waiting.urgency[s] = change[s]
        if change[s] > least:
            push(waiting, s, change[s])


@njit_loop
def prioritized_backups(
    rows: Rows, gamma: float, value: NDArray[np.float64], before: Predecessors, waiting: Queue, least: float, most: int
) -> int:
    """Back up the most urgent state, `most` times or until none is more urgent than `least`; how often."""
    for done in range(most):
        s = pop(waiting)
        if s < 0:
            return done
        new = backup_state(rows, gamma, value, s)
        change = abs(new - value[s])
        value[s] = new
        for k in range(before.start[s], before.start[s + 1]):
            urgency = waiting.urgency[before.state[k]] + gamma * before.chance[k] * change
            if urgency > least:
                push(waiting, before.state[k], urgency)
            else:
                waiting.urgency[before.state[k]] = urgency
    return most
