"""Thompson sampling: draw a world from what is believed, and act as is best in it (Thompson 1933).

    repeat
        choose    μ(a) ~ posterior of every arm,  arg max_a μ(a)
        update    the posterior of the arm pulled

An arm is pulled as often as it is believed to be the best. Rewards of 0 or 1 have the posterior Beta(α + successes,
β + failures); any others are taken to be normal with a known deviation, and then the posterior of a mean is normal
(Russo et al. 2018, "A tutorial on Thompson sampling", sections 3 and 4).
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

from operant.bandits.choice import argmax
from operant.bandits.play import Array, Metrics, Totals, play, zero_totals
from operant.bandits.worlds import World, require
from operant.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    model: Literal["auto", "beta", "gaussian"] = "auto"
    """What rewards are taken for; auto = beta where they are 0 or 1, gaussian elsewhere."""
    alpha: float = 1.0
    """α: successes of an arm before it is tried."""
    beta: float = 1.0
    """β: failures of an arm before it is tried."""
    prior_mean: float = 0.0
    """What a normal arm is believed to pay before it is tried."""
    prior_deviation: float = 1.0
    """How far from that it may be: a standard deviation."""
    deviation: float = 1.0
    """σ: standard deviation of a normal arm's rewards."""


@dataclasses.dataclass
class State:
    world: World
    rng: np.random.Generator
    count: Array
    """N [R, K]."""
    total: Array
    """Sum of rewards [R, K]; with N all that a posterior needs."""
    totals: Totals
    step: int = 0


def init(world: World, config: Config, seed: int = 0) -> State:
    """Raises `InputError` for a prior that is none, or for beta where rewards are not 0 or 1."""
    for name in ("alpha", "beta", "prior_deviation", "deviation"):
        if not getattr(config, name) > 0:
            raise InputError(f"{name} is {getattr(config, name)}: give a number above 0")
    if config.model == "beta":
        require(world, "thompson with model beta", "binary")
    shape = world.shape
    return State(world, np.random.default_rng(seed), np.zeros(shape), np.zeros(shape), zero_totals(world))


def beta_posterior(count: Array, total: Array, config: Config) -> tuple[Array, Array]:
    """(α + S, β + N - S) after N rewards of 0 or 1 that sum to S."""
    return config.alpha + total, config.beta + count - total


def gaussian_posterior(count: Array, total: Array, config: Config) -> tuple[Array, Array]:
    """(mean, deviation) after N rewards that sum to S: (μ0/σ0² + S/σ²) / λ and 1/sqrt(λ), with λ = 1/σ0² + N/σ²."""
    prior, noise = 1 / config.prior_deviation**2, 1 / config.deviation**2
    precision = prior + count * noise
    return (config.prior_mean * prior + total * noise) / precision, 1 / np.sqrt(precision)


def choose(state: State, config: Config) -> Array:
    """[R]: the arm of each run."""
    if config.model == "beta" or (config.model == "auto" and state.world.rewards == "binary"):
        drawn = state.rng.beta(*beta_posterior(state.count, state.total, config))
    else:
        mean, deviation = gaussian_posterior(state.count, state.total, config)
        drawn = mean + deviation * state.rng.standard_normal(mean.shape)
    return argmax(drawn, state.rng.random(len(drawn)))


def update(state: State, config: Config, arm: Array, reward: Array) -> None:
    """N(a) += 1, S(a) += R."""
    run = np.arange(len(arm))
    state.count[run, arm] += 1
    state.total[run, arm] += reward


def train(state: State, config: Config, steps: int = 1000, every: int = 10) -> Iterator[Metrics]:
    """Plays until step `steps`; yields after every `every` of them."""
    yield from play(state, config, choose, update, steps, every)
