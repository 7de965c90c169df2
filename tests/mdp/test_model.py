"""Models as data: what is accepted, what is refused, and that every way in gives the same model."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operant.core.errors import InputError
from operant.mdp.model import MDP, from_arrays, from_function, from_gymnasium, from_transitions


def dense(mdp: MDP) -> tuple[np.ndarray, np.ndarray]:
    """(transition [R, S], reward [R])."""
    return mdp.matrix().toarray(), mdp.reward


def two_states(**changes: Any) -> MDP:
    """State 0 stays (reward 1) or goes to the end 1 (reward 5)."""
    settings = {"gamma": 0.5, "ends": [1]} | changes
    return from_transitions([0, 0], [0, 1], [0, 1], [1.0, 1.0], [1.0, 5.0], **settings)


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[int, int, int, float, float]]:
    """Transitions of a random model of up to 4 states and 3 actions; the last state is an end."""
    states = draw(st.integers(2, 4))
    table = []
    for s in range(states - 1):
        for a in sorted(draw(st.sets(st.integers(0, 2), min_size=1))):
            weight = [draw(st.integers(0, 3)) for _ in range(states)]
            weight[draw(st.integers(0, states - 1))] += 1
            for t, w in enumerate(weight):
                if w:
                    table.append((s, a, t, w / sum(weight), float(draw(st.integers(-3, 3)))))
    return table


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_transitions_is_free_and_equal_ones_add_up(table, random):
    end = 1 + max(s for s, *_ in table)
    due = from_transitions(*zip(*table, strict=True), 0.9, end + 1, [end])
    halves = [(s, a, t, p / 2, r + d) for s, a, t, p, r in table for d in (-1, 1)]
    random.shuffle(halves)
    found = from_transitions(*zip(*halves, strict=True), 0.9, end + 1, [end])
    for x, y in zip(dense(found), dense(due), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)
    assert (found.first == due.first).all()
    assert (found.action == due.action).all()


@given(tables())
def test_there_and_back_through_arrays(table):
    end = 1 + max(s for s, *_ in table)
    mdp = from_transitions(*zip(*table, strict=True), 0.9, end + 1, [end])
    again = from_arrays(*mdp.to_arrays(), 0.9, [end])
    for x, y in zip(dense(again), dense(mdp), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)


@given(tables())
def test_a_function_gives_the_same_model(table):
    end = 1 + max(s for s, *_ in table)
    mdp = from_transitions(*zip(*table, strict=True), 0.9, end + 1, [end])
    found = from_function(
        end + 1,
        lambda s: sorted({a for x, a, *_ in table if x == s}),
        lambda s, a: [(p, t, r) for x, b, t, p, r in table if (x, b) == (s, a)],
        0.9,
        [end],
    )
    for x, y in zip(dense(found), dense(mdp), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)


def test_rewards_of_three_shapes_mean_the_same():
    p = np.array([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.25, 0.75]]])
    full = np.array([[[1.0, 3.0], [0.0, 2.0]], [[2.0, 9.0], [4.0, 0.0]]])
    mean = (p * full).sum(-1).T
    np.testing.assert_allclose(from_arrays(p, full, 0.9).reward, from_arrays(p, mean, 0.9).reward)
    by_state = from_arrays(p, np.array([1.0, 7.0]), 0.9)
    assert by_state.reward.tolist() == [1.0, 1.0, 7.0, 7.0]


def test_gymnasium_tables():
    """Several tuples for one next state add up, and what terminates leads to the end."""
    gymnasium = pytest.importorskip("gymnasium")
    mdp = from_gymnasium(gymnasium.make("FrozenLake-v1", is_slippery=True), 0.99)
    assert mdp.states == 17
    assert mdp.end.nonzero()[0].tolist() == [16]
    row = int(mdp.first[0])
    successors = mdp.next_state[mdp.start[row] : mdp.start[row + 1]].tolist()
    assert successors == [0, 4]
    np.testing.assert_allclose(mdp.probability[:2], [2 / 3, 1 / 3])
    with pytest.raises(InputError, match="operant learn"):
        from_gymnasium(gymnasium.make("CartPole-v1"), 0.99)


def test_successors_may_stand_in_any_order():
    arrays = ([0, 1, 1, 1], [0], [0, 3], [2, 0, 1], [0.5, 0.25, 0.25], [1.0])
    mdp = MDP(*map(np.array, arrays), 0.5, np.array([False, True, True]))
    assert mdp.matrix().toarray().tolist() == [[0.25, 0.25, 0.5]]
    assert (mdp.matrix() > 0).sum() == 3
    assert mdp.next_state.tolist() == [2, 0, 1]


def test_what_was_given_is_not_changed_and_what_is_held_cannot_be():
    given = {f.name: getattr(two_states(), f.name) for f in dataclasses.fields(MDP)}
    arrays = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in given.items()}
    mdp = MDP(**arrays)
    assert all(v.flags.writeable for v in arrays.values() if isinstance(v, np.ndarray))
    with pytest.raises(ValueError, match="read-only"):
        mdp.reward[0] = 3.0


def test_a_row_that_rounding_keeps_from_1_is_right():
    third = 1 / 3 - 1e-12
    mdp = from_transitions([0] * 3, [0] * 3, [0, 1, 2], [third] * 3, [0.0] * 3, 0.9, ends=[1, 2])
    assert abs(mdp.probability.sum() - 1) < 1e-15


def refused(words: str, **changes: Any) -> None:
    given = {f.name: getattr(two_states(), f.name) for f in dataclasses.fields(MDP)}
    with pytest.raises(InputError, match=words):
        MDP(**(given | {k: v if k == "gamma" else np.array(v) for k, v in changes.items()}))


def test_what_is_refused():
    refused(r"state 0, action 1: the probabilities sum to 0\.999, which is -0\.001 from 1", probability=[1.0, 0.999])
    refused(r"state 0, action 0: a probability is -0\.5", probability=[-0.5, 1.0])
    refused("state 0, action 0: a probability is nan", probability=[float("nan"), 1.0])
    refused("state 0, action 1: the reward is nan", reward=[0.0, float("nan")])
    refused("state 0, action 0: the reward is inf", reward=[float("inf"), 0.0])
    refused("state 0, action 1: the reward on the way to state 1 is inf", transition_reward=[0.0, float("inf")])
    refused("next_state holds -1", next_state=[0, -1])
    refused("action holds 0.5", action=[0.5, 1.0])
    refused(r"the discount gamma is 1\.5", gamma=1.5)
    refused("the discount gamma is nan", gamma=float("nan"))
    refused("state 1 has no action and is no end", end=[False, False])
    refused("state 0 is an end and has actions", end=[True, True])
    refused("state 0, action 1: the next state is 2; states go from 0 to 1", next_state=[0, 2])
    refused(r"reward has the shape \(3,\)", reward=[0.0, 1.0, 2.0])
    refused("state 0: the action 1 comes after 1; the actions", action=[1, 1])
    refused("first must rise from 0 to 2", first=[0, 1, 1])
    with pytest.raises(InputError, match="give five lists of one length"):
        from_transitions([0], [0, 1], [0], [1.0], [0.0], 0.9)
    with pytest.raises(InputError, match="states and actions count from 0"):
        from_transitions([-1], [0], [0], [1.0], [0.0], 0.9)
    with pytest.raises(InputError, match="no states"):
        from_transitions([], [], [], [], [], 0.9)


def test_a_row_without_probabilities_is_refused():
    transition = np.array([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])
    with pytest.raises(InputError, match="state 1, action 1: all probabilities are 0"):
        from_arrays(transition, np.array([[0.0, 1.0], [0.0, 5.0]]), 0.9)
    assert from_arrays(transition, np.array([[0.0, 1.0], [0.0, -np.inf]]), 0.9).first.tolist() == [0, 2, 3]


def test_a_mean_reward_is_divided_as_its_probabilities_are():
    mdp = from_transitions([0, 0], [0, 0], [0, 1], [0.5, 0.5 + 9e-10], [1e6, 1e6 + 1], 0.5, ends=[1])
    assert mdp.transition_reward is not None
    assert mdp.reward[0] == pytest.approx(mdp.probability @ mdp.transition_reward, rel=1e-15)
