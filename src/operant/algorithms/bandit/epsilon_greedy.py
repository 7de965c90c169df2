"""ε-greedy: mostly the arm that looks best, now and then any arm (Sutton and Barto 2018, sections 2.4 to 2.6).

    Q <- initial
    repeat
        choose    with probability ε any arm, else arg max Q, ties at random
        update    N(a) <- N(a) + 1,  Q(a) <- Q(a) + [R - Q(a)] / N(a)      (or a constant α in place of 1 / N)

ε = 0 is the greedy algorithm. It explores after all if `initial` is optimistic: every reward is then a disappointment,
and another arm looks better. A constant α forgets what is long ago, which a world that changes asks for.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from operant.bandits.choice import argmax
from operant.bandits.play import Array, Metrics, Totals, play, zero_totals
from operant.bandits.worlds import World
from operant.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    epsilon: float = 0.1
    """ε: share of steps in which any arm is drawn."""
    decay: float = 0.0
    """How fast ε falls: in step t it is ε / (1 + decay (t - 1))."""
    initial: float = 0.0
    """What every arm is believed to pay at first; above all rewards, it is optimistic."""
    step_size: float | None = None
    """α, how far an estimate moves towards a reward; none = 1 / N, which makes it the mean of all."""


@dataclasses.dataclass
class State:
    world: World
    rng: np.random.Generator
    value: Array
    """Q [R, K]."""
    count: Array
    """N [R, K]."""
    totals: Totals
    step: int = 0


def init(world: World, config: Config, seed: int = 0) -> State:
    """Raises `InputError` for an ε outside [0, 1] or a step size outside (0, 1]."""
    if not 0 <= config.epsilon <= 1:
        raise InputError(f"epsilon is {config.epsilon}: give a number from 0 to 1")
    if config.step_size is not None and not 0 < config.step_size <= 1:
        raise InputError(f"step_size is {config.step_size}: give a number above 0, up to 1, or none")
    value = np.full(world.shape, config.initial, dtype=np.float64)
    return State(world, np.random.default_rng(seed), value, np.zeros(world.shape), zero_totals(world))


def choose(state: State, config: Config) -> Array:
    """[R]: the arm of each run."""
    epsilon = config.epsilon / (1 + config.decay * state.step)
    runs, arms = state.value.shape
    explore, which = state.rng.random(runs) < epsilon, state.rng.random(runs)
    return np.where(explore, (which * arms).astype(np.int64), argmax(state.value, which))


def update(state: State, config: Config, arm: Array, reward: Array) -> None:
    """Q(a) += α [R - Q(a)] (eq. 2.3 and 2.5)."""
    run = np.arange(len(arm))
    count = state.count[run, arm] + 1
    value = state.value[run, arm]
    step_size = 1 / count if config.step_size is None else config.step_size
    state.count[run, arm] = count
    state.value[run, arm] = value + step_size * (reward - value)


def train(state: State, config: Config, steps: int = 1000, every: int = 10) -> Iterator[Metrics]:
    """Plays until step `steps`; yields after every `every` of them."""
    yield from play(state, config, choose, update, steps, every)
