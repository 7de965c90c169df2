"""Bellman backups over the rows of a model, compiled, on the threads that help.

    (T v)(s) = max_a [ r(s, a) + γ Σ_s' p(s' | s, a) v(s') ]

Nothing is stored between the sum over successors and the maximum over actions: a sweep reads the model once. It also
returns the least and the largest change, from which the bounds of a solution come. T_π is the same sweep over the rows
that a policy chose, one for each state.
"""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import njit_loop

CHUNKS = 64
"""Parts into which states are divided among threads."""
FEW = 50_000
"""Transitions up to which waking a second thread costs more than it saves."""
ONE = 1e-15
"""How far the sum of a row may be from 1 by rounding."""
NONE = np.empty(0, dtype=np.int64)
"""Given in place of `greedy` where only values are wanted."""


class Rows(NamedTuple):
    """Rows (state, action) as `operant.mdp.model.MDP` holds them, or one for each state that a policy chose."""

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    next_state: NDArray[np.uint32]
    probability: NDArray[np.float64]
    reward: NDArray[np.float64]
    width: int
    """Transitions in every row; 0 where rows differ. Where it is known, `start` need not be read."""


NO_COPY = Rows(NONE, NONE, np.empty(0, dtype=np.uint32), np.empty(0), np.empty(0), 0)
"""Given in place of `copy` where only values or best rows are wanted."""


@numba.njit(cache=True, parallel=True, boundscheck=False)
def optimal_backup(
    rows: Rows,
    gamma: float,
    value: NDArray[np.float64],
    out: NDArray[np.float64],
    greedy: NDArray[np.int64],
    copy: Rows,
) -> tuple[float, float]:
    """out = T value, and the best row of each state in `greedy`; (least, largest) of out - value.

    Of equal rows the first is best. A state without rows gets the value 0 and the row -1. `greedy` may be `NONE`. Rows
    that are not in `greedy` yet are also written to `copy`, unless that is `NO_COPY`: each state has a place there with
    room for its longest row, and what is left of it gets the probability 0.
    """
    first, start, next_state, probability, reward, width = rows
    place, next_copy, probability_copy, reward_copy = copy.start, copy.next_state, copy.probability, copy.reward
    states, keep, copies = len(first) - 1, len(greedy) > 0, len(place) > 1
    low, high = np.empty(CHUNKS), np.empty(CHUNKS)
    for k in numba.prange(CHUNKS):
        lo, hi = np.inf, -np.inf
        begin, stop = states * k // CHUNKS, states * (k + 1) // CHUNKS
        i = start[first[begin]]
        for s in range(begin, stop):
            best, chosen = -np.inf, -1
            for row in range(first[s], first[s + 1]):
                q = 0.0
                last = i + width if width else start[row + 1]
                while i < last:
                    q += probability[i] * value[next_state[i]]
                    i += 1
                q = reward[row] + gamma * q
                if q > best:
                    best, chosen = q, row
            if chosen < 0:
                best = 0.0
            out[s] = best
            if keep and greedy[s] != chosen:
                greedy[s] = chosen
                if copies and chosen >= 0:
                    reward_copy[s] = reward[chosen]
                    shift = place[s] - start[chosen]
                    for j in range(start[chosen], start[chosen + 1]):
                        next_copy[j + shift] = next_state[j]
                        probability_copy[j + shift] = probability[j]
                    for j in range(start[chosen + 1] + shift, place[s + 1]):
                        probability_copy[j] = 0.0
            change = best - value[s]
            lo, hi = min(lo, change), max(hi, change)
        low[k], high[k] = lo, hi
    return low.min(), high.max()


@numba.njit(cache=True, boundscheck=False)
def evaluate_policy(
    rows: Rows,
    gamma: float,
    value: NDArray[np.float64],
    other: NDArray[np.float64],
    spread: float,
    most: int,
    no_copy: Rows,
) -> int:
    """value = T_π ... T_π value, until a sweep's changes differ by `spread` or less, or `most` times; how often."""
    done, unwanted = 0, np.empty(0, dtype=np.int64)
    while done < most:
        low, high = optimal_backup(rows, gamma, value, other, unwanted, no_copy)
        value, other = other, value
        done += 1
        if high - low <= spread:
            break
    if done % 2:
        other[:] = value
    return done


