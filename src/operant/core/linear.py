"""Values that are linear in features, and tables, which are linear in the simplest features there are.

    Q(s, a) = w[:, a]·x(s)        ∇Q(s, a) = x(s), in column a        v(s): a table of one column

What is known of a state is either its number s, where x(s) is one-hot and w a table, or the `Active` features: those
that are not 0. Compiled code knows which of the two it was given, and tables pay nothing for the other.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from operant.core.random import Stream, below, uniform


class Active(NamedTuple):
    """The features of one state that are not 0, or with one more axis those of several."""

    index: NDArray[np.int64]
    """[K]: which ones."""
    weight: NDArray[np.float64]
    """[K]: how large they are; for tiles 1."""


Features = int | np.integer | Active


def active(x: Features) -> int:
    """How many features are active: for a table one."""
    return len(x.index) if isinstance(x, Active) else 1


def feature(x: Features, k: int) -> tuple[int, float]:
    """(which, how large) of the active features k."""
    return (int(x.index[k]), float(x.weight[k])) if isinstance(x, Active) else (int(x), 1.0)


@overload(active, strict=False)
def _active(x: Any) -> Any:
    return (lambda x: len(x.index)) if isinstance(x, types.NamedTuple) else lambda x: 1


@overload(feature, strict=False)
def _feature(x: Any, k: Any) -> Any:
    if isinstance(x, types.NamedTuple):
        return lambda x, k: (x.index[k], x.weight[k])
    return lambda x, k: (x, 1.0)


def value_of(w: NDArray[np.float64], x: Features, column: int) -> float:
    """w[:, column]·x."""
    if isinstance(x, Active):
        return float(w[x.index, column] @ x.weight)
    return float(w[x, column])


def add_to(w: NDArray[np.float64], x: Features, column: int, step: float) -> None:
    """w[:, column] += step x."""
    if isinstance(x, Active):
        np.add.at(w[:, column], x.index, step * x.weight)
    else:
        w[x, column] += step


@overload(value_of)
def _value_of(w: Any, x: Any, column: Any) -> Any:
    def active(w: Any, x: Any, column: Any) -> Any:
        total = 0.0
        for k in range(len(x.index)):
            total += x.weight[k] * w[x.index[k], column]
        return total

    def table(w: Any, x: Any, column: Any) -> Any:
        return w[x, column]

    return active if isinstance(x, types.NamedTuple) else table


@overload(add_to)
def _add_to(w: Any, x: Any, column: Any, step: Any) -> Any:
    def active(w: Any, x: Any, column: Any, step: Any) -> Any:
        for k in range(len(x.index)):
            w[x.index[k], column] += step * x.weight[k]

    def table(w: Any, x: Any, column: Any, step: Any) -> Any:
        w[x, column] += step

    return active if isinstance(x, types.NamedTuple) else table


@numba.njit(cache=True)
def toward(w: NDArray[np.float64], x: Features, column: int, target: float, alpha: float) -> None:
    """w[:, column] += α (target - w[:, column]·x) x: a step towards a target (Sutton and Barto, equation 9.7)."""
    add_to(w, x, column, alpha * (target - value_of(w, x, column)))


@numba.njit(cache=True)
def largest(w: NDArray[np.float64], x: Features, actions: int) -> float:
    """max_a Q(s, a)."""
    best = value_of(w, x, 0)
    for a in range(1, actions):
        best = max(best, value_of(w, x, a))
    return best


@numba.njit(cache=True)
def expected(w: NDArray[np.float64], x: Features, actions: int, epsilon: float) -> float:
    """Σ_a π(a | s) Q(s, a) for the ε-greedy π; how it breaks ties makes no difference."""
    total = 0.0
    for a in range(actions):
        total += value_of(w, x, a)
    return epsilon / actions * total + (1 - epsilon) * largest(w, x, actions)


@numba.njit(cache=True)
def greedy(w: NDArray[np.float64], x: Features, actions: int, random: Stream) -> int:
    """argmax_a Q(s, a), each of the best with the same chance."""
    best, chosen, equals = value_of(w, x, 0), 0, 1
    for a in range(1, actions):
        q = value_of(w, x, a)
        if q > best:
            best, chosen, equals = q, a, 1
        elif q == best:
            equals += 1
            if below(random, equals) == 0:
                chosen = a
    return chosen


@numba.njit(cache=True)
def epsilon_greedy(w: NDArray[np.float64], x: Features, actions: int, epsilon: float, random: Stream) -> int:
    """With chance ε any action, else a greedy one."""
    if uniform(random) < epsilon:
        return below(random, actions)
    return greedy(w, x, actions, random)
