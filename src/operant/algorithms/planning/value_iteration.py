"""Value iteration (Bellman 1957), stopped by a guarantee (Porteus 1971) and not by a small change.

    v <- max_a r(·, a)
    repeat
        optimise    v <- T v, with (T v)(s) = max_a [ r(s, a) + γ Σ_s' p(s' | s, a) v(s') ]
    until the bounds on V*, which one full sweep gives, are close enough together

The changes of a sweep become equal long before they become small: with γ = 0.95 a bound of 1e-6 takes a few dozen
sweeps where waiting for a small change takes hundreds.
"""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from operant.mdp.backup import NO_COPY, NONE, optimal_backup, quick_threads
from operant.mdp.model import MDP
from operant.mdp.solution import (
    Metrics,
    Solution,
    State,
    answer,
    begin,
    certify,
    half_span,
    only_rounding,
    require_discount,
    shifted,
    solution,
)


@dataclasses.dataclass(frozen=True)
class Config:
    error: float = 1e-6
    """The largest distance from the optimal values that is accepted, in every state."""
    max_sweeps: int = 1_000_000
    """Stop here if that is not reached; the answer says so."""


def init(mdp: MDP, value: NDArray[np.float64] | None = None) -> State:
    """Starts from `value`; if that is not given, from what one step pays at most.

    Raises InputError if γ is not below 1.
    """
    require_discount(mdp)
    return begin(mdp, value)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every sweep; `state.result` is the answer at the end."""
    mdp, started, found = state.mdp, time.perf_counter(), np.inf
    out, greedy = np.empty(mdp.states), np.empty(mdp.states, dtype=np.int64)
    with quick_threads(mdp.rows):
        while state.result is None:
            low, high = optimal_backup(mdp.rows, mdp.gamma, state.value, out, NONE, NO_COPY)
            state.value, out = out, state.value
            state.step += 1
            span, before = half_span(mdp, low, high), found
            found = min(found, span)
            yield {"bound/error": span, "bound/largest_change": max(abs(low), abs(high))}
            # Where rounding keeps the bounds apart, waiting does not help: the answer then says what it is worth.
            stuck = span >= before and only_rounding(mdp, state.value, span)
            if span <= config.error or stuck or state.step >= config.max_sweeps - 1:
                shift, error = certify(mdp, state.value, out, greedy)
                state.value, out = out, state.value
                state.step += 1
                if error <= config.error or stuck or state.step >= config.max_sweeps - 1:
                    best = shifted(mdp, state.value, shift)
                    state.result = solution(mdp, best, greedy, error, config.error, state.step, started)
                yield {"bound/error": error, "bound/largest_change": max(abs(low), abs(high))}


def solve(mdp: MDP, config: Config | None = None, value: NDArray[np.float64] | None = None) -> Solution:
    """The answer in one call."""
    state = init(mdp, value)
    return answer(state, train(state, config or Config()))
