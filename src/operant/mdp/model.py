"""A Markov decision process as data: which actions a state has, where they lead, what they pay.

    V*(s) = max_a [ r(s, a) + γ Σ_s' p(s' | s, a) V*(s') ]          (Bellman 1957)

States are 0 ... S-1. A *row* is one allowed pair of state and action; rows of a state stand together, in the order of
their actions, and the successors of a row stand together, as in a CSR matrix. Only what is possible is stored.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from operant.core.errors import InputError
from operant.mdp.backup import ONE, Rows, divide_rows, first_bad_row, read_only

ROUNDING = 1e-9
"""How far the probabilities of a row may be from 1 in sum; they are then divided by it."""


Values = Sequence[Any] | NDArray[Any]
Array = NDArray[Any]
"""Brought into the type that its description names."""


@dataclasses.dataclass(frozen=True, eq=False)
class MDP:
    """S states, R rows (state, action), N transitions; ends are states of value 0 that no action leaves.

    Checked when made. Raises `InputError` for shapes that disagree, a probability that is negative or none, a row
    whose probabilities do not sum to 1, a reward that is not finite, a discount outside [0, 1], a state without
    actions that is no end.
    """

    first: Array
    """[S + 1], int64: the rows of state s are first[s] to first[s + 1]."""
    action: Array
    """[R], int32: the action of each row, rising within a state."""
    start: Array
    """[R + 1], int64: the transitions of row i are start[i] to start[i + 1]."""
    next_state: Array
    """[N], uint32."""
    probability: Array
    """[N], float64."""
    reward: Array
    """[R], float64: expected reward of the row."""
    gamma: float
    """The discount γ of one step."""
    end: Array
    """[S], bool: where an episode is over."""
    transition_reward: Array | None = None
    """[N], float64: the reward of each transition, where it depends on the next state; `reward` is its mean."""
    mixed: tuple[int, float] = (0, 0.0)
    """Where rows are mixtures of others: of how many at most, and the largest reward in size there. Bounds then count
    what rounding did to the mixtures."""

    def __post_init__(self) -> None:
        kinds = {
            "first": np.int64, "action": np.int32, "start": np.int64, "next_state": np.uint32,
            "probability": np.float64, "reward": np.float64, "end": np.bool_,
        }  # fmt: skip
        for name, kind in kinds.items():
            given = np.asarray(getattr(self, name))
            if kind is not np.float64 and given.size and not (given.dtype.kind in "iub" and given.min() >= 0):
                raise InputError(f"{name} holds {given.min()} ({given.dtype}): give whole numbers, 0 or more")
            if name == "next_state" and given.size and int(given.max()) >= len(self.end):
                self._refuse_next_state(int(np.argmax(given >= len(self.end))))
            object.__setattr__(self, name, np.ascontiguousarray(given, dtype=kind))
        if self.transition_reward is not None:
            object.__setattr__(
                self, "transition_reward", np.ascontiguousarray(self.transition_reward, dtype=np.float64)
            )
        self._check_shapes()
        if not 0 <= self.gamma <= 1:
            raise InputError(f"the discount gamma is {self.gamma}: give a number from 0 to 1")
        idle = ~self.end & (np.diff(self.first) == 0)
        if idle.any():
            raise _idle(int(np.argmax(idle)))
        busy = self.end & (np.diff(self.first) > 0)
        if busy.any():
            raise InputError(
                f"state {int(np.argmax(busy))} is an end and has actions: an episode is over there, so leave them out"
            )
        self._check_rows()
        for field in dataclasses.fields(self):
            if isinstance(array := getattr(self, field.name), np.ndarray):
                object.__setattr__(self, field.name, read_only(array))

    def _check_shapes(self) -> None:
        rows, transitions = len(self.action), len(self.next_state)
        due = {
            "first": (self.states + 1,), "start": (rows + 1,), "reward": (rows,), "probability": (transitions,),
            "end": (self.states,), "transition_reward": (transitions,),
        }  # fmt: skip
        for name, shape in due.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise InputError(
                    f"{name} has the shape {array.shape}; with {self.states} states, {rows} rows and {transitions} "
                    f"transitions it is {shape}"
                )
        if self.states == 0:
            raise InputError("the model has no states: give at least one")
        for name, last in (("first", rows), ("start", transitions)):
            array = getattr(self, name)
            if array[0] != 0 or array[-1] != last or (np.diff(array) < 0).any():
                raise InputError(f"{name} must rise from 0 to {last}; it goes from {array[0]} to {array[-1]}")

    def _check_rows(self) -> None:
        bad, exact = first_bad_row(self.start, self.probability, self.reward, ROUNDING)
        if bad >= 0:
            where = f"state {self.state_of(bad)}, action {self.action[bad]}"
            p = self.probability[self.start[bad] : self.start[bad + 1]]
            if not np.isfinite(self.reward[bad]):
                raise InputError(f"{where}: the reward is {self.reward[bad]}; give a finite number")
            if not (p >= 0).all():
                wrong = p[~(p >= 0)][0]
                raise InputError(f"{where}: a probability is {wrong}; give numbers from 0 to 1")
            raise InputError(
                f"{where}: the probabilities sum to {p.sum():.12g}, which is {p.sum() - 1:+.3g} from 1; mend the row, "
                "or add what is missing as a transition to an end"
            )
        if self.transition_reward is not None and not np.isfinite(self.transition_reward).all():
            i = int(np.argmin(np.isfinite(self.transition_reward)))
            row = int(np.searchsorted(self.start, i, side="right")) - 1
            raise InputError(
                f"state {self.state_of(row)}, action {self.action[row]}: the reward on the way to state "
                f"{self.next_state[i]} is {self.transition_reward[i]}; give a finite number"
            )
        if not exact:
            probability = self.probability.copy()
            divide_rows(self.start, probability)
            object.__setattr__(self, "probability", probability)
        steps = np.diff(self.action.astype(np.int64)) <= 0
        within = np.ones(max(len(self.action) - 1, 0), dtype=bool)
        within[self.first[(self.first > 0) & (self.first < len(self.action))] - 1] = False
        if (steps & within).any():
            row = int(np.argmax(steps & within)) + 1
            raise InputError(
                f"state {self.state_of(row)}: the action {self.action[row]} comes after {self.action[row - 1]}; the "
                "actions of a state rise, and each is there once"
            )

    def _refuse_next_state(self, transition: int) -> None:
        row = int(np.searchsorted(self.start, transition, side="right")) - 1
        raise InputError(
            f"state {self.state_of(row)}, action {self.action[row]}: the next state is {self.next_state[transition]}; "
            f"states go from 0 to {len(self.end) - 1}"
        )

    @property
    def states(self) -> int:
        return len(self.end)

    @property
    def actions(self) -> int:
        """One more than the largest action."""
        return int(self.action.max()) + 1 if len(self.action) else 0

    @functools.cached_property
    def rows(self) -> Rows:
        """What backups read."""
        counts = np.diff(self.start)
        width = int(counts[0]) if len(counts) and (counts == counts[0]).all() else 0
        return Rows(self.first, self.start, self.next_state, self.probability, self.reward, width)

    @functools.cached_property
    def longest(self) -> int:
        """Transitions of the longest row."""
        return int(np.diff(self.start).max(initial=0))

    @functools.cached_property
    def largest_reward(self) -> float:
        """In size, of the rows or of those that they are mixtures of."""
        return max(float(np.abs(self.reward).max(initial=0.0)), self.mixed[1])

    def state_of(self, row: int) -> int:
        """The state of a row."""
        return int(np.searchsorted(self.first, row, side="right")) - 1

    def row_states(self) -> NDArray[np.int64]:
        """[R]: the state of every row."""
        return np.repeat(np.arange(self.states), np.diff(self.first))

    def matrix(self) -> sparse.csr_array:
        """[R, S]: the transition probabilities of every row."""
        shape = (len(self.action), self.states)
        found = sparse.csr_array((self.probability, self.next_state.astype(np.int64), self.start), shape=shape)
        if not found.has_canonical_format:
            found = found.copy()  # scipy sorts and adds up in place, which what is read-only does not allow
            found.sum_duplicates()
        return found

    def with_gamma(self, gamma: float) -> MDP:
        """The same world with another discount."""
        return dataclasses.replace(self, gamma=gamma)

    def to_arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(transition [A, S, S], reward [S, A]) as in pymdptoolbox; ends stay where they are and are paid nothing.

        An action that a state does not have has the reward -inf and leads back to it.
        """
        transition = np.zeros((self.actions, self.states, self.states))
        reward = np.full((self.states, self.actions), -np.inf)
        transition[:, np.arange(self.states), np.arange(self.states)] = 1.0
        state = self.row_states()
        reward[self.end] = 0.0
        reward[state, self.action] = self.reward
        transition[self.action, state] = self.matrix().toarray()
        return transition, reward