@njit_loop
def backup_state(rows: Rows, gamma: float, value: NDArray[np.float64], s: int) -> float:
    """(T value)(s), or value(s) where there is nothing to choose."""
    best = -np.inf
    for row in range(rows.first[s], rows.first[s + 1]):
        q = 0.0
        for i in range(rows.start[row], rows.start[row + 1]):
            q += rows.probability[i] * value[rows.next_state[i]]
        best = max(best, rows.reward[row] + gamma * q)
    return best if best > -np.inf else value[s]


@njit_loop
def gauss_seidel_backup(rows: Rows, gamma: float, value: NDArray[np.float64], backward: bool) -> float:
    """T in place, state after state, each from the newest values; the size of the largest change."""
    largest, states = 0.0, len(value)
    for n in range(states):
        s = states - 1 - n if backward else n
        new = backup_state(rows, gamma, value, s)
        largest = max(largest, abs(new - value[s]))
        value[s] = new
    return largest


@numba.njit(cache=True, boundscheck=False)
def best_rewards(first: NDArray[np.int64], reward: NDArray[np.float64]) -> NDArray[np.float64]:
    """[S]: what one step pays at most; 0 where there is nothing to choose."""
    out = np.zeros(len(first) - 1)
    for s in range(len(out)):
        if first[s] < first[s + 1]:
            best = reward[first[s]]
            for row in range(first[s] + 1, first[s + 1]):
                best = max(best, reward[row])
            out[s] = best
    return out


@numba.njit(cache=True)
def first_bad_row(
    start: NDArray[np.int64], probability: NDArray[np.float64], reward: NDArray[np.float64], rounding: float
) -> tuple[int, bool]:
    """The first row that is no distribution or has no finite reward, -1 if there is none; whether all sums are 1."""
    exact = True
    for row in range(len(reward)):
        total = 0.0
        for i in range(start[row], start[row + 1]):
            if not probability[i] >= 0.0:
                return row, False
            total += probability[i]
        if not abs(total - 1.0) <= rounding or not np.isfinite(reward[row]):
            return row, False
        exact = exact and abs(total - 1.0) <= ONE
    return -1, exact


@numba.njit(cache=True)
def divide_rows(start: NDArray[np.int64], probability: NDArray[np.float64]) -> None:
    """Rows whose sum is off by more than `ONE` are divided by their sum."""
    for row in range(len(start) - 1):
        total = 0.0
        for i in range(start[row], start[row + 1]):
            total += probability[i]
        if abs(total - 1.0) > ONE:
            for i in range(start[row], start[row + 1]):
                probability[i] /= total


@contextmanager
def quick_threads(rows: Rows) -> Iterator[None]:
    """Sweep with one thread where more would not be quicker: in small models, and on a machine that is busy."""
    allowed = numba.get_num_threads()
    few = allowed == 1 or len(rows.probability) <= FEW
    numba.set_num_threads(1 if few or not _threads_help(allowed) else allowed)
    try:
        yield
    finally:
        numba.set_num_threads(allowed)


@functools.cache
def _threads_help(threads: int) -> bool:
    """Whether sweeps are quicker on that many threads than on one, tried on a model of 60,000 states: about 10 ms."""
    states, width = 60_000, 16
    near = np.arange(states * width) // width + np.arange(states * width) % width
    first = np.arange(states + 1)
    after, chance = (near % states).astype(np.uint32), np.full(states * width, 1 / width)
    rows = read_only_rows(Rows(first, first * width, after, chance, np.ones(states), width))
    value, out = np.zeros(states), np.empty(states)
    least = dict.fromkeys((threads, 1), np.inf)
    for _ in range(6):
        for n in least:
            numba.set_num_threads(n)
            started = time.perf_counter()
            optimal_backup(rows, 0.9, value, out, NONE, NO_COPY)
            least[n] = min(least[n], time.perf_counter() - started)
    return least[threads] < least[1]


def read_only(array: NDArray) -> NDArray:
    """The same memory as an array that cannot be written: kernels are compiled for the rows of models, which are so."""
    view = array.view()
    view.flags.writeable = False
    return view


def read_only_rows(rows: Rows) -> Rows:
    first, start, next_state, probability, reward, width = rows
    return Rows(
        read_only(first), read_only(start), read_only(next_state), read_only(probability), read_only(reward), width
    )
