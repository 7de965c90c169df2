"""A queue of numbered items by priority, the largest first, in arrays: for compiled loops (Williams 1964)."""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


class Heap(NamedTuple):
    """Items 0 ... N-1, each at most once; an item above another in the tree has no smaller priority."""

    item: Any
    """[N]: the tree; the parent of place i is place (i - 1) // 2."""
    place: Any
    """[N]: where each item is, -1 where it is not."""
    priority: Any
    """[N]: by item."""
    count: Any
    """[1]: items in the tree."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        return self._asdict()

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        for name, array in state.items():
            getattr(self, name)[...] = array


def heap(size: int) -> Heap:
    """An empty queue for `size` items."""
    return Heap(np.zeros(size, np.int64), np.full(size, -1), np.zeros(size), np.zeros(1, np.int64))


@numba.njit(cache=True)
def push(heap: Heap, item: int, priority: float) -> None:
    """Put an item in, or raise its priority; a lower one than it has changes nothing."""
    i = heap.place[item]
    if i < 0:
        i = heap.count[0]
        heap.count[0] += 1
    elif priority <= heap.priority[item]:
        return
    heap.priority[item] = priority
    while i > 0 and heap.priority[heap.item[(i - 1) // 2]] < priority:
        _set(heap, i, heap.item[(i - 1) // 2])
        i = (i - 1) // 2
    _set(heap, i, item)


@numba.njit(cache=True)
def pop(heap: Heap) -> int:
    """Take out an item of the largest priority; -1 where there is none."""
    if heap.count[0] == 0:
        return -1
    best = heap.item[0]
    heap.place[best] = -1
    heap.count[0] -= 1
    count = heap.count[0]
    if count > 0:
        last, i, child = heap.item[count], 0, 1
        while child < count:
            if child + 1 < count and heap.priority[heap.item[child + 1]] > heap.priority[heap.item[child]]:
                child += 1
            if heap.priority[heap.item[child]] <= heap.priority[last]:
                break
            _set(heap, i, heap.item[child])
            i, child = child, 2 * child + 1
        _set(heap, i, last)
    return best


@numba.njit(cache=True)
def _set(heap: Heap, i: int, item: int) -> None:
    heap.item[i], heap.place[item] = item, i
