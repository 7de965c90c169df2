"""LinUCB: optimism about a reward that is linear in features (Li et al. 2010; Abbasi-Yadkori, Pál, Szepesvári 2011).

    A <- λ I,  b <- 0
    repeat
        choose    arg max_k x_k·θ̂ + α sqrt(x_kᵀ A⁻¹ x_k),  θ̂ = A⁻¹ b, ties at random
        update    A <- A + x xᵀ,  b <- b + R x,  with x the features of the arm pulled

The root is how wrong x·θ̂ may be: small in directions that were often seen. Where all arms share one θ, each pull
teaches about every arm; where each has its own, A and b belong to the arm (algorithm 1 of Li et al.).
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from operant.bandits.choice import argmax
from operant.bandits.play import Array, Metrics, Totals, play, zero_totals
from operant.bandits.ridge import Ridge, ridge
from operant.bandits.worlds import World
from operant.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    alpha: float = 0.5
    """α: how much doubt counts, in the units of the reward."""
    ridge: float = 1.0
    """λ: how strongly θ̂ is held near 0 at first."""


@dataclasses.dataclass
class State:
    world: World
    rng: np.random.Generator
    ridge: Ridge
    totals: Totals
    step: int = 0


def init(world: World, config: Config, seed: int = 0) -> State:
    """Raises `InputError` for a world without contexts, a negative α, or a ridge of 0."""
    if not config.alpha >= 0:
        raise InputError(f"alpha is {config.alpha}: give a number, 0 or more")
    return State(world, np.random.default_rng(seed), ridge(world, config.ridge, "linucb"), zero_totals(world))


def choose(state: State, config: Config) -> Array:
    """[R]: the arm of each run."""
    context = state.world.context
    assert context is not None
    index = state.ridge.mean(context) + config.alpha * np.sqrt(state.ridge.variance(context))
    return argmax(index, state.rng.random(len(index)))


def update(state: State, config: Config, arm: Array, reward: Array) -> None:
    """A += x xᵀ, b += R x."""
    assert state.world.context is not None
    state.ridge.learn(state.world.context, arm, reward)


def train(state: State, config: Config, steps: int = 1000, every: int = 10) -> Iterator[Metrics]:
    """Plays until step `steps`; yields after every `every` of them."""
    yield from play(state, config, choose, update, steps, every)
