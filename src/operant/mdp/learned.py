"""A model that is learned from what was seen: how often, and how much was paid.

    p(s' | s, a) = N(s, a, s') / N(s, a)          r(s, a, s') = mean of the rewards there

The most likely model given the data. *Outcomes* are what pairs of state and action were seen to lead to; those of one
pair are a chain, and those that lead to one state are another.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.random import Stream, below
from operant.mdp.model import MDP, from_transitions

PER_OUTCOME = ("after", "terminated", "times", "paid", "pair", "sibling", "fellow")


Counts = Any
"""An array of whole numbers, of which places are read."""


class LearnedModel(NamedTuple):
    """Counts in arrays that compiled loops fill, with room for M outcomes."""

    visits: Counts
    """[S, A]: N(s, a)."""
    first: Counts
    """[S, A]: the first outcome of each pair, -1 where there is none."""
    into: Counts
    """[S]: the first outcome that leads to each state."""
    actions: Counts
    """[S]: how many actions each state that was seen has."""
    known: Counts
    """[S A]: s A + a of the pairs that were tried, in the order of their first time."""
    size: Counts
    """[2]: pairs known, outcomes known."""
    after: Counts
    """[M]: the next state of each outcome."""
    terminated: Any
    """[M]: whether the episode ended there."""
    times: Counts
    """[M]: N(s, a, s')."""
    paid: Any
    """[M]: the sum of its rewards."""
    pair: Counts
    """[M]: s A + a."""
    sibling: Counts
    """[M]: the next outcome of the same pair, -1 at the end."""
    fellow: Counts
    """[M]: the next outcome that leads to the same state, -1 at the end."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        return self._asdict()

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        self.make_room(len(state["after"]))
        for name, array in state.items():
            getattr(self, name)[...] = array

    def make_room(self, room: int) -> None:
        """Lengthen the list of outcomes in place; what it holds stays."""
        for name in PER_OUTCOME:
            getattr(self, name).resize(room, refcheck=False)

    @property
    def full(self) -> bool:
        return bool(self.size[1] == len(self.after))


def learned_model(states: int, actions: int, room: int = 1024) -> LearnedModel:
    """Nothing seen yet."""
    kinds = (np.int64, np.bool_, np.int64, np.float64, np.int64, np.int64, np.int64)
    outcomes: Any = (np.zeros(room, kind) for kind in kinds)
    return LearnedModel(
        np.zeros((states, actions), np.int64), np.full((states, actions), -1), np.full(states, -1),
        np.zeros(states, np.int64), np.zeros(states * actions, np.int64), np.zeros(2, np.int64),
        *outcomes,
    )  # fmt: skip


def as_mdp(model: LearnedModel, gamma: float) -> MDP:
    """What was seen, as a model; pairs that were never tried are missing, and a state without any is an end."""
    states, actions = model.visits.shape
    used = slice(model.size[1])
    pair, after = model.pair[used], np.where(model.terminated[used], states, model.after[used])
    chance = model.times[used] / model.visits.ravel()[pair]
    ends = np.append(np.flatnonzero(model.visits.sum(1) == 0), states)
    return from_transitions(
        pair // actions,
        pair % actions,
        after,
        chance,
        model.paid[used] / model.times[used],
        gamma,
        states + 1,
        ends.tolist(),
    )


@numba.njit(cache=True)
def record(model: LearnedModel, s: int, a: int, reward: float, after: int, terminated: bool) -> None:
    """One more step was seen. There must be room."""
    columns = model.visits.shape[1]
    if model.visits[s, a] == 0:
        model.known[model.size[0]] = s * columns + a
        model.size[0] += 1
    model.visits[s, a] += 1
    i = model.first[s, a]
    while i >= 0 and not (model.after[i] == after and model.terminated[i] == terminated):
        i = model.sibling[i]
    if i < 0:
        i = model.size[1]
        model.size[1] += 1
        model.after[i], model.terminated[i], model.pair[i] = after, terminated, s * columns + a
        model.times[i], model.paid[i] = 0, 0.0
        model.sibling[i], model.first[s, a] = model.first[s, a], i
        model.fellow[i], model.into[after] = model.into[after], i
    model.times[i] += 1
    model.paid[i] += reward


@numba.njit(cache=True)
def imagine(model: LearnedModel, s: int, a: int, random: Stream) -> Any:
    """An outcome of a pair that was tried, drawn as often as it was seen."""
    left, i = below(random, model.visits[s, a]), model.first[s, a]
    while left >= model.times[i]:
        left -= model.times[i]
        i = model.sibling[i]
    return i