def _idle(state: int) -> InputError:
    return InputError(f"state {state} has no action and is no end: give it an action, or say that it is an end")


def from_transitions(
    state: Values,
    action: Values,
    next_state: Values,
    probability: Values,
    reward: Values,
    gamma: float,
    states: int | None = None,
    ends: Iterable[int] = (),
) -> MDP:
    """An MDP from a list of transitions (s, a, s', p, r), in any order.

    Several transitions with the same (s, a, s') are one: probabilities add up and the reward is their mean. `states`
    is needed where the last ones are in no transition.
    """
    table = [np.atleast_1d(np.asarray(x)) for x in (state, action, next_state, probability, reward)]
    if len({x.shape for x in table}) != 1 or table[0].ndim != 1:
        raise InputError(
            "state, action, next_state, probability and reward have the shapes "
            f"{', '.join(str(x.shape) for x in table)}: give five lists of one length"
        )
    s, a, t = (x.astype(np.int64) for x in table[:3])
    p, r = (x.astype(np.float64) for x in table[3:])
    ended = np.fromiter(ends, dtype=np.int64)
    for name, x in (("state", s), ("action", a), ("next_state", t), ("ends", ended)):
        if len(x) and x.min() < 0:
            raise InputError(f"{name} is {x.min()} at place {int(x.argmin())}: states and actions count from 0")
    count = max([states or 0, *(int(x.max()) + 1 for x in (s, t, ended) if len(x))])
    if count > len(s) + len(ended):  # before room is made for so many states
        known = np.union1d(s, ended)
        idle = np.flatnonzero(known != np.arange(len(known)))
        raise _idle(int(idle[0]) if len(idle) else len(known))
    order = np.lexsort((t, a, s))
    s, a, t, p, r = (x[order] for x in (s, a, t, p, r))
    new_row = np.ones(len(s), dtype=bool)
    new_row[1:] = (s[1:] != s[:-1]) | (a[1:] != a[:-1])
    new = new_row.copy()
    new[1:] |= t[1:] != t[:-1]
    at = np.flatnonzero(new)
    weight = np.add.reduceat(p, at) if len(at) else p
    paid = np.add.reduceat(p * r, at) if len(at) else r
    several = (np.diff(np.append(at, len(s))) > 1) & (weight != 0)
    mean = np.divide(paid, weight, out=r[at].copy(), where=several)  # rounding where nothing is added would change r
    rows = np.flatnonzero(new_row[at])
    start = np.append(rows, len(at))
    row_state, row_action = s[at][rows], a[at][rows]
    by_row = mean[rows]
    alone = bool((mean == np.repeat(by_row, np.diff(start))).all())
    total = by_row
    if not alone:
        sums = np.add.reduceat(weight, rows)
        inexact = (np.abs(sums - 1) > ONE) & (sums > 0)  # such rows are divided by their sum
        total = np.divide(np.add.reduceat(paid, rows), np.where(inexact, sums, 1.0))
    end = np.zeros(count, dtype=bool)
    end[ended] = True
    return MDP(
        np.searchsorted(row_state, np.arange(count + 1)), row_action, start, t[at], weight, total, gamma, end,
        None if alone else mean,
    )  # fmt: skip


