"""Bellman backups over the arrays of a model, compiled, on all threads that numba has.

    (T v)(s)  = max_a [ r(s, a) + γ Σ_s' p(s' | s, a) v(s') ]
    (T_π v)(s) = r(s, π(s)) + γ Σ_s' p(s' | s, π(s)) v(s')

Nothing is stored between the sum over successors and the maximum over actions: a sweep reads the model once. Each
kernel also returns the least and the largest change, from which the bounds of a solution come.
"""

import numba
import numpy as np
from numpy.typing import NDArray

CHUNKS = 64
"""Parts into which states are divided among threads."""


@numba.njit(inline="always")
def _chunk(k: int, n: int) -> tuple[int, int]:
    return n * k // CHUNKS, n * (k + 1) // CHUNKS


@numba.njit(cache=True, parallel=True, boundscheck=False)
def optimal_backup(
    first: NDArray[np.int64],
    start: NDArray[np.int64],
    next_state: NDArray[np.uint32],
    probability: NDArray[np.float64],
    reward: NDArray[np.float64],
    gamma: float,
    value: NDArray[np.float64],
    out: NDArray[np.float64],
) -> tuple[float, float]:
    """out = T value; (least, largest) of out - value. States without rows get 0, and their change counts as 0."""
    low, high = np.empty(CHUNKS), np.empty(CHUNKS)
    for k in numba.prange(CHUNKS):
        lo, hi = np.inf, -np.inf
        begin, stop = _chunk(k, len(first) - 1)
        i = start[first[begin]]
        for s in range(begin, stop):
            best = -np.inf
            for row in range(first[s], first[s + 1]):
                q = 0.0
                last = start[row + 1]
                while i < last:
                    q += probability[i] * value[next_state[i]]
                    i += 1
                best = max(best, reward[row] + gamma * q)
            if best == -np.inf:
                best = 0.0
            out[s] = best
            change = best - value[s]
            lo, hi = min(lo, change), max(hi, change)
        low[k], high[k] = lo, hi
    return low.min(), high.max()


@numba.njit(cache=True, parallel=True, boundscheck=False)
def greedy_backup(
    first: NDArray[np.int64],
    start: NDArray[np.int64],
    next_state: NDArray[np.uint32],
    probability: NDArray[np.float64],
    reward: NDArray[np.float64],
    gamma: float,
    value: NDArray[np.float64],
    out: NDArray[np.float64],
    greedy: NDArray[np.int64],
) -> tuple[float, float]:
    """The same, with the best row of each state in `greedy`: the first of equals, -1 where there is none."""
    low, high = np.empty(CHUNKS), np.empty(CHUNKS)
    for k in numba.prange(CHUNKS):
        lo, hi = np.inf, -np.inf
        begin, stop = _chunk(k, len(first) - 1)
        for s in range(begin, stop):
            best, chosen = -np.inf, -1
            for row in range(first[s], first[s + 1]):
                q = 0.0
                for i in range(start[row], start[row + 1]):
                    q += probability[i] * value[next_state[i]]
                q = reward[row] + gamma * q
                if q > best:
                    best, chosen = q, row
            if chosen < 0:
                best = 0.0
            out[s], greedy[s] = best, chosen
            change = best - value[s]
            lo, hi = min(lo, change), max(hi, change)
        low[k], high[k] = lo, hi
    return low.min(), high.max()


@numba.njit(cache=True, parallel=True, boundscheck=False)
def policy_backup(
    start: NDArray[np.int64],
    next_state: NDArray[np.uint32],
    probability: NDArray[np.float64],
    reward: NDArray[np.float64],
    gamma: float,
    value: NDArray[np.float64],
    out: NDArray[np.float64],
) -> tuple[float, float]:
    """out = T_π value on the rows that a policy chose, one a state; (least, largest) of out - value."""
    low, high = np.empty(CHUNKS), np.empty(CHUNKS)
    for k in numba.prange(CHUNKS):
        lo, hi = np.inf, -np.inf
        begin, stop = _chunk(k, len(start) - 1)
        i = start[begin]
        for s in range(begin, stop):
            q = 0.0
            last = start[s + 1]
            while i < last:
                q += probability[i] * value[next_state[i]]
                i += 1
            q = reward[s] + gamma * q
            out[s] = q
            change = q - value[s]
            lo, hi = min(lo, change), max(hi, change)
        low[k], high[k] = lo, hi
    return low.min(), high.max()


@numba.njit(cache=True, boundscheck=False)
def evaluate_policy(
    start: NDArray[np.int64],
    next_state: NDArray[np.uint32],
    probability: NDArray[np.float64],
    reward: NDArray[np.float64],
    gamma: float,
    value: NDArray[np.float64],
    other: NDArray[np.float64],
    spread: float,
    most: int,
) -> int:
    """value = T_π ... T_π value, until a sweep's changes differ by `spread` or less, or `most` times; how often."""
    done = 0
    while done < most:
        low, high = policy_backup(start, next_state, probability, reward, gamma, value, other)
        value, other = other, value
        done += 1
        if high - low <= spread:
            break
    if done % 2:
        other[:] = value
    return done


@numba.njit(cache=True, boundscheck=False)
def gauss_seidel_backup(
    first: NDArray[np.int64],
    start: NDArray[np.int64],
    next_state: NDArray[np.uint32],
    probability: NDArray[np.float64],
    reward: NDArray[np.float64],
    gamma: float,
    value: NDArray[np.float64],
    backward: bool,
) -> float:
    """T in place, state by state, each one from the newest values; the largest change in size."""
    largest = 0.0
    states = len(first) - 1
    for n in range(states):
        s = states - 1 - n if backward else n
        best = -np.inf
        for row in range(first[s], first[s + 1]):
            q = 0.0
            for i in range(start[row], start[row + 1]):
                q += probability[i] * value[next_state[i]]
            best = max(best, reward[row] + gamma * q)
        if best > -np.inf:
            largest = max(largest, abs(best - value[s]))
            value[s] = best
    return largest


@numba.njit(cache=True, parallel=True, boundscheck=False)
def choose_rows(
    rows: NDArray[np.int64],
    start: NDArray[np.int64],
    next_state: NDArray[np.uint32],
    probability: NDArray[np.float64],
    reward: NDArray[np.float64],
    out_start: NDArray[np.int64],
    out_next: NDArray[np.uint32],
    out_probability: NDArray[np.float64],
    out_reward: NDArray[np.float64],
) -> None:
    """The chosen row of each state copied behind one another, so that sweeps read no other; -1 is an empty row.

    `out_next` and `out_probability` need room for what is chosen.
    """
    states = len(rows)
    out_start[0] = 0
    for s in range(states):
        row = rows[s]
        out_start[s + 1] = out_start[s] + (start[row + 1] - start[row] if row >= 0 else 0)
    for s in numba.prange(states):
        row = rows[s]
        out_reward[s] = 0.0
        if row >= 0:
            out_reward[s] = reward[row]
            shift = out_start[s] - start[row]
            for i in range(start[row], start[row + 1]):
                out_next[i + shift] = next_state[i]
                out_probability[i + shift] = probability[i]


@numba.njit(cache=True)
def first_bad_row(
    start: NDArray[np.int64], probability: NDArray[np.float64], reward: NDArray[np.float64], rounding: float
) -> int:
    """The first row that is no distribution or has no finite reward, -1 if all are right."""
    for row in range(len(reward)):
        total = 0.0
        for i in range(start[row], start[row + 1]):
            if not probability[i] >= 0.0:
                return row
            total += probability[i]
        if not abs(total - 1.0) <= rounding or not np.isfinite(reward[row]):
            return row
    return -1
