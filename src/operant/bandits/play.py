"""The loop that every bandit algorithm runs in, and what is counted on the way.

repeat
    choose     an arm in every run
    pull       it, and see its reward
    update     what is believed of it
    advance    the world
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from operant.bandits.worlds import World

Metrics = dict[str, float]
Array = NDArray[Any]


@dataclasses.dataclass
class Totals:
    """Sums over the steps of each run."""

    reward: Array
    """[R]."""
    optimal: Array
    """[R]: steps in which no arm was expected to pay more."""
    regret: Array
    """[R]: expected rewards missed."""


@runtime_checkable
class State(Protocol):
    """What the loop asks of an algorithm's state."""

    world: World
    totals: Totals
    step: int


def zero_totals(world: World) -> Totals:
    """Nothing played yet."""
    return Totals(*(np.zeros(world.shape[0]) for _ in range(3)))


def play(
    state: State,
    config: Any,
    choose: Callable[[Any, Any], Array],
    update: Callable[[Any, Any, Array, Array], None],
    steps: int,
    every: int,
) -> Iterator[Metrics]:
    """Yields after every `every` steps and at the end: `choose(state, config)`, `update(state, config, arm, reward)`.

    Rewards and the share of optimal actions are means over runs and the steps since the last yield. Their `_error` is
    the standard error over runs. `regret` is that of all steps so far; 95% of the runs lie from `_low` to `_high`.
    """
    world, totals = state.world, state.totals
    while state.step < steps:
        before, count = dataclasses.replace(totals), min(every, steps - state.step)
        for _ in range(count):
            arm = choose(state, config)
            reward, gap = world.pull(arm)
            update(state, config, arm, reward)
            world.advance()
            totals.reward = totals.reward + reward
            totals.optimal = totals.optimal + (gap <= 0)
            totals.regret = totals.regret + gap
            state.step += 1
        reward, optimal = (totals.reward - before.reward) / count, (totals.optimal - before.optimal) / count
        low, high = np.quantile(totals.regret, (0.025, 0.975))
        yield {
            "bandit/reward": float(reward.mean()),
            "bandit/reward_error": standard_error(reward),
            "bandit/optimal_action": float(optimal.mean()),
            "bandit/optimal_action_error": standard_error(optimal),
            "bandit/regret": float(totals.regret.mean()),
            "bandit/regret_error": standard_error(totals.regret),
            "bandit/regret_low": float(low),
            "bandit/regret_high": float(high),
        }


def standard_error(runs: Array) -> float:
    """Of the mean over runs; 0 for a single one."""
    return float(runs.std(ddof=1)) / math.sqrt(len(runs)) if len(runs) > 1 else 0.0
