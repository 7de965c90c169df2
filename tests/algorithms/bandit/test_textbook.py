"""Figures 2.2 to 2.6 of Sutton and Barto with fewer runs: tolerances come from standard errors."""

import math

import pytest

from benchmarks.textbook import bandits
from operant.algorithms.bandit import epsilon_greedy
from operant.algorithms.bandit.epsilon_greedy import Config


@pytest.fixture(scope="module")
def rows() -> list:
    return bandits.rows(runs=400)


def test_values_of_the_figures(rows):
    assert len(rows) == 20
    assert {row.figure for row in rows} == {"2.2", "2.3", "2.4", "2.5"}
    wrong = [row for row in rows if not row.ok]
    assert wrong == []
    assert all(0 < row.spread < row.tolerance for row in rows)


def test_chance_and_a_greedy_algorithm_that_starts_elsewhere_are_out_of_tolerance(rows):
    known = {row.what: row for row in rows}
    optimistic = known["optimistic, Q₁ = 5, ε = 0, α = 0.1: % optimal"]
    for config in (Config(epsilon=1.0), Config(epsilon=0.0, initial=0.0, step_size=0.1)):
        found = 100 * bandits.settled(bandits.Learner("", epsilon_greedy, config), 400)["bandit/optimal_action"]
        assert abs(found - optimistic.published) > 2 * optimistic.tolerance


def test_the_parameter_study_has_its_order_and_its_shape():
    found = bandits.parameter_study(runs=200)
    best = {name.split(" (")[0]: max(rewards) for name, (_, rewards) in found.items()}
    assert best["UCB"] > best["gradient"] > best["ε-greedy"]
    assert best["optimistic greedy"] > best["ε-greedy"]
    for _, rewards in found.values():
        assert max(rewards) > max(rewards[0], rewards[-1])  # an inverted U: too little and too much are worse
    assert all(math.isfinite(x) for _, rewards in found.values() for x in rewards)
