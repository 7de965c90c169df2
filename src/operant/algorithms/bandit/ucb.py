"""UCB: the arm that could be best (Auer, Cesa-Bianchi and Fischer 2002; Sutton and Barto 2018, eq. 2.10).

    Q, N <- 0
    repeat
        choose    arg max_a Q(a) + c sqrt(ln t / N(a)), an arm never tried first, ties at random
        update    N(a) <- N(a) + 1,  Q(a) <- Q(a) + [R - Q(a)] / N(a)

The root is how wrong Q may still be. An arm is taken because it is good or because little is known of it; each time it
is, less is unknown. c = √2 is UCB1, for rewards from 0 to 1; for normal rewards √2 σ.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from operant.bandits.choice import argmax
from operant.bandits.play import Array, Metrics, Totals, play, zero_totals
from operant.bandits.worlds import World
from operant.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    c: float = math.sqrt(2)
    """How much doubt counts; √2 is UCB1."""


@dataclasses.dataclass
class State:
    world: World
    rng: np.random.Generator
    value: Array
    """Q [R, K]."""
    count: Array
    """N [R, K]."""
    doubt: Array
    """1 / sqrt(N) [R, K], infinite for an arm never tried: kept, since it changes for one arm of a run in a step."""
    totals: Totals
    step: int = 0


def init(world: World, config: Config, seed: int = 0) -> State:
    """Raises `InputError` unless c is above 0."""
    if not (config.c > 0 and math.isfinite(config.c)):
        raise InputError(f"c is {config.c}: give a number above 0; without doubt it is epsilon_greedy with epsilon 0")
    rng, shape = np.random.default_rng(seed), world.shape
    return State(world, rng, np.zeros(shape), np.zeros(shape), np.full(shape, np.inf), zero_totals(world))


def choose(state: State, config: Config) -> Array:
    """[R]: the arm of each run."""
    log_t = math.log(max(state.step + 1, 2))  # ln 1 = 0, and in the first step all arms are equal anyway
    index = state.doubt * (config.c * math.sqrt(log_t))
    index += state.value
    return argmax(index, state.rng.random(len(index)))


def update(state: State, config: Config, arm: Array, reward: Array) -> None:
    """Q(a) += [R - Q(a)] / N(a)."""
    run = np.arange(len(arm))
    count = state.count[run, arm] + 1
    value = state.value[run, arm]
    state.count[run, arm] = count
    state.value[run, arm] = value + (reward - value) / count
    state.doubt[run, arm] = 1 / np.sqrt(count)


def train(state: State, config: Config, steps: int = 1000, every: int = 10) -> Iterator[Metrics]:
    """Plays until step `steps`; yields after every `every` of them."""
    yield from play(state, config, choose, update, steps, every)
