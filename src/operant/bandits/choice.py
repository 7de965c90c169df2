"""Choosing one of K in every run at once: the best with ties broken at random, or a draw."""

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@numba.njit(cache=True)
def argmax(value: Floats, uniform: Floats) -> NDArray[np.int64]:
    """[R]: where each row of `value` [R, K] is largest; `uniform` [R] in [0, 1) picks among equals."""
    out = np.empty(len(value), np.int64)
    for r in range(len(value)):
        best, ties, place = value[r, 0], 1, 0
        for k in range(1, value.shape[1]):
            if value[r, k] > best:
                best, ties, place = value[r, k], 1, k
            elif value[r, k] == best:
                ties += 1
        left = int(uniform[r] * ties)
        while left:
            place += 1
            left -= value[r, place] == best
        out[r] = place
    return out


@numba.njit(cache=True)
def sample(probability: Floats, uniform: Floats) -> NDArray[np.int64]:
    """[R]: a draw from each row of `probability` [R, K], by the inverse of its distribution function."""
    out = np.empty(len(probability), np.int64)
    for r in range(len(probability)):
        place, left = 0, uniform[r] - probability[r, 0]
        while left >= 0 and place < probability.shape[1] - 1:
            place += 1
            left -= probability[r, place]
        out[r] = place
    return out


@numba.njit(cache=True)
def row_max(value: Floats) -> Floats:
    """[R]: the largest of each row; NumPy takes six times as long for short ones."""
    out = value[:, 0].copy()
    for r in range(len(value)):
        for k in range(1, value.shape[1]):
            out[r] = max(out[r], value[r, k])
    return out


@numba.njit(cache=True)
def _normalise(weight: Floats) -> None:
    for r in range(len(weight)):
        total = 0.0
        for k in range(weight.shape[1]):
            total += weight[r, k]
        for k in range(weight.shape[1]):
            weight[r, k] /= total


def softmax(preference: Floats) -> Floats:
    """π(k) = e^h(k) / Σ_j e^h(j) in each row of `preference` [R, K] (Sutton and Barto 2018, eq. 2.11)."""
    weight = np.exp(preference - row_max(preference)[:, None])
    _normalise(weight)
    return weight
