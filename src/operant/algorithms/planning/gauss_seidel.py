"""Gauss-Seidel value iteration: value iteration in place, each state from the newest values of the others.

    repeat
        for s in order:   v(s) <- max_a [ r(s, a) + γ Σ_s' p(s' | s, a) v(s') ]
        turn the order round
    until one full sweep proves that v is close enough to V*

What is found out about one state is used at once by the next, so on grids and chains a sweep carries values as far as
the order of the states goes. The states follow one another, so it has one thread. It needs no discount where every
policy ends, or loses by going on. (Bertsekas and Tsitsiklis 1989, section 4.1; Sutton and Barto, section 4.4.)
"""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from operant.mdp.backup import gauss_seidel_backup
from operant.mdp.episodic import endless
from operant.mdp.model import MDP
from operant.mdp.solution import Metrics, Solution, State, answer, begin, prove, solution, unchanged


@dataclasses.dataclass(frozen=True)
class Config:
    error: float = 1e-6
    """The largest distance from the optimal values that is accepted, in every state."""
    max_sweeps: int = 1_000_000
    """Stop here if that is not reached; the answer says so."""


def init(mdp: MDP, value: NDArray[np.float64] | None = None) -> State:
    """Starts from `value`; if that is not given, from what one step pays at most.

    Raises InputError if γ = 1 and from some state no end can be reached.
    """
    return begin(mdp, value)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every sweep; `state.result` is the answer at the end.

    Raises InputError if γ = 1 and a policy that may never end does not lose by it.
    """
    mdp, started = state.mdp, time.perf_counter()
    out, greedy = np.empty(mdp.states), np.empty(mdp.states, dtype=np.int64)
    enough = config.error * max(1 - mdp.gamma, 1e-2)
    while state.result is None:
        change = gauss_seidel_backup(mdp.rows, mdp.gamma, state.value, state.step % 2 == 1)
        state.step += 1
        yield {"bound/largest_change": change}
        over = state.step >= config.max_sweeps - 1
        # Bounds may be close while changes are still large: look after 8, 16, 32 ... sweeps too.
        if change <= enough or over or (state.step >= 8 and state.step.bit_count() == 1):
            value, error = prove(mdp, state.value, out, greedy)
            yield {"bound/error": error, "bound/largest_change": change}
            still = unchanged(state.value, change)
            if still and error == np.inf and mdp.gamma == 1:
                raise endless()
            if error <= config.error or still or over:
                state.result = solution(mdp, value, greedy, error, config.error, state.step + 1, started, state.merged)
            elif mdp.gamma < 1:
                state.value = value
            enough = min(enough, change / 10)


def solve(mdp: MDP, config: Config | None = None, value: NDArray[np.float64] | None = None) -> Solution:
    """The answer in one call."""
    state = init(mdp, value)
    return answer(state, train(state, config or Config()))
