"""KL-UCB: the largest mean that what was seen does not yet rule out (Garivier and Cappé 2011).

    try every arm once
    repeat
        choose    arg max_a max { q : N(a) kl(Q(a), q) <= ln t + c ln ln t }, ties at random
        update    N(a) <- N(a) + 1,  Q(a) <- Q(a) + [R - Q(a)] / N(a)

kl is the divergence of two Bernoulli arms. UCB's square root is its lower bound 2 (p - q)²; with kl itself the regret
reaches the bound of Lai and Robbins where rewards are 0 or 1. The method holds for all rewards from 0 to 1.
"""

import dataclasses
import math
from collections.abc import Iterator

import numba
import numpy as np

from operant.bandits.bounds import bernoulli_kl
from operant.bandits.choice import argmax
from operant.bandits.play import Array, Metrics, Totals, play, zero_totals
from operant.bandits.worlds import World, require

TOLERANCE = 1e-9
"""Newton's method ends with a step shorter than this."""


@dataclasses.dataclass(frozen=True)
class Config:
    c: float = 0.0
    """Weight of ln ln t: the proof has 3, 0 is better in practice."""


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
    """Raises `InputError` for a world whose rewards are not all from 0 to 1."""
    require(world, "kl_ucb", "unit")
    rng, shape = np.random.default_rng(seed), world.shape
    return State(world, rng, np.zeros(shape), np.zeros(shape), zero_totals(world))


@numba.njit(cache=True)
def upper(p: float, level: float, least: float = 0.0) -> float:
    """The q >= p with kl(p, q) = level, by Newton's method; where that is below `least`, some number between the two.

    kl is convex in q, so from above every step comes nearer and stays above. Two upper bounds to begin with: Pinsker's,
    p + sqrt(level / 2), and what -(1 - p) ln(1 - q) <= kl(p, q) + entropy(p) gives.
    """
    if p >= 1:
        return 1.0
    entropy = -(1 - p) * math.log(1 - p) - (p * math.log(p) if p > 0 else 0.0)
    q = min(p + math.sqrt(level / 2), -math.expm1(-(level + entropy) / (1 - p)))
    while p < q < 1 and q >= least:
        move = (bernoulli_kl(p, q) - level) * q * (1 - q) / (q - p)
        q -= max(move, 0.0)
        if move < TOLERANCE:
            break
    return max(q, p)


@numba.njit(cache=True)
def index(value: Array, count: Array, level: float) -> Array:
    """[R, K]: the largest q with N kl(Q, q) <= level, exact for the largest of each run: no other is needed."""
    out = np.empty_like(value)
    for r in range(len(value)):
        best = 0.0
        for k in range(value.shape[1]):
            out[r, k] = upper(value[r, k], level / count[r, k], best)
            best = max(best, out[r, k])
    return out


def choose(state: State, config: Config) -> Array:
    """[R]: the arm of each run."""
    uniform = state.rng.random(len(state.value))
    if not state.count.all():
        return argmax(-state.count, uniform)  # every run has tried equally many arms, so all of them go on to the next
    log_t = math.log(state.step + 1)
    return argmax(index(state.value, state.count, log_t + config.c * math.log(log_t)), uniform)


def update(state: State, config: Config, arm: Array, reward: Array) -> None:
    """Q(a) += [R - Q(a)] / N(a)."""
    run = np.arange(len(arm))
    count = state.count[run, arm] + 1
    value = state.value[run, arm]
    state.count[run, arm] = count
    state.value[run, arm] = value + (reward - value) / count


def train(state: State, config: Config, steps: int = 1000, every: int = 10) -> Iterator[Metrics]:
    """Plays until step `steps`; yields after every `every` of them."""
    yield from play(state, config, choose, update, steps, every)
