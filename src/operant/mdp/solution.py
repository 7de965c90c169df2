"""What a solver returns, and the equation that says how far it can be from the truth.

For γ < 1, any v and the changes d = T v - v, where T is the Bellman operator (MacQueen 1966; Porteus 1971):

    T v + γ/(1-γ) min d  <=  V*  <=  T v + γ/(1-γ) max d

so the middle of the two is at most half their distance from V*, however v was found. The policy that is greedy in v
loses at most that distance. Rounding is counted in, so the bound holds for what the machine has computed.
"""

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.mdp.backup import NO_COPY, Rows, best_rewards, optimal_backup
from operant.mdp.episodic import (
    EPSILON,
    certify_episodic,
    require_loss,
    rows_toward_ends,
    slowest_steps,
    unit_of_rounding,
)
from operant.mdp.free_loops import Merged, expand, merge_free_loops
from operant.mdp.model import MDP

Metrics = dict[str, float]


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
    merged: Merged | None = dataclasses.field(default=None, metadata={"saved": False})
    """How `mdp` comes from the model that was given, where free loops were merged."""


def begin(mdp: MDP, value: NDArray[np.float64] | None) -> State:
    """From `value`, or from what one step pays at most. Without a discount, states in free loops become one.

    Raises `InputError` for values of another model, and if γ = 1 and from some state no end can be reached.
    """
    if value is not None and (np.shape(value) != (mdp.states,) or not np.isfinite(value).all()):
        raise InputError(
            f"the values to start from have the shape {np.shape(value)}; give {mdp.states} finite numbers, one a state"
        )
    merged = merge_free_loops(mdp) if mdp.gamma == 1 else None
    if merged is not None:
        mdp, value = merged.mdp, None
    if mdp.gamma == 1:
        rows_toward_ends(mdp, merged and merged.label)
    if value is None:
        return State(mdp, best_rewards(mdp.first, mdp.reward), merged=merged)
    start = np.array(value, dtype=np.float64)
    start[mdp.end] = 0.0
    return State(mdp, start, merged=merged)


def require_discount(mdp: MDP) -> None:
    """Raise `InputError` unless γ < 1: these bounds are those of a discounted model."""
    if not mdp.gamma < 1:
        raise InputError(
            f"the discount gamma is {mdp.gamma}: this solver needs one below 1. Give a discount such as 0.99"
        )


def half_span(mdp: MDP, low: float, high: float) -> float:
    """γ/(1-γ) (high - low)/2: how far V* can be from T value plus the middle of the bounds, but for rounding."""
    return mdp.gamma / (1 - mdp.gamma) * (high - low) / 2


def unchanged(value: NDArray[np.float64], change: float) -> bool:
    """Whether a sweep changed values by no more than rounding does: no other will."""
    return change <= 8 * EPSILON * float(np.abs(value).max(initial=0.0))


def only_rounding(mdp: MDP, value: NDArray[np.float64], error: float) -> bool:
    """Whether bounds this far apart may be rounding alone: another sweep need not bring them closer."""
    return error < 30 * unit_of_rounding(mdp) * float(np.abs(value).max(initial=1e-300)) / (1 - mdp.gamma)


def certify(
    mdp: MDP,
    value: NDArray[np.float64],
    out: NDArray[np.float64],
    greedy: NDArray[np.int64],
    copy: Rows = NO_COPY,
) -> tuple[float, float]:
    """One full sweep: out = T value, the greedy rows, a copy of the new ones of these; what is proved of V*.

    (shift, error) such that |out + shift - V*| <= error. The shift belongs to states that are no ends; their value is
    0, and so is their change, which the bounds count.
    """
    gamma, unit = mdp.gamma, unit_of_rounding(mdp)
    low, high = optimal_backup(mdp.rows, gamma, value, out, greedy, copy)
    if not gamma * (1 + unit) < 1 or not math.isfinite(high - low):
        return 0.0, math.inf
    factor = gamma / (1 - gamma)
    wrong = unit * max(mdp.largest_reward + gamma * np.abs(value).max(initial=0.0), 1e-290)
    slack = wrong * (1 + 2 * factor) + factor * max(abs(low), abs(high)) * 2 * unit / (1 - gamma * (1 + unit))
    return factor * (low + high) / 2, half_span(mdp, low, high) + float(slack)


def prove(
    mdp: MDP, value: NDArray[np.float64], out: NDArray[np.float64], greedy: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """(v, error) such that |v - V*| <= error, from one full sweep over any values, with or without a discount.

    Raises `InputError` if γ = 1 and the greedy policy can go on for ever without losing.
    """
    if mdp.gamma < 1:
        shift, error = certify(mdp, value, out, greedy)
        return shifted(mdp, out, shift), error
    optimal_backup(mdp.rows, 1.0, value, out, greedy, NO_COPY)
    steps = slowest_steps(mdp, value, greedy)
    if not np.isfinite(steps).all():
        require_loss(mdp, greedy)
    return certify_episodic(mdp, value, steps)


def shifted(mdp: MDP, value: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Every value but those of ends moved by as much."""
    return np.where(mdp.end, 0.0, value + shift)


def solution(
    mdp: MDP,
    value: NDArray[np.float64],
    greedy: NDArray[np.int64],
    error: float,
    wanted: float,
    sweeps: float,
    started: float,
    merged: Merged | None = None,
) -> Solution:
    """The answer, for the model that `mdp` was `merged` from."""
    if merged is not None:
        value, policy = expand(merged, value, greedy)
    else:
        policy = np.where(greedy >= 0, mdp.action[greedy], -1).astype(np.int64) if len(mdp.action) else greedy.copy()
    return Solution(value, policy, error, error <= wanted, math.ceil(sweeps), time.perf_counter() - started)


def answer(state: Any, steps: Iterator[Metrics]) -> Solution:
    """The result of a solver's state, after all the steps that lead to it."""
    for _ in steps:
        pass
    return state.result
