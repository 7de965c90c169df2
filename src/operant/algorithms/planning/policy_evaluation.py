"""Policy evaluation by sweeps (Bellman 1957): what a policy is worth, to an error that is proved.

    v(s) <- r_π(s) + γ Σ_s' P_π(s' | s) v(s')          for all s, until the bounds are close enough together

A policy makes of a decision process a reward process, which is a decision process with one action in every state. So
the sweeps and their bounds are those of value iteration, and without a discount those of Gauss-Seidel. For models of
few states `MarkovRewardProcess.value` solves v = (I - γ P_π)^-1 r_π at once.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from operant.algorithms.planning import gauss_seidel, value_iteration
from operant.mdp.chain import as_decision_process, policy_reward_process
from operant.mdp.model import MDP, Values
from operant.mdp.solution import Metrics, Solution, State, answer


@dataclasses.dataclass(frozen=True)
class Config:
    error: float = 1e-6
    """The largest distance from the policy's values that is accepted, in every state."""
    max_sweeps: int = 1_000_000
    """Stop here if that is not reached; the answer says so."""


def init(mdp: MDP, policy: Values, value: NDArray[np.float64] | None = None) -> State:
    """`policy` is [S], an action for each state, or [S, A], their probabilities.

    Raises InputError for a policy of another model, and if γ = 1 and from some state it never reaches an end, unless it
    is paid nothing from there on.
    """
    process = as_decision_process(policy_reward_process(mdp, policy))
    return (value_iteration if mdp.gamma < 1 else gauss_seidel).init(process, value)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every sweep; `state.result` is the answer at the end."""
    if state.mdp.gamma < 1:
        yield from value_iteration.train(state, value_iteration.Config(config.error, config.max_sweeps))
    else:
        yield from gauss_seidel.train(state, gauss_seidel.Config(config.error, config.max_sweeps))


def solve(mdp: MDP, policy: Values, config: Config | None = None, value: NDArray[np.float64] | None = None) -> Solution:
    """The answer in one call. Its actions are those of the process: 0 in every state that is no end."""
    state = init(mdp, policy, value)
    return answer(state, train(state, config or Config()))
