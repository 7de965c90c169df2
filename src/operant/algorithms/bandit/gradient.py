"""Gradient bandit: preferences climb the expected reward (Sutton and Barto 2018, section 2.8).

    H <- 0
    repeat
        choose    a ~ π = softmax(H)
        update    H(k) <- H(k) + α (R - R̄) (1[k = a] - π(k))  for every arm k,  R̄ a mean of rewards so far

The simplest policy gradient: the mean of the update is α times the gradient of E[R] in H. The baseline R̄ changes
nothing of that mean and much of its noise. The book's equation has the mean of the rewards before this one, its figure
2.5 was made with this one included (its footnote); the update is then 1 - 1/t times as long.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

from operant.bandits.choice import sample, softmax
from operant.bandits.play import Array, Metrics, Totals, play, zero_totals
from operant.bandits.worlds import World
from operant.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    step_size: float = 0.1
    """α: how far a reward moves the preferences."""
    baseline: Literal["including", "before", "none"] = "including"
    """What a reward is compared with: the mean of all up to and including it, of those before it (0 at first), or 0."""


@dataclasses.dataclass
class State:
    world: World
    rng: np.random.Generator
    preference: Array
    """H [R, K]."""
    policy: Array
    """π [R, K], the one that chose last."""
    mean: Array
    """Mean of all rewards [R]."""
    totals: Totals
    step: int = 0


def init(world: World, config: Config, seed: int = 0) -> State:
    """Raises `InputError` unless the step size is above 0 and the baseline one of the three."""
    if config.baseline not in ("including", "before", "none"):
        raise InputError(f'baseline is "including", "before" or "none", not {config.baseline!r}')
    if not config.step_size > 0:
        raise InputError(f"step_size is {config.step_size}: give a number above 0")
    rng, (runs, arms) = np.random.default_rng(seed), world.shape
    preference, policy = np.zeros((runs, arms)), np.full((runs, arms), 1 / arms)
    return State(world, rng, preference, policy, np.zeros(runs), zero_totals(world))


def choose(state: State, config: Config) -> Array:
    """[R]: the arm of each run."""
    state.policy = softmax(state.preference)
    return sample(state.policy, state.rng.random(len(state.policy)))


def update(state: State, config: Config, arm: Array, reward: Array) -> None:
    """H += α (R - R̄) (1[a] - π) (eq. 2.12)."""
    before = state.mean
    state.mean = before + (reward - before) / (state.step + 1)
    baseline = {"including": state.mean, "before": before, "none": 0.0}[config.baseline]
    push = config.step_size * (reward - baseline)
    state.preference -= push[:, None] * state.policy
    state.preference[np.arange(len(arm)), arm] += push


def train(state: State, config: Config, steps: int = 1000, every: int = 10) -> Iterator[Metrics]:
    """Plays until step `steps`; yields after every `every` of them."""
    yield from play(state, config, choose, update, steps, every)