def from_arrays(transition: Values, reward: Values, gamma: float, ends: Iterable[int] = ()) -> MDP:
    """An MDP from pymdptoolbox's arrays: transition [A, S, S] (or A sparse matrices), reward [S], [S, A] or [A, S, S].

    An action with the reward -inf is one that the state does not have.
    """
    matrices: list[Any] = [sparse.coo_array(m) for m in transition]
    shapes = {m.shape for m in matrices}
    if len(shapes) != 1 or (square := shapes.pop())[0] != square[1]:
        raise InputError(f"transition has matrices of the shapes {[m.shape for m in matrices]}: give A of [S, S]")
    states, actions = square[0], len(matrices)
    pay = reward if isinstance(reward, list) and sparse.issparse(reward[0]) else np.asarray(reward, dtype=np.float64)
    ended = ends_mask(ends, states)
    by_row = pay if isinstance(pay, np.ndarray) and pay.shape == (states, actions) else None
    found = []
    for action, m in enumerate(matrices):
        s, t = (x.astype(np.int64) for x in m.coords)
        if isinstance(pay, np.ndarray) and pay.shape == (states,):
            r = pay[s]
        elif by_row is not None:
            r = by_row[s, action]
        elif len(pay) == actions and pay[action].shape == (states, states):
            r = np.asarray(sparse.csr_array(pay[action])[s, t]).ravel()
        else:
            raise InputError(
                f"reward has the shape {np.shape(pay)}; with {states} states and {actions} actions it is ({states},), "
                f"({states}, {actions}) or ({actions}, {states}, {states})"
            )
        kept = ~ended[s] & (r != -np.inf) & (m.data != 0)
        has = by_row is None or by_row[:, action] > -np.inf
        empty = has & ~ended & (np.bincount(s, m.data != 0, states) == 0)
        if empty.any():
            raise InputError(
                f"state {int(np.argmax(empty))}, action {action}: all probabilities are 0; mend the row, or give the "
                "reward -inf to an action that the state does not have"
            )
        found.append((s[kept], np.full(int(kept.sum()), action), t[kept], m.data[kept], r[kept]))
    columns = (np.concatenate(x) for x in zip(*found, strict=True))
    return from_transitions(*columns, gamma, states, ended.nonzero()[0].tolist())  # pyright: ignore


