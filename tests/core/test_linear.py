"""Tables and linear functions: one is the other with one-hot features, compiled or not."""

import numpy as np
import pytest
from scipy import stats

from operant.core.linear import Active, active, add_to, epsilon_greedy, expected, feature, greedy, largest, toward
from operant.core.linear import value_of as value
from operant.core.random import stream

Q = np.array([[1.0, 3.0, 3.0, -1.0], [0.5, 0.5, 0.5, 0.5]])


def one_hot(s: int) -> Active:
    return Active(np.array([s]), np.ones(1))


def chances(s: int, epsilon: float) -> np.ndarray:
    """The ε-greedy policy, from its definition."""
    best = Q[s] == Q[s].max()
    return epsilon / 4 + (1 - epsilon) * best / best.sum()


@pytest.mark.parametrize("x", [0, 1, one_hot(0), one_hot(1)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_breaks_ties_at_random(x, epsilon):
    random, s = stream(0), x if isinstance(x, int) else int(x.index[0])
    counts = np.bincount([epsilon_greedy(Q, x, 4, epsilon, random) for _ in range(20_000)], minlength=4)
    p = chances(s, epsilon)
    assert (counts[p == 0] == 0).all()
    assert stats.chisquare(counts[p > 0], 20_000 * p[p > 0]).pvalue > 0.001


@pytest.mark.parametrize("s", [0, 1])
def test_the_mean_over_the_policy_is_the_sum_over_its_actions(s):
    for epsilon in (0.0, 0.2, 1.0):
        assert expected(Q, s, 4, epsilon) == pytest.approx(float(chances(s, epsilon) @ Q[s]), abs=1e-15)
    assert expected(Q, s, 4, 0.0) == largest(Q, s, 4) == Q[s].max()


def test_actions_that_a_state_does_not_have_are_not_seen():
    random = stream(0)
    assert largest(Q, 0, 1) == 1.0
    assert {greedy(Q, 0, 1, random) for _ in range(20)} == {0}
    assert {epsilon_greedy(Q, 1, 2, 1.0, random) for _ in range(100)} == {0, 1}


@pytest.mark.parametrize("x", [1, one_hot(1), Active(np.array([0, 2, 2]), np.array([0.5, -1.0, 2.0]))])
def test_values_and_steps_are_those_of_the_dense_vector(x):
    """`value_of` and `add_to` in Python, `toward` compiled; a feature that is there twice counts twice."""
    w = np.random.default_rng(0).normal(size=(3, 2))
    dense = np.zeros(3)
    for k in range(active(x)):
        row, weight = feature(x, k)
        dense[row] += weight
    assert value(w, x, 1) == pytest.approx(dense @ w[:, 1])
    by_hand = w.copy()
    by_hand[:, 1] += 0.3 * dense
    moved = w.copy()
    add_to(moved, x, 1, 0.3)
    np.testing.assert_allclose(moved, by_hand, atol=1e-15)
    moved, by_hand = w.copy(), w.copy()
    toward(moved, x, 1, 2.0, 0.1)
    by_hand[:, 1] += 0.1 * (2.0 - dense @ w[:, 1]) * dense
    np.testing.assert_allclose(moved, by_hand, atol=1e-15)
