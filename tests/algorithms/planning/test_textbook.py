"""Chapters 3 and 4 of Sutton and Barto, and the examples on the page about them."""

import doctest
import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks.textbook import planning
from operant.algorithms.planning import policy_iteration
from operant.mdp import problems

PAGE = Path(__file__).parents[3] / "docs" / "textbook" / "planning.md"


@pytest.fixture(scope="module")
def rows() -> list:
    return planning.rows()


def test_values_of_the_figures(rows):
    assert {row.figure for row in rows} == {"3.2", "3.5", "4.1", "4.2", "4.3"}
    assert len(rows) == 31
    assert [row for row in rows if not row.ok] == []


def test_slightly_wrong_models_are_out_of_tolerance(rows):
    """Another discount, another coin, four cars at most in place of five."""
    known = {row.what: row for row in rows}
    for what, mdp, state in (
        ("5 x 5 grid, optimal: value of cell (0, 1)", problems.jumping_grid(0.89), 1),
        ("gambler, heads 0.4: value of 25", problems.gambler(0.401), 25),
        ("car rental: value of 20 and 20 cars", problems.car_rental(most_moved=4), 440),
    ):
        row = known[what]
        assert abs(policy_iteration.solve(mdp).value[state] - row.published) > 2 * row.tolerance, what


def test_the_last_policy_of_the_car_rental_is_the_best_and_the_first_moves_none():
    policies, value = planning.car_policies()
    assert (policies[0] == 0).all()
    assert policies[-1].max() == 5
    assert policies[-1].min() == -4
    assert all((a != b).any() for a, b in itertools.pairwise(policies))
    assert (np.diff(value, axis=0) > 0).all()


def test_the_gamblers_stakes_are_best_and_no_smaller_one_is():
    mdp, stakes = problems.gambler(0.4), planning.stakes(0.4)
    value = policy_iteration.solve(mdp).value
    for s in range(1, 100):
        worth = [0.4 * (value[s + k] + (s + k == 100)) + 0.6 * value[s - k] for k in range(1, min(s, 100 - s) + 1)]
        assert worth[stakes[s] - 1] > max(worth) - 2e-9
        assert all(x < max(worth) for x in worth[: stakes[s] - 1])


def test_bounds_close_long_before_changes_do():
    """What the drawing shows: the change is small, the values are far off, and only the bounds know."""
    errors = planning.value_iteration_errors(problems.car_rental(gamma=0.99), 60)
    change, true, middle, proven = (x[-1] for x in errors.values())
    assert true > 90 * change
    assert middle <= proven < 0.1
    assert (errors["true error of the middle of the bounds"] <= errors["proven error of it"] + 1e-6).all()


def test_in_place_and_prioritised_sweeps_run_along_a_corridor():
    needed = planning.sweeps_needed()["corridor of 50"]
    assert max(needed["Gauss-Seidel"], needed["prioritised sweeping"]) < 10
    assert needed["value iteration"] > 40


def test_the_examples_on_the_page():
    assert doctest.testfile(str(PAGE), module_relative=False) == (0, 19)
