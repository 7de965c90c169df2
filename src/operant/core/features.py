"""Features of states: what is linear in them can value more states than a table has places.

    tiles         x_i(s) = 1 where s lies in tile i; every tiling has one such tile (Sutton and Barto, section 9.5.4)
    polynomial    x_i(s) = Π_j s_j^c_ij                                            (equation 9.17)
    Fourier       x_i(s) = cos(π c_i·s)                                            (equation 9.18)
    radial basis  x_i(s) = exp(-|s - c_i|² / 2σ²)                                  (section 9.5.5)
    aggregation   x_i(s) = 1 where s belongs to group i                            (section 9.3)

Observations lie in a box, from `low` to `high` in every dimension. One outside counts as the nearest point of the box,
so that a rare large value cannot make a feature larger than any that was learned from.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.core.linear import Active

Numbers = float | Sequence[float] | NDArray[Any]


class Tiles(NamedTuple):
    """n tilings of a box, each displaced against the next; see `tiles`."""

    low: NDArray[np.float64]
    span: NDArray[np.float64]
    """[d]: from low to high."""
    across: NDArray[np.int64]
    """[d]: tiles that span the box; a displaced tiling needs one more."""
    shift: NDArray[np.float64]
    """[n, d]: displacement in tiles, from 0 to 1."""

    @property
    def size(self) -> int:
        """How many features there are; n of them are active."""
        return len(self.shift) * int(np.prod(self.across + 1))

    def __call__(self, observation: Any) -> Active:
        index = np.empty(len(self.shift), dtype=np.int64)
        x = _point(observation, self.low)
        if not place_tiles(self.low, self.span, self.across, self.shift, x, index):
            raise _no_point(x, self.low)
        return Active(index, np.ones(len(index)))


class Basis(NamedTuple):
    """One function of the whole box a feature: `kind` of the rows of `table`."""

    kind: int
    low: NDArray[np.float64]
    span: NDArray[np.float64]
    table: NDArray[np.float64]
    """[F, d]: exponents, frequencies or centres c_i."""
    scale: NDArray[np.float64]
    """[F]: what each is multiplied by; for radial functions -1/2σ² instead."""

    @property
    def size(self) -> int:
        """How many features there are; all are active."""
        return len(self.table)

    def __call__(self, observation: Any) -> Active:
        weight = np.empty(len(self.table))
        x = _point(observation, self.low)
        if not evaluate_basis(self.kind, self.low, self.span, self.table, self.scale, x, weight):
            raise _no_point(x, self.low)
        return Active(np.arange(len(weight)), weight)


class Groups(NamedTuple):
    """Every state belongs to one group."""

    group: NDArray[np.int64]
    """[S]."""

    @property
    def size(self) -> int:
        return int(self.group.max()) + 1

    def __call__(self, state: Any) -> Active:
        if not 0 <= state < len(self.group):
            raise InputError(f"state {state} is in no group; states go from 0 to {len(self.group) - 1}")
        return Active(self.group[state : state + 1], np.ones(1))


POLYNOMIAL, FOURIER, RADIAL = range(3)


def tiles(low: Numbers, high: Numbers, tilings: int = 8, across: int | Sequence[int] = 8) -> Tiles:
    """`tilings` grids of `across` tiles over the box in each dimension, displaced by odd multiples of 1 / tilings.

    Tiling i lies i (1, 3, 5, ...) / tilings of a tile towards the low end, as Sutton and Barto recommend: equal steps
    in all dimensions would make the features of a point depend on its diagonal. Raises `InputError` for a box without
    inside, for no tilings and no tiles.
    """
    bottom, span = _box(low, high)
    size = np.broadcast_to(np.asarray(across, dtype=np.int64), bottom.shape).copy()
    if tilings < 1 or (size < 1).any():
        raise InputError(f"{tilings} tilings of {size.tolist()} tiles: give at least one of each")
    odd = 2 * np.arange(len(bottom)) + 1
    return Tiles(bottom, span, size, np.outer(np.arange(tilings), odd) % tilings / tilings)


def polynomial(low: Numbers, high: Numbers, order: int) -> Basis:
    """All (order + 1)^d products of powers up to `order`, of observations brought from the box to [0, 1]."""
    bottom, span = _box(low, high)
    powers = _lattice(len(bottom), order)
    return Basis(POLYNOMIAL, bottom, span, powers, np.ones(len(powers)))


def fourier(low: Numbers, high: Numbers, order: int, scaled: bool = True) -> Basis:
    """All (order + 1)^d cosines of up to `order` half-waves over the box (Konidaris, Osentoski and Thomas 2011).

    They want steps α / |c_i|, smaller ones for finer waves. `scaled` features, multiplied by |c_i|^-1/2, take them with
    one α for all: the root enters a step once with the gradient and once more when the value is read.
    """
    bottom, span = _box(low, high)
    waves = _lattice(len(bottom), order)
    norm = np.linalg.norm(waves, axis=1)
    scale = 1 / np.sqrt(np.where(norm > 0, norm, 1.0)) if scaled else np.ones(len(waves))
    return Basis(FOURIER, bottom, span, waves, scale)


def radial_basis(low: Numbers, high: Numbers, centres: int, width: float | None = None) -> Basis:
    """Bells at `centres`^d points of a grid over the box; σ = `width`, as a share of the box (None: their distance)."""
    bottom, span = _box(low, high)
    if centres < 2:
        raise InputError(f"{centres} centres a dimension: give at least 2")
    sigma = 1 / (centres - 1) if width is None else width
    if not 0 < sigma < np.inf:
        raise InputError(f"the width of the bells is {sigma}: give a share of the box above 0, such as 0.1")
    grid = _lattice(len(bottom), centres - 1) / (centres - 1)
    return Basis(RADIAL, bottom, span, grid, np.full(len(grid), -0.5 / sigma**2))


def aggregation(states: int, groups: int) -> Groups:
    """Neighbouring numbers of states in `groups` groups, as equal in size as can be."""
    if not 1 <= groups <= states:
        raise InputError(f"{groups} groups of {states} states: give from 1 to {states}")
    return Groups(np.arange(states) * groups // states)


def of_states(features: Callable[[Any], Active], observations: Iterable[Any]) -> Active:
    """The features of many observations, such as of all states of a model: index and weight [S, K]."""
    found = [features(x) for x in observations]
    return Active(np.stack([x.index for x in found]), np.stack([x.weight for x in found]))


def matrix(features: Active, size: int) -> NDArray[np.float64]:
    """[S, F]: the features of many states with their zeros."""
    dense = np.zeros((len(features.index), size))
    np.add.at(dense, (np.arange(len(dense))[:, None], features.index), features.weight)
    return dense


@numba.njit(cache=True)
def place_tiles(
    low: NDArray[np.float64],
    span: NDArray[np.float64],
    across: NDArray[np.int64],
    shift: NDArray[np.float64],
    x: NDArray[np.float64],
    index: NDArray[np.int64],
) -> bool:
    """index[i] = the active tile of tiling i, for an observation [d]; False if that is no point."""
    for j in range(len(x)):
        if np.isnan(x[j]):
            return False
    for i in range(len(shift)):
        at = i
        for j in range(len(low)):
            inside = min(max((x[j] - low[j]) / span[j], 0.0), 1.0)
            at = at * (across[j] + 1) + int(inside * across[j] + shift[i, j])
        index[i] = at
    return True


@numba.njit(cache=True)
def evaluate_basis(
    kind: int,
    low: NDArray[np.float64],
    span: NDArray[np.float64],
    table: NDArray[np.float64],
    scale: NDArray[np.float64],
    x: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> bool:
    """weight[i] = feature i of an observation [d]; False if that is no point."""
    for j in range(len(x)):
        if np.isnan(x[j]):
            return False
    for i in range(len(weight)):
        value = 1.0 if kind == POLYNOMIAL else 0.0
        for j in range(len(low)):
            inside = min(max((x[j] - low[j]) / span[j], 0.0), 1.0)
            if kind == POLYNOMIAL:
                value *= inside ** table[i, j]
            elif kind == FOURIER:
                value += inside * table[i, j]
            else:
                value += (inside - table[i, j]) ** 2
        if kind == POLYNOMIAL:
            weight[i] = scale[i] * value
        elif kind == FOURIER:
            weight[i] = scale[i] * np.cos(np.pi * value)
        else:
            weight[i] = np.exp(scale[i] * value)
    return True


def _box(low: Numbers, high: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(low [d], high - low [d])."""
    bottom, top = np.broadcast_arrays(np.atleast_1d(np.asarray(low, float)), np.atleast_1d(np.asarray(high, float)))
    if bottom.ndim != 1 or not (np.isfinite(bottom).all() and np.isfinite(top).all() and (bottom < top).all()):
        raise InputError(
            f"the box goes from {bottom.tolist()} to {top.tolist()}: give finite bounds, the lower first; observations "
            "beyond them count as on them"
        )
    return bottom.copy(), top - bottom


def _lattice(dimensions: int, order: int) -> NDArray[np.float64]:
    """[(order + 1)^d, d]: all vectors of whole numbers from 0 to `order`."""
    if order < 0:
        raise InputError(f"the order is {order}: give 0 or more")
    return np.indices((order + 1,) * dimensions).reshape(dimensions, -1).T.astype(np.float64)


def _point(observation: Any, low: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.asarray(observation, dtype=np.float64).reshape(-1)
    if len(x) != len(low):
        raise _no_point(x, low)
    return x


def _no_point(x: NDArray[np.float64], low: NDArray[np.float64]) -> InputError:
    return InputError(f"the observation is {x.tolist()}; these features are of {len(low)} numbers")
