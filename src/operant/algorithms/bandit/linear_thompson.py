"""Linear Thompson sampling: draw the weights of the features from what is believed of them (Agrawal and Goyal 2013).

    A <- λ I,  b <- 0
    repeat
        choose    θ ~ N(θ̂, v² A⁻¹),  θ̂ = A⁻¹ b;  arg max_k x_k·θ
        update    A <- A + x xᵀ,  b <- b + R x,  with x the features of the arm pulled

With normal noise of deviation v and the prior N(0, v²/λ I), N(θ̂, v² A⁻¹) is the posterior. Where each arm has a θ of
its own, A and b belong to the arm.
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
    v: float = 0.3
    """How wide the draws are, in the units of the reward; the posterior's where it is the deviation of the noise."""
    ridge: float = 1.0
    """λ: how strongly θ̂ is held near 0 at first."""


@dataclasses.dataclass
class State:
    world: World
    rng: np.random.Generator
    ridge: Ridge
    root: Array
    """L with L Lᵀ = A⁻¹ [R, M, D, D]: kept, since it changes for one arm of a run in a step."""
    totals: Totals
    step: int = 0


def init(world: World, config: Config, seed: int = 0) -> State:
    """Raises `InputError` for a world without contexts, a negative v, or a ridge of 0."""
    if not config.v >= 0:
        raise InputError(f"v is {config.v}: give a number, 0 or more")
    start = ridge(world, config.ridge, "linear_thompson")
    return State(world, np.random.default_rng(seed), start, np.linalg.cholesky(start.inverse), zero_totals(world))


def choose(state: State, config: Config) -> Array:
    """[R]: the arm of each run."""
    context = state.world.context
    assert context is not None
    noise = state.rng.standard_normal(state.ridge.theta.shape)
    theta = state.ridge.theta + config.v * (state.root @ noise[..., None])[..., 0]
    return argmax((context * theta).sum(-1), state.rng.random(len(theta)))


def update(state: State, config: Config, arm: Array, reward: Array) -> None:
    """A += x xᵀ, b += R x."""
    assert state.world.context is not None
    state.ridge.learn(state.world.context, arm, reward)
    run, model = np.arange(len(arm)), state.ridge.model(arm)
    state.root[run, model] = np.linalg.cholesky(state.ridge.inverse[run, model])


def train(state: State, config: Config, steps: int = 1000, every: int = 10) -> Iterator[Metrics]:
    """Plays until step `steps`; yields after every `every` of them."""
    yield from play(state, config, choose, update, steps, every)
