"""What every algorithm that learns action values from samples is told: how long, how fast, how curious.

α_n = α n^-ω                          the step of the n-th visit to a pair of state and action
ε_t = max(ε_end, ε - slope t)         the chance of any action at step t
"""

import dataclasses
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import overload, register_jitable
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.core.linear import Active, Features, largest, toward
from operant.core.random import Stream, stream

Metrics = dict[str, float]
REPORTS = 200
"""Reports of a run, where their spacing is not given."""


class Rule(NamedTuple):
    """The settings as a compiled loop takes them."""

    gamma: float
    alpha: float
    alpha_power: float
    epsilon: float
    epsilon_end: float
    slope: float
    """How much ε goes down in a step."""
    clock: NDArray[np.int64]
    """[1]: steps done."""
    visits: NDArray[np.int64]
    """[X, A]: updates of each pair; empty where α is constant."""
    random: Stream


@dataclasses.dataclass(frozen=True)
class Sampling:
    steps: int = 500_000
    """Steps in the world."""
    gamma: float | None = None
    """γ: the discount of a step; none = that of the model, or 0.99 where there is none."""
    report_every: int = 0
    """Steps between reports; 0 = a two-hundredth of the run."""

    def until_report(self, step: int) -> int:
        """Steps from `step` to the next report or the end."""
        every = self.report_every or max(1, self.steps // REPORTS)
        return min(every - step % every, self.steps - step)


@dataclasses.dataclass(frozen=True)
class Learning(Sampling):
    alpha: float = 0.1
    """α: the step size; with features that of every weight."""
    alpha_power: float = 0.0
    """ω: the n-th update of a pair moves by α n^-ω; 0 = always by α, above 0.5 values settle. Tables only."""
    epsilon: float = 0.1
    """ε: the chance to try any action."""
    epsilon_end: float | None = None
    """ε at the end, reached in a line; none = it stays as it is."""
    initial: float = 0.0
    """All values before learning; high ones make the learner try everything."""

    def rule(self, state: Any) -> Rule:
        """The settings for the next stretch of a run whose state has world, visits, random and step."""
        last = self.epsilon if self.epsilon_end is None else self.epsilon_end
        gamma = discount_of(state.world, self)
        slope, clock = (self.epsilon - last) / self.steps, np.array([state.step], dtype=np.int64)
        return Rule(
            gamma, self.alpha, self.alpha_power, self.epsilon, last, slope, clock, state.visits, state.random
        )  # fmt: skip


def discount_of(world: Any, config: Sampling) -> float:
    """γ as it is set, else as the world has it, else 0.99."""
    return float(getattr(world, "gamma", 0.99) if config.gamma is None else config.gamma)


def begin(world: Any, config: Learning, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64], Stream]:
    """(w [X, A], visits, random numbers) at the start of a run. Raises `InputError` for settings out of their range."""
    last = config.epsilon if config.epsilon_end is None else config.epsilon_end
    gamma = discount_of(world, config)
    for name, x, good, needed in (
        ("steps", config.steps, config.steps >= 1, "a whole number, 1 or more"),
        ("alpha", config.alpha, 0 < config.alpha < np.inf, "a finite number above 0"),
        ("alpha_power", config.alpha_power, 0 <= config.alpha_power <= 1, "a number from 0 to 1"),
        ("epsilon", config.epsilon, 0 <= config.epsilon <= 1, "a number from 0 to 1"),
        ("epsilon_end", last, 0 <= last <= config.epsilon, f"a number from 0 to epsilon, which is {config.epsilon}"),
        ("gamma", gamma, 0 <= gamma <= 1, "a number from 0 to 1"),
        ("initial", config.initial, np.isfinite(config.initial), "a finite number"),
    ):
        if not good:
            raise InputError(f"{name} is {x}: give {needed}")
    counted = config.alpha_power > 0
    if counted and world.features is not None:
        raise InputError(
            f"alpha_power is {config.alpha_power}, which counts visits to single states; with features leave it at 0"
        )
    w = np.full(world.shape, config.initial)
    return w, np.zeros(world.shape if counted else (0, 0), dtype=np.int64), stream(seed, 1)


@register_jitable
def explore(rule: Rule) -> float:
    """ε of this step, after which the clock stands one further."""
    t = int(rule.clock[0])
    rule.clock[0] = t + 1
    return max(rule.epsilon_end, rule.epsilon - rule.slope * t)


def rate(rule: Rule, x: Features, a: int) -> float:
    """α of this update of Q(s, a)."""
    if rule.alpha_power == 0 or isinstance(x, Active):
        return rule.alpha
    rule.visits[x, a] += 1
    return rule.alpha * float(rule.visits[x, a]) ** -rule.alpha_power


@overload(rate)
def _rate(rule: Any, x: Any, a: Any) -> Any:
    def counted(rule: Any, x: Any, a: Any) -> Any:
        if rule.alpha_power == 0:
            return rule.alpha
        rule.visits[x, a] += 1
        return rule.alpha * float(rule.visits[x, a]) ** -rule.alpha_power

    def constant(rule: Any, x: Any, a: Any) -> Any:
        return rule.alpha

    return constant if isinstance(x, types.NamedTuple) else counted


@numba.njit(cache=True)
def q_update(
    w: NDArray[np.float64], x: Features, a: int, reward: float, discount: float, after: Features, n: int, alpha: float
) -> None:
    """Q(s, a) += α [r + discount max_a' Q(s', a') - Q(s, a)]; s' has n actions, and the discount is 0 at an end.

    Sutton and Barto, equation 6.8. What is at s' is not read where the discount is 0.
    """
    toward(w, x, a, reward + discount * largest(w, after, n) if discount > 0 else reward, alpha)


def finished(world: Any, before: int) -> Metrics:
    """What the episodes returned that have ended since there were `before`; of many the last that the world keeps."""
    total, kept = int(world.place[2]), len(world.returns)
    which = np.arange(max(before, total - kept), total) % kept
    found: Metrics = {"rollout/episodes": float(total)}
    if len(which):
        found["rollout/episode_return"] = float(world.returns[which].mean())
        found["rollout/episode_length"] = float(world.lengths[which].mean())
    return found
