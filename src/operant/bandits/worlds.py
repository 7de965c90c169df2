"""Bandit problems as data: R runs of K arms, played side by side.

Each run has arms of its own. A world pays for one arm in every run (`pull`), then moves on by a step (`advance`). It
knows what each arm pays on average, so regret is counted in expected rewards and has none of their noise:

    regret after t steps = Σ_{s<=t} [ μ_s(a*) - μ_s(a_s) ]        (Lattimore and Szepesvári 2020, section 4.5)

where a* is the best arm of the step; in an adversarial world, the best fixed arm in hindsight.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from operant.bandits.choice import row_max
from operant.core.errors import InputError

Array = NDArray[Any]
Rewards = Literal["binary", "unit", "real"]
"""What an arm may pay: 0 or 1, a number from 0 to 1, any number."""
GIVEN: dict[str, Any] = {"saved": False}
"""What a world is made with and never changes is made again on resume."""


@runtime_checkable
class World(Protocol):
    rng: np.random.Generator

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)."""
        ...

    @property
    def rewards(self) -> Rewards: ...

    @property
    def context(self) -> Array | None:
        """[R, K, D], features of each arm, or [R, 1, D], features of the step; None where there are none."""
        ...

    def pull(self, arm: Array) -> tuple[Array, Array]:
        """(reward [R], expected reward of the best arm less that of the arm pulled [R])."""
        ...

    def advance(self) -> None:
        """On to the next step."""
        ...


@dataclasses.dataclass(eq=False)
class Bernoulli:
    """Arm k of run r pays 1 with probability mean[r, k], else 0."""

    mean: Array = dataclasses.field(metadata=GIVEN)
    """[R, K]."""
    rng: np.random.Generator
    rewards: Rewards = "binary"
    context: None = None

    def __post_init__(self) -> None:
        self.mean = _checked(self.mean, "mean", ("runs", "arms"))
        _require_shares(self.mean, "the probability")
        self.best = row_max(self.mean)

    @property
    def shape(self) -> tuple[int, int]:
        return self.mean.shape

    def pull(self, arm: Array) -> tuple[Array, Array]:
        mean = self.mean[np.arange(len(arm)), arm]
        return (self.rng.random(len(arm)) < mean).astype(np.float64), self.best - mean

    def advance(self) -> None:
        pass


@dataclasses.dataclass(eq=False)
class Gaussian:
    """Arm k of run r pays N(mean[r, k], deviation²)."""

    mean: Array = dataclasses.field(metadata=GIVEN)
    """[R, K]."""
    rng: np.random.Generator
    deviation: float = 1.0
    rewards: Rewards = "real"
    context: None = None

    def __post_init__(self) -> None:
        self.mean = _checked(self.mean, "mean", ("runs", "arms"))
        _require_deviation(self.deviation)
        self.best = row_max(self.mean)

    @property
    def shape(self) -> tuple[int, int]:
        return self.mean.shape

    def pull(self, arm: Array) -> tuple[Array, Array]:
        mean = self.mean[np.arange(len(arm)), arm]
        return mean + self.deviation * self.rng.standard_normal(len(arm)), self.best - mean

    def advance(self) -> None:
        pass


@dataclasses.dataclass(eq=False)
class RandomWalk:
    """Gaussian arms whose means move by N(0, walk²) in every step (Sutton and Barto 2018, exercise 2.5)."""

    mean: Array
    """[R, K]: the means now."""
    rng: np.random.Generator
    walk: float = 0.01
    deviation: float = 1.0
    rewards: Rewards = "real"
    context: None = None

    def __post_init__(self) -> None:
        self.mean = _checked(self.mean, "mean", ("runs", "arms")).copy()
        _require_deviation(self.deviation)
        _require_deviation(self.walk)

    @property
    def shape(self) -> tuple[int, int]:
        return self.mean.shape

    def pull(self, arm: Array) -> tuple[Array, Array]:
        mean = self.mean[np.arange(len(arm)), arm]
        return mean + self.deviation * self.rng.standard_normal(len(arm)), row_max(self.mean) - mean

    def advance(self) -> None:
        self.mean += self.walk * self.rng.standard_normal(self.mean.shape)


@dataclasses.dataclass(eq=False)
class Abrupt:
    """Bernoulli arms whose means change at once: mean[c] holds from step start[c] to start[c + 1]."""

    mean: Array = dataclasses.field(metadata=GIVEN)
    """[C, R, K]."""
    start: Array = dataclasses.field(metadata=GIVEN)
    """[C], rising from 0."""
    rng: np.random.Generator
    step: int = 0
    rewards: Rewards = "binary"
    context: None = None

    def __post_init__(self) -> None:
        self.mean = _checked(self.mean, "mean", ("stretches", "runs", "arms"))
        _require_shares(self.mean, "the probability")
        self.start = np.asarray(self.start, dtype=np.int64)
        if self.start.shape != self.mean.shape[:1] or self.start[0] != 0 or (np.diff(self.start) <= 0).any():
            raise InputError(
                f"start is {self.start.tolist()}: give {len(self.mean)} steps that rise from 0, one for each stretch"
            )
        self.best = np.stack([row_max(mean) for mean in self.mean])

    @property
    def shape(self) -> tuple[int, int]:
        return self.mean.shape[1], self.mean.shape[2]

    def pull(self, arm: Array) -> tuple[Array, Array]:
        now = int(np.searchsorted(self.start, self.step, side="right")) - 1
        mean = self.mean[now, np.arange(len(arm)), arm]
        return (self.rng.random(len(arm)) < mean).astype(np.float64), self.best[now] - mean

    def advance(self) -> None:
        self.step += 1


