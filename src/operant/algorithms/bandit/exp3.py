"""EXP3: no regret against rewards that an adversary has chosen (Auer, Cesa-Bianchi, Freund and Schapire 2002).

    Ĝ <- 0
    repeat
        choose    a ~ p,  p = (1 - γ) softmax(γ Ĝ / K) + γ / K
        update    Ĝ(a) <- Ĝ(a) + R / p(a)

R / p(a) for the arm pulled and 0 for the others is an unbiased estimate of every arm's reward, so Ĝ estimates what
each arm would have paid from the start. The mixture with γ / K keeps its variance finite. Nothing is assumed of the
rewards but that they lie between 0 and 1, and chance keeps an adversary from knowing which arm comes next.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from operant.bandits.choice import sample, softmax
from operant.bandits.play import Array, Metrics, Totals, play, zero_totals
from operant.bandits.worlds import World, require
from operant.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    gamma: float | None = None
    """γ: share of uniform choices; none = in every step what is best for a run that ends there."""


@dataclasses.dataclass
class State:
    world: World
    rng: np.random.Generator
    gain: Array
    """Ĝ [R, K]."""
    policy: Array
    """p [R, K], the one that chose last."""
    totals: Totals
    step: int = 0


def init(world: World, config: Config, seed: int = 0) -> State:
    """Raises `InputError` for a γ outside (0, 1] or a world whose rewards are not all from 0 to 1."""
    require(world, "exp3", "unit")
    if config.gamma is not None and not 0 < config.gamma <= 1:
        raise InputError(f"gamma is {config.gamma}: give a number above 0, up to 1, or none")
    rng, (runs, arms) = np.random.default_rng(seed), world.shape
    return State(world, rng, np.zeros((runs, arms)), np.full((runs, arms), 1 / arms), zero_totals(world))


def tuned(arms: int, steps: int) -> float:
    """γ = min { 1, sqrt(K ln K / ((e - 1) T)) }: regret at most 2.63 sqrt(T K ln K) in T steps (corollary 3.2)."""
    return min(1.0, math.sqrt(arms * math.log(arms) / ((math.e - 1) * steps)))


def choose(state: State, config: Config) -> Array:
    """[R]: the arm of each run."""
    runs, arms = state.gain.shape
    gamma = tuned(arms, state.step + 1) if config.gamma is None else config.gamma
    state.policy = (1 - gamma) * softmax(gamma / arms * state.gain) + gamma / arms
    return sample(state.policy, state.rng.random(runs))


def update(state: State, config: Config, arm: Array, reward: Array) -> None:
    """Ĝ(a) += R / p(a)."""
    run = np.arange(len(arm))
    state.gain[run, arm] += reward / state.policy[run, arm]


def train(state: State, config: Config, steps: int = 1000, every: int = 10) -> Iterator[Metrics]:
    """Plays until step `steps`; yields after every `every` of them."""
    yield from play(state, config, choose, update, steps, every)
