"""Eligibility traces z [X, A] of which only those that are not 0 are gone through.

    z <- decay z;  z <- z + ∇Q(s, a)  or its like;  w <- w + step z

Few of a table's places have a trace worth the name, so that a step costs little more than without them.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.linear import Features, active, feature, value_of

KINDS = ("accumulating", "replacing", "dutch")
ACCUMULATING, REPLACING, DUTCH = range(3)
FORGOTTEN = 1e-12
"""A trace that is no more than this part of the largest of the step before, faded alike, moves weights by no more than
this part of what that one does: it is dropped."""


class Traces(NamedTuple):
    z: NDArray[np.float64]
    """[X, A]."""
    held: NDArray[np.bool_]
    """[X, A]: which are in `cells`."""
    cells: NDArray[np.int64]
    """[X A, 2]: (x, a) of those that are not 0, `count` of them."""
    count: NDArray[np.int64]
    """[1]."""
    before: NDArray[np.float64]
    """[2]: of the step before, what Q(s, a) was thought to be, for true online algorithms, and the largest |z|."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        return self._asdict()

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        for name, array in state.items():
            getattr(self, name)[...] = array


def traces_of(w: NDArray[np.float64]) -> Traces:
    """None yet, for the weights w [X, A]."""
    return Traces(
        np.zeros_like(w),
        np.zeros(w.shape, np.bool_),
        np.zeros((w.size, 2), np.int64),
        np.zeros(1, np.int64),
        np.zeros(2),
    )


@numba.njit(cache=True)
def fade(traces: Traces, decay: float) -> None:
    """z <- decay z; 0 ends the episode."""
    kept, least, largest = 0, FORGOTTEN * abs(decay) * traces.before[1], 0.0
    for i in range(traces.count[0]):
        row, column = traces.cells[i, 0], traces.cells[i, 1]
        z = decay * traces.z[row, column]
        if abs(z) <= least:
            traces.z[row, column], traces.held[row, column] = 0.0, False
        else:
            traces.z[row, column] = z
            largest = max(largest, abs(z))
            traces.cells[kept, 0], traces.cells[kept, 1] = row, column
            kept += 1
    traces.count[0], traces.before[1] = kept, largest
    if decay == 0:
        traces.before[0] = 0.0


@numba.njit(cache=True)
def mark(traces: Traces, x: Features, a: int, alpha: float, kind: int) -> None:
    """After `fade`: z += ∇Q (accumulating), z = ∇Q where it is not 0 (replacing), z += (1 - α z·∇Q) ∇Q (dutch)."""
    share = 1 - alpha * value_of(traces.z, x, a) if kind == DUTCH else 1.0
    for k in range(active(x)):
        row, weight = feature(x, k)
        if weight == 0:
            continue
        traces.z[row, a] = weight if kind == REPLACING else traces.z[row, a] + share * weight
        if not traces.held[row, a]:
            last = traces.count[0]
            traces.held[row, a] = True
            traces.cells[last, 0], traces.cells[last, 1] = row, a
            traces.count[0] = last + 1


@numba.njit(cache=True)
def spread(w: NDArray[np.float64], traces: Traces, step: float) -> None:
    """w += step z."""
    for i in range(traces.count[0]):
        row, column = traces.cells[i, 0], traces.cells[i, 1]
        w[row, column] += step * traces.z[row, column]