@dataclasses.dataclass(eq=False)
class Adversarial:
    """In step t arm k pays table[t, k], fixed beforehand, the same in every run.

    The regret is to the best fixed arm of the whole table, so it may be negative: another arm may pay more for a while.
    """

    table: Array = dataclasses.field(metadata=GIVEN)
    """[T, K], from 0 to 1."""
    runs: int
    rng: np.random.Generator
    step: int = 0
    context: None = None

    def __post_init__(self) -> None:
        self.table = _checked(self.table, "table", ("steps", "arms"))
        _require_shares(self.table, "the reward")
        self.best = int(self.table.sum(0).argmax())

    @property
    def shape(self) -> tuple[int, int]:
        return self.runs, self.table.shape[1]

    @property
    def rewards(self) -> Rewards:
        return "binary" if np.isin(self.table, (0, 1)).all() else "unit"

    def pull(self, arm: Array) -> tuple[Array, Array]:
        if self.step >= len(self.table):
            raise InputError(
                f"the table of rewards has {len(self.table)} steps, and step {self.step + 1} was asked for"
            )
        paid = self.table[self.step]
        return paid[arm], paid[self.best] - paid[arm]

    def advance(self) -> None:
        self.step += 1


@dataclasses.dataclass(eq=False)
class Linear:
    """Arm k pays x_k·θ_k + N(0, deviation²) for features x of the step, drawn anew from N(0, I/D).

    Every arm has features and all share one θ (theta [R, 1, D], context [R, K, D]), or the step has features and every
    arm its own θ (theta [R, K, D], context [R, 1, D]; "disjoint" in Li et al. 2010).
    """

    theta: Array = dataclasses.field(metadata=GIVEN)
    """[R, 1 or K, D]."""
    arms: int
    rng: np.random.Generator
    deviation: float = 0.1
    context: Array = dataclasses.field(default_factory=lambda: np.empty((0, 0, 0)))
    """[R, K or 1, D]: the features of this step."""
    rewards: Rewards = "real"

    def __post_init__(self) -> None:
        if self.arms < 2:
            raise InputError(f"arms is {self.arms}: a bandit has at least 2")
        self.theta = _checked(self.theta, "theta", ("runs", "1 or arms", "features"), fewest=1)
        if self.theta.shape[1] not in (1, self.arms):
            raise InputError(f"theta has the shape {self.theta.shape}; with {self.arms} arms its middle is 1 or that")
        _require_deviation(self.deviation)
        self.advance()

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.theta), self.arms

    def pull(self, arm: Array) -> tuple[Array, Array]:
        means = np.einsum("rkd,rkd->rk", *np.broadcast_arrays(self.context, self.theta))
        mean = means[np.arange(len(arm)), arm]
        return mean + self.deviation * self.rng.standard_normal(len(arm)), row_max(means) - mean

    def advance(self) -> None:
        runs, own, features = self.theta.shape
        drawn = self.rng.standard_normal((runs, self.arms if own == 1 else 1, features))
        self.context = drawn / np.sqrt(features)


class Unfit(InputError):
    """An algorithm cannot play in a world."""


def require(world: World, algorithm: str, rewards: Rewards) -> None:
    """Raise `Unfit` if the world may pay what the algorithm cannot use."""
    kinds = ("binary", "unit", "real")
    words = dict(zip(kinds, ("0 or 1", "numbers from 0 to 1", "any number"), strict=True))
    if kinds.index(world.rewards) > kinds.index(rewards):
        raise Unfit(
            f"{algorithm} is for rewards of {words[rewards]}, and this world pays {words[world.rewards]}: take another "
            "algorithm or another world"
        )


def _checked(values: Array, name: str, axes: tuple[str, ...], fewest: int = 2) -> Array:
    """`values` as float64 with these axes, the last one `fewest` or longer. Raises `InputError`."""
    array = np.ascontiguousarray(values, dtype=np.float64)
    if array.ndim != len(axes) or 0 in array.shape:
        raise InputError(f"{name} has the shape {array.shape}; it is [{', '.join(axes)}], each 1 or more")
    if array.shape[-1] < fewest:
        raise InputError(f"{name} has {array.shape[-1]} arm: a bandit has at least {fewest}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        raise InputError(f"{name}{where.tolist()} is {array[tuple(where)]}: give finite numbers")
    return array


def _require_shares(values: Array, what: str) -> None:
    outside = (values < 0) | (values > 1)
    if outside.any():
        where = np.argwhere(outside)[0]
        raise InputError(f"{what} at {where.tolist()} is {values[tuple(where)]}: give numbers from 0 to 1")


def _require_deviation(deviation: float) -> None:
    if not (deviation >= 0 and np.isfinite(deviation)):
        raise InputError(f"a standard deviation is {deviation}: give a finite number, 0 or more")
