"""What a solver returns, and the equation that says how far it can be from the truth.

For γ < 1, any v and the changes d = T v - v, where T is the Bellman operator (MacQueen 1966; Porteus 1971):

    T v + γ/(1-γ) min d  <=  V*  <=  T v + γ/(1-γ) max d

so the middle of the two is at most half their distance from V*, however v was found. The policy that is greedy in v
loses at most that distance. Rounding is counted in, so the bound holds for what the machine has computed.

For γ = 1, let h >= 1 + P_π h for the greedy policy π, so at least its steps to an end, and T_π v >= v - c. Then
V* >= v - c h. And if u = v + ε h satisfies u >= T u + η with η > 0, then V* <= u, and every policy that may go on for
ever loses without limit: Σ_{k<n} r <= u - P^n u - n η (compare Bertsekas and Tsitsiklis 1991, proposition 1).
"""

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.mdp.backup import NONE, optimal_backup
from operant.mdp.model import MDP

Metrics = dict[str, float]
EPSILON = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True)
class Solution:
    """A value function, the policy that is greedy in it, and what is guaranteed of them."""

    value: NDArray[np.float64]
    """[S]: the answer; V* lies within `error` of it in every state."""
    policy: NDArray[np.int64]
    """[S]: the action of each state, the lowest of equals; -1 at ends."""
    error: float
    """max |value - V*| is at most this, and V* - V_policy at most twice this."""
    reached: bool
    """Whether the error that was asked for is reached."""
    sweeps: int
    """Sweeps over all rows of the model; those over one policy's rows count by their share."""
    seconds: float

    @property
    def lower(self) -> NDArray[np.float64]:
        return self.value - self.error

    @property
    def upper(self) -> NDArray[np.float64]:
        return self.value + self.error


@dataclasses.dataclass
class State:
    """What solvers by sweeps go on from."""

    mdp: MDP = dataclasses.field(metadata={"saved": False})
    value: NDArray[np.float64]
    result: Solution | None = dataclasses.field(default=None, metadata={"saved": False})
    step: int = 0


def begin(mdp: MDP, value: NDArray[np.float64] | None) -> State:
    """From `value`, or from 0. Raises `InputError` if γ is not below 1, and for values of another model."""
    require_discount(mdp)
    start = np.zeros(mdp.states) if value is None else np.array(value, dtype=np.float64)
    if start.shape != (mdp.states,) or not np.isfinite(start).all():
        raise InputError(
            f"the values to start from have the shape {start.shape}; give {mdp.states} finite numbers, one a state"
        )
    start[mdp.end] = 0.0
    return State(mdp, start)


def require_discount(mdp: MDP) -> None:
    """Raise `InputError` unless γ < 1: these bounds are those of a discounted model."""
    if not mdp.gamma < 1:
        raise InputError(
            f"the discount gamma is {mdp.gamma}: this solver needs one below 1. Give a discount such as 0.99"
        )


def half_span(mdp: MDP, low: float, high: float) -> float:
    """γ/(1-γ) (high - low)/2: how far V* can be from T value plus the middle of the bounds, but for rounding."""
    return mdp.gamma / (1 - mdp.gamma) * (high - low) / 2


def _unit(mdp: MDP) -> float:
    """A sum of K products is off by at most K u of its terms' sizes, and a row of probabilities by K u from 1."""
    return (int(np.diff(mdp.start).max(initial=0)) + 4) * EPSILON


def certify_episodic(
    mdp: MDP, value: NDArray[np.float64], steps: NDArray[np.float64], greedy: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """For γ = 1: (v, error) such that |v - V*| <= error in every state; the error is inf where nothing can be proved.

    `steps` is a guess of the steps to an end under the slowest of the best policies. What follows from it is checked.
    """
    going, out = ~mdp.end, np.empty(mdp.states)
    unit = _unit(mdp)
    paid = np.abs(mdp.reward).max(initial=0.0)

    def rounding(v: NDArray[np.float64]) -> float:
        """How wrong v - T v may be."""
        return float(unit * (paid + 2 * np.abs(v).max(initial=0.0)))

    optimal_backup(mdp.rows, mdp.gamma, value, out, greedy)
    after = mdp.matrix()[greedy[going]] @ steps
    shortest = float((steps[going] - after).min(initial=1.0)) - rounding(steps)
    if not (np.isfinite(steps).all() and shortest > 0 and (steps[mdp.end] == 0).all() and (steps >= 0).all()):
        return value, math.inf
    h = steps / shortest
    lower = value - (max(0.0, float((value - out)[going].max(initial=0.0))) + rounding(value)) * h
    rise = max(0.0, float((out - value)[going].max(initial=0.0))) + rounding(value)
    for scale in (4, 64, 1024, 2**20):
        upper = value + scale * rise * h
        optimal_backup(mdp.rows, mdp.gamma, upper, out, NONE)
        if (upper - out > 2 * rounding(upper))[going].all():
            return (lower + upper) / 2, float((upper - lower).max()) / 2 * (1 + 4 * EPSILON)
    return value, math.inf


def only_rounding(mdp: MDP, value: NDArray[np.float64], error: float) -> bool:
    """Whether bounds this far apart may be rounding alone: another sweep need not bring them closer."""
    return error < 100 * EPSILON * float(np.abs(value).max(initial=1e-300)) / (1 - mdp.gamma)


def certify(
    mdp: MDP, value: NDArray[np.float64], out: NDArray[np.float64], greedy: NDArray[np.int64]
) -> tuple[float, float]:
    """One full sweep: out = T value and the greedy rows; (shift, error) such that |out + shift - V*| <= error.

    The shift belongs to states that are no ends; their value is 0, and so is their change, which the bounds count.
    """
    gamma, unit = mdp.gamma, _unit(mdp)
    low, high = optimal_backup(mdp.rows, gamma, value, out, greedy)
    if not gamma * (1 + unit) < 1 or not math.isfinite(high - low):
        return 0.0, math.inf
    factor = gamma / (1 - gamma)
    wrong = unit * (np.abs(mdp.reward).max(initial=0.0) + gamma * np.abs(value).max(initial=0.0))
    slack = wrong * (1 + 2 * factor) + factor * max(abs(low), abs(high)) * 2 * unit / (1 - gamma * (1 + unit))
    return factor * (low + high) / 2, half_span(mdp, low, high) + float(slack)


def solution(
    mdp: MDP,
    value: NDArray[np.float64],
    greedy: NDArray[np.int64],
    shift: float,
    error: float,
    wanted: float,
    sweeps: float,
    started: float,
) -> Solution:
    """The answer after a certifying sweep."""
    answer = np.where(mdp.end, 0.0, value + shift)
    policy = np.where(greedy >= 0, mdp.action[greedy], -1).astype(np.int64) if len(mdp.action) else greedy.copy()
    return Solution(answer, policy, error, error <= wanted, math.ceil(sweeps), time.perf_counter() - started)


def answer(state: Any, steps: Iterator[Metrics]) -> Solution:
    """The result of a solver's state, after all the steps that lead to it."""
    for _ in steps:
        pass
    return state.result
