"""Markov chains and Markov reward processes: what happens where nobody decides.

μ = μ P                            the stationary distribution
h = 1 + P h off the target, 0 on it   expected steps until it
v = r + γ P v = (I - γ P)^-1 r     the value of a reward process
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from operant.core.errors import InputError
from operant.mdp.model import MDP, ROUNDING, Array, Values

Sparse = Any
"""A `scipy.sparse.csr_array`, or what becomes one."""
DIRECT = 3000
"""Up to this many states systems are solved by elimination; above, step by step: factors of sparse models fill up."""


@dataclasses.dataclass(frozen=True, eq=False)
class MarkovChain:
    """States and where they lead. An end leads to itself for ever.

    Raises `InputError` where `transition` is not square or has a row that is no distribution.
    """

    transition: Sparse
    """[S, S]: p(s' | s), kept as a sparse matrix."""

    def __post_init__(self) -> None:
        p: Sparse = sparse.csr_array(self.transition).astype(np.float64)
        if p.shape[0] != p.shape[1] or p.shape[0] == 0:
            raise InputError(f"the transition matrix has the shape {p.shape}: give one with as many rows as columns")
        negative = np.flatnonzero(~(p.data >= 0))
        if len(negative):
            s = int(np.searchsorted(p.indptr, negative[0], side="right")) - 1
            raise InputError(f"state {s}: a probability is {p.data[negative[0]]}; give numbers from 0 to 1")
        wrong = np.abs(p.sum(1) - 1)
        if wrong.max() > ROUNDING:
            s = int(wrong.argmax())
            raise InputError(
                f"state {s}: the probabilities sum to {p[[s]].sum():.12g}, not to 1; mend the row, or "
                "let what is missing lead to an end"
            )
        p.eliminate_zeros()  # what has no chance is no way from one state to another
        object.__setattr__(self, "transition", sparse.csr_array(p))

    @property
    def states(self) -> int:
        return self.transition.shape[0]

    def classes(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(number of the communicating class of each state [S], whether each class is never left [C])."""
        count, label = csgraph.connected_components(self.transition, connection="strong")
        leaves = sparse.coo_array(self.transition)
        crossing = (label[leaves.coords[0]] != label[leaves.coords[1]]) & (leaves.data > 0)
        closed = np.ones(count, dtype=bool)
        closed[label[leaves.coords[0][crossing]]] = False
        return label.astype(np.int64), closed

    def stationary(self) -> NDArray[np.float64]:
        """[S]: the distribution μ = μ P. Raises `InputError` if there are several, one for each closed class."""
        label, closed = self.classes()
        if closed.sum() > 1:
            first, second = (int(np.argmax(label == c)) for c in np.flatnonzero(closed)[:2])
            raise InputError(
                f"the chain has {int(closed.sum())} classes that are never left, such as those of the states {first} "
                f"and {second}, so no single distribution is stationary: take one class at a time"
            )
        members = np.flatnonzero(label == np.flatnonzero(closed)[0])
        inner = self.transition[members][:, members]
        # One of the equations follows from the others; that μ sums to 1 takes its place.
        system = sparse.lil_array(sparse.eye_array(len(members)) - inner.T)
        system[-1, :] = 1.0
        right = np.zeros(len(members))
        right[-1] = 1.0
        found = np.zeros(self.states)
        weight: Any = sparse_linalg.spsolve(sparse.csc_array(system), right)
        found[members] = np.clip(weight, 0, None)
        return found / found.sum()

    def hitting_time(self, target: Values) -> NDArray[np.float64]:
        """[S]: expected steps until a state of `target`; inf where it may never be reached."""
        aim = np.zeros(self.states, dtype=bool)
        aim[np.asarray(target)] = True
        steps = np.full(self.states, np.inf)
        steps[aim] = 0.0
        sure = _surely_reaches(self.transition, aim) & ~aim
        if sure.any():
            inner = self.transition[sure][:, sure]
            steps[sure] = sparse_linalg.spsolve(
                sparse.csc_array(sparse.eye_array(int(sure.sum())) - inner), np.ones(sure.sum())
            )
        return steps


def _surely_reaches(transition: Sparse, aim: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which states reach `aim` with probability 1: those from which no state that cannot reach it can be reached."""
    can = _can_reach(transition, aim)
    return ~_can_reach(sparse.csr_array(transition * ~aim[:, None]), ~can)


def _can_reach(transition: Sparse, aim: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which states reach `aim` with probability above 0."""
    possible = sparse.csr_array(transition > 0).astype(np.float64)
    found = frontier = aim.copy()
    while frontier.any():
        frontier = (possible @ frontier.astype(np.float64) > 0) & ~found
        found = found | frontier
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class MarkovRewardProcess:
    """A chain that pays r(s) on leaving s, discounted by γ a step; nothing is paid at an end.

    Raises `InputError` for rewards that are not finite or not one a state, and for γ outside [0, 1].
    """

    chain: MarkovChain
    reward: Array
    """[S]."""
    gamma: float
    end: Array | None = None
    """[S]: states of value 0, from which nothing follows; None: none."""
    mixed: tuple[int, float] = (0, 0.0)
    """As in `operant.mdp.model.MDP`."""

    def __post_init__(self) -> None:
        reward = np.asarray(self.reward, dtype=np.float64)
        end = np.zeros(self.chain.states, dtype=bool) if self.end is None else np.asarray(self.end, dtype=bool)
        for name, x in (("reward", reward), ("end", end)):
            if x.shape != (self.chain.states,):
                raise InputError(f"{name} has the shape {x.shape}; with {self.chain.states} states it is one for each")
        if not np.isfinite(reward).all():
            s = int(np.argmax(~np.isfinite(reward)))
            raise InputError(f"state {s}: the reward is {reward[s]}; give a finite number")
        if not 0 <= self.gamma <= 1:
            raise InputError(f"the discount gamma is {self.gamma}: give a number from 0 to 1")
        object.__setattr__(self, "reward", reward)
        object.__setattr__(self, "end", end)

    def value(self) -> NDArray[np.float64]:
        """[S]: v = (I - γ P)^-1 r, with v = 0 at ends.

        By elimination up to `DIRECT` states, above by BiCGSTAB to a residual of 1e-12. Raises `InputError` where γ = 1
        and from some state no end is reached for certain: its sum of rewards has no limit.
        """
        assert self.end is not None
        going = ~self.end
        if self.gamma == 1 and not (sure := _surely_reaches(self.chain.transition, self.end)).all():
            raise InputError(
                f"gamma is 1 and from state {int(np.argmax(~sure))} no end is reached for certain, so its value is no "
                "finite number: give a discount below 1, or let the state lead to an end"
            )
        found = np.zeros(self.chain.states)
        if not going.any():
            return found
        inner = self.chain.transition[going][:, going]
        system = sparse.csr_array(sparse.eye_array(int(going.sum())) - self.gamma * inner)
        if going.sum() <= DIRECT:
            found[going] = np.linalg.solve(system.toarray(), self.reward[going])
            return found
        solved, failed = sparse_linalg.bicgstab(system, self.reward[going], rtol=1e-12, atol=0.0, maxiter=10_000)
        if failed:
            raise InputError(
                f"the values of {int(going.sum())} states with gamma {self.gamma} were not found in 10,000 iterations: "
                "use policy evaluation, which bounds its error, or a smaller gamma"
            )
        found[going] = solved
        return found


def as_decision_process(process: MarkovRewardProcess) -> MDP:
    """The same as an MDP in which every state that is no end has one action, 0: its optimal values are the process's.

    So what solves decision processes, and says how exactly, also evaluates policies.
    """
    assert process.end is not None
    going = ~np.asarray(process.end)
    rows = sparse.csr_array(process.chain.transition[going])
    first, action = np.concatenate([[0], np.cumsum(going)]), np.zeros(int(going.sum()), dtype=np.int32)
    reward = np.asarray(process.reward)[going]
    return MDP(
        first, action, rows.indptr, rows.indices, rows.data, reward, process.gamma, process.end, mixed=process.mixed
    )  # fmt: skip


def policy_reward_process(mdp: MDP, policy: Values) -> MarkovRewardProcess:
    """The reward process that an MDP becomes under a policy: P_π(s' | s) = Σ_a π(a | s) p(s' | s, a), and r_π alike.

    `policy` is [S], an action for each state, or [S, A], their probabilities. Raises `InputError` for a policy of
    another model: of another size, or with an action that a state does not have.
    """
    given = np.asarray(policy)
    state = mdp.row_states()
    if given.shape == (mdp.states,):
        weight = (mdp.action == given[state]).astype(np.float64)
        wrong = ~mdp.end & (np.bincount(state, weight, mdp.states) == 0)
        if wrong.any():
            s = int(np.argmax(wrong))
            allowed = mdp.action[mdp.first[s] : mdp.first[s + 1]].tolist()
            raise InputError(f"the policy takes action {given[s]} in state {s}, which has only {allowed}")
    elif given.ndim == 2 and given.shape[0] == mdp.states and given.shape[1] >= mdp.actions:
        weight = given[state, mdp.action].astype(np.float64)
        total = np.bincount(state, weight, mdp.states)
        wrong = ~mdp.end & ~(np.abs(total - 1) <= ROUNDING)
        if (weight < 0).any() or wrong.any():
            s = int(state[np.argmax(weight < 0)]) if (weight < 0).any() else int(np.argmax(wrong))
            raise InputError(
                f"the policy in state {s} has the probabilities {given[s].tolist()}; those of the actions that the "
                "state has must be 0 or more and sum to 1"
            )
    else:
        raise InputError(
            f"the policy has the shape {given.shape}; for this model it is ({mdp.states},), an action for each state, "
            f"or ({mdp.states}, {mdp.actions}), their probabilities"
        )
    if len(weight):
        weight /= np.bincount(state, weight, mdp.states)[state]
    mix = sparse.csr_array((weight, (state, np.arange(len(state)))), shape=(mdp.states, len(state)))
    stay = sparse.diags_array(mdp.end.astype(np.float64))
    chain = MarkovChain(sparse.csr_array(mix @ mdp.matrix() + stay))
    terms = int((mix.indptr[1:] - mix.indptr[:-1]).max(initial=0)) + mdp.mixed[0]
    largest = max(mdp.mixed[1], float(np.abs(mdp.reward).max(initial=0.0)))
    return MarkovRewardProcess(chain, mix @ mdp.reward, mdp.gamma, mdp.end, (terms, largest))
