"""Models as the arrays of QuantEcon's `DiscreteDP`, in both of its forms.

    product form            R [S, A], Q [S, A, S]; an action with the reward -inf is one that the state does not have
    pairs of state-action   R [L], Q [L, S], dense or sparse, s_indices [L], a_indices [L]

QuantEcon knows no ends: a state where an episode is over leads to itself for ever there, and is paid nothing.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from operant.core.errors import InputError
from operant.mdp.model import MDP, Values, ends_mask, from_transitions


def from_quantecon(
    reward: Values,
    transition: Any,
    beta: float,
    s_indices: Values | None = None,
    a_indices: Values | None = None,
    ends: Iterable[int] = (),
) -> MDP:
    """An MDP from the arrays of a `DiscreteDP` d: from_quantecon(d.R, d.Q, d.beta, d.s_indices, d.a_indices).

    `ends` are states whose rows are left out. Raises `InputError` for shapes that disagree and for a pair of state and
    action that is there twice.
    """
    r = np.asarray(reward, dtype=np.float64)
    if (s_indices is None) != (a_indices is None):
        raise InputError("s_indices and a_indices go together: give both, or neither for the product form")
    if s_indices is None or a_indices is None:
        q = np.asarray(transition)
        if r.ndim != 2 or q.shape != (*r.shape, r.shape[0]):
            raise InputError(
                f"R has the shape {r.shape} and Q {q.shape}; without s_indices they are (S, A) and (S, A, S)"
            )
        s, a = (x.ravel() for x in np.indices(r.shape))
        matrix = sparse.coo_array(q.reshape(r.size, r.shape[0]))
        r = r.ravel()
    else:
        s, a = np.asarray(s_indices), np.asarray(a_indices)
        matrix: Any = sparse.coo_array(transition)
        if r.ndim != 1 or s.shape != r.shape or a.shape != r.shape or matrix.shape[:1] != r.shape:
            raise InputError(
                f"R has the shape {r.shape}, Q {matrix.shape}, s_indices {s.shape} and a_indices {a.shape}; they are "
                "(L,), (L, S), (L,) and (L,) for L pairs of state and action"
            )
        _check_pairs(s, a, matrix.shape[-1])
    states = int(matrix.shape[-1])
    ended = ends_mask(ends, states)
    row, t = (x.astype(np.int64) for x in matrix.coords)
    kept = ~ended[s[row]] & (r[row] != -np.inf) & (matrix.data != 0)
    row, t, p = row[kept], t[kept], matrix.data[kept]
    return from_transitions(s[row], a[row], t, p, r[row], beta, states, np.flatnonzero(ended).tolist())


def _check_pairs(s: NDArray[Any], a: NDArray[Any], states: int) -> None:
    for name, x in (("s_indices", s), ("a_indices", a)):
        if x.dtype.kind not in "iu" or (x < 0).any():
            raise InputError(f"{name} holds {x.min()} ({x.dtype}): states and actions are whole numbers from 0")
    if (s >= states).any():
        raise InputError(f"s_indices holds {s.max()}; with {states} columns in Q, states go from 0 to {states - 1}")
    order = np.lexsort((a, s))
    twice = np.flatnonzero((np.diff(s[order]) == 0) & (np.diff(a[order]) == 0))
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        raise InputError(
            f"state {s[first]}, action {a[first]} is there twice, at places {first} and {second}: leave one out"
        )


def to_quantecon(mdp: MDP) -> tuple[NDArray[np.float64], sparse.csr_array, float, NDArray[Any], NDArray[Any]]:
    """(R [L], Q [L, S] sparse, beta, s_indices [L], a_indices [L]): `DiscreteDP(*to_quantecon(mdp))`.

    An end becomes a state whose one action, 0, leads back to it and pays nothing: its value stays 0.
    """
    ends = np.flatnonzero(mdp.end)
    s = np.concatenate([mdp.row_states(), ends])
    a = np.concatenate([mdp.action, np.zeros(len(ends), dtype=np.int32)])
    order = np.lexsort((a, s))
    stay = sparse.csr_array((np.ones(len(ends)), (np.arange(len(ends)), ends)), shape=(len(ends), mdp.states))
    transition = sparse.csr_array(sparse.vstack([mdp.matrix(), stay]))[order]
    reward = np.concatenate([mdp.reward, np.zeros(len(ends))])
    return reward[order], sparse.csr_array(transition), mdp.gamma, s[order], a[order].astype(np.int64)