def ends_mask(ends: Iterable[int], states: int) -> NDArray[np.bool_]:
    """[S]: which states are ends. Raises `InputError` for one that is no state."""
    given = np.fromiter(ends, dtype=np.int64)
    if len(given) and not (given.min() >= 0 and given.max() < states):
        wrong = given[(given < 0) | (given >= states)][0]
        raise InputError(f"ends holds {wrong}; states go from 0 to {states - 1}")
    return np.bincount(given, minlength=states) > 0


def from_function(
    states: int,
    actions: int | Callable[[int], Iterable[int]],
    step: Callable[[int, int], Iterable[tuple[float, int, float]]],
    gamma: float,
    ends: Iterable[int] = (),
) -> MDP:
    """An MDP from `step(s, a)`, which gives (probability, next state, reward) of all that may happen."""
    ended = set(ends)
    allowed = actions if callable(actions) else lambda _: range(actions)
    table = [(s, a, t, p, r) for s in range(states) if s not in ended for a in allowed(s) for p, t, r in step(s, a)]
    columns = list(zip(*table, strict=True)) or [[], [], [], [], []]
    return from_transitions(*columns, gamma, states, ended)  # pyright: ignore


def from_gymnasium(env: Any, gamma: float) -> MDP:
    """An MDP from a toy-text environment's table `P[s][a] = [(probability, next state, reward, terminated), ...]`.

    A transition that terminates leads to one end that is added as the last state: there the environment may list a
    state that goes on in other transitions. Raises `InputError` if the environment has no table.
    """
    table = getattr(getattr(env, "unwrapped", env), "P", None)
    if not isinstance(table, dict):
        raise InputError(
            f"{getattr(getattr(env, 'spec', None), 'id', env)} has no table of transitions (an attribute P): its model "
            "is not known. Learn it from samples with operant learn"
        )
    states = len(table)
    rows = [
        (s, a, states if over else t, p, r)
        for s, row in table.items()
        for a, found in row.items()
        for p, t, r, over in found
    ]
    return from_transitions(*zip(*rows, strict=True), gamma, states + 1, [states])  # pyright: ignore
