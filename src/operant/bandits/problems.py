"""Bandit problems to try algorithms on; each is drawn anew for every run."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from operant.bandits.worlds import (
    Abrupt,
    Adversarial,
    Array,
    Bernoulli,
    Gaussian,
    Linear,
    RandomWalk,
    Rewards,
    World,
)  # fmt: skip
from operant.core.errors import InputError

Generator = np.random.Generator


def bernoulli(runs: int, arms: int, rng: Generator) -> Bernoulli:
    """Probabilities drawn from 0 to 1."""
    return Bernoulli(rng.random((runs, arms)), rng)


def gaussian(runs: int, arms: int, rng: Generator, centre: float = 0.0) -> Gaussian:
    """The k-armed testbed: means from N(centre, 1), rewards with deviation 1 (Sutton and Barto 2018, section 2.3)."""
    return Gaussian(centre + rng.standard_normal((runs, arms)), rng)


def random_walk(runs: int, arms: int, rng: Generator) -> RandomWalk:
    """All means start at 0 and walk off (Sutton and Barto 2018, exercise 2.5)."""
    return RandomWalk(np.zeros((runs, arms)), rng)


def abrupt(runs: int, arms: int, rng: Generator, steps: int, changes: int = 3) -> Abrupt:
    """Probabilities drawn from 0 to 1, and drawn again `changes` times, after equally many of `steps` steps."""
    if not 0 <= changes < steps:
        raise InputError(f"changes is {changes}: give a whole number from 0 to {steps - 1}, below the steps")
    start = np.arange(changes + 1) * steps // (changes + 1)
    return Abrupt(rng.random((changes + 1, runs, arms)), start, rng)


@dataclasses.dataclass(eq=False)
class Adversary:
    """Pays every arm but the one pulled, and keeps the table of it. One run.

    In the first K steps arm k is worth 1/2 - k / 4K, whoever comes first: an algorithm that tries each arm once then
    believes the same in every run, and from there on without chance does the same.
    """

    arms: int
    rng: np.random.Generator
    table: list[Array] = dataclasses.field(default_factory=list)
    rewards: Rewards = "unit"
    context: None = None

    @property
    def shape(self) -> tuple[int, int]:
        return 1, self.arms

    def pull(self, arm: Array) -> tuple[Array, Array]:
        kinder = 0.5 - np.arange(self.arms) / (4 * self.arms)
        paid = kinder if len(self.table) < self.arms else (np.arange(self.arms) != arm).astype(np.float64)
        self.table.append(paid)
        return paid[arm], paid.max() - paid[arm]

    def advance(self) -> None:
        pass


def adversarial(runs: int, arms: int, rng: Generator, learn: Callable[[World], Iterable[Any]]) -> Adversarial:
    """The table that pays the algorithm `learn` nothing after its first K steps: made by playing against it once.

    An algorithm that tries each arm once in these steps, and leaves nothing to chance then, such as UCB, is paid
    nothing from there on in every run; one that draws its arms cannot be met like this (Lattimore and Szepesvári 2020,
    section 11.1).
    """
    adversary = Adversary(arms, rng)
    for _ in learn(adversary):
        pass
    return Adversarial(np.array(adversary.table), runs, rng)


def linear(runs: int, arms: int, rng: Generator, features: int = 5) -> Linear:
    """Every arm has features in every step, and one θ of length 1 says what they pay."""
    return Linear(_unit(rng.standard_normal((runs, 1, features))), arms, rng)


def disjoint(runs: int, arms: int, rng: Generator, features: int = 5) -> Linear:
    """Every step has features, and each arm a θ of its own, of length 1."""
    return Linear(_unit(rng.standard_normal((runs, arms, features))), arms, rng)


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
