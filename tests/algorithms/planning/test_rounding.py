"""Bounds where rounding is large: rewards that cancel, that are tiny, and values beyond what a number can hold."""

from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest

from operant.algorithms.planning import (
    gauss_seidel,
    modified_policy_iteration,
    policy_evaluation,
    policy_iteration,
    prioritized_sweeping,
    value_iteration,
)
from operant.mdp import problems
from operant.mdp.chain import as_decision_process, policy_reward_process
from operant.mdp.episodic import unit_of_rounding
from operant.mdp.free_loops import merge_free_loops
from operant.mdp.model import MDP, from_transitions

WITHOUT_DISCOUNT = [policy_iteration, gauss_seidel, prioritized_sweeping]
ALL = [value_iteration, modified_policy_iteration, *WITHOUT_DISCOUNT]


@pytest.mark.parametrize("gamma", [0.5, 0.99])
def test_a_policys_rewards_that_cancel_are_no_better_known_than_their_terms(gamma: float):
    """A mixture of large rewards that nearly cancel, against rational arithmetic."""
    generator = np.random.default_rng(0)
    for _ in range(30):
        weight = generator.dirichlet(np.ones(3))
        reward = generator.normal(size=3) * 1e9
        reward[2] = -(weight[0] * reward[0] + weight[1] * reward[1]) / weight[2] + 1e-3
        mdp = from_transitions([0] * 3, [0, 1, 2], [0] * 3, [1.0] * 3, reward, gamma)
        found = policy_evaluation.solve(mdp, weight[None])
        total = sum(Fraction(float(w)) for w in weight)
        paid = sum(Fraction(float(w)) * Fraction(float(r)) for w, r in zip(weight, reward, strict=True)) / total
        due = paid / (1 - Fraction(gamma))
        assert abs(Fraction(float(found.value[0])) - due) <= Fraction(found.error)


@pytest.mark.parametrize("solver", WITHOUT_DISCOUNT)
@pytest.mark.parametrize("cost", [1e-12, 1e-9, 1.0, 1e12])
def test_a_small_cost_is_a_cost(solver: ModuleType, cost: float):
    mdp = problems.gridworld(4, 4, [(0, 0), (3, 3)], -cost)
    found = solver.solve(mdp, solver.Config(error=1e-6 * cost))
    due = problems.corner_grid()
    steps = policy_iteration.solve(due).value
    assert np.abs(found.value - cost * steps).max() <= found.error + 1e-14 * cost
    assert found.reached


@pytest.mark.parametrize("solver", WITHOUT_DISCOUNT)
@pytest.mark.parametrize(("stay", "end"), [(-1e-4, 1e6), (-0.5, 1e12)])
def test_a_cost_beside_a_large_reward_is_a_cost(solver: ModuleType, stay: float, end: float):
    mdp = from_transitions([0, 0], [0, 1], [0, 1], [1.0, 1.0], [stay, end], 1.0, ends=[1])
    found = solver.solve(mdp, solver.Config(error=1.0))
    assert abs(found.value[0] - end) <= found.error <= 1.0
    assert found.policy[0] == 1


def test_policy_iteration_goes_on_while_a_gain_can_be_measured():
    mdp = from_transitions([0, 0, 1], [0, 1, 0], [0, 0, 1], [1.0] * 3, [10 - 5e-6, 10.0, 10.0], 1 - 1e-4)
    found = policy_iteration.solve(mdp, policy_iteration.Config(error=1e-3))
    assert found.reached
    assert found.policy[0] == 1


def test_wide_rows_do_not_hide_that_rounding_is_all_that_is_left():
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.ones(100), size=200)
    mdp = MDP(
        np.arange(201), np.zeros(200, np.int32), np.arange(201) * 100,
        np.sort(np.argsort(generator.random((200, 200)))[:, :100]).ravel(), p.ravel(), generator.random(200), 0.9999,
        np.zeros(200, bool),
    )  # fmt: skip
    found = modified_policy_iteration.solve(mdp, modified_policy_iteration.Config(error=1e-12))
    assert not found.reached
    assert found.sweeps < 5000


@pytest.mark.parametrize("solver", ALL)
def test_where_nothing_can_be_proved_the_error_is_infinite(solver: ModuleType):
    mdp = from_transitions([0], [0], [0], [1.0], [1e308], 0.99)
    with np.errstate(all="ignore"):
        found = solver.solve(mdp)
    assert not found.reached
    assert found.error == np.inf


@pytest.mark.parametrize("solver", ALL)
def test_the_smallest_rewards_are_not_claimed_to_be_exact(solver: ModuleType):
    mdp = from_transitions([0], [0], [0], [1.0], [1e-309], 0.3)
    found = solver.solve(mdp)
    assert abs(Fraction(float(found.value[0])) - Fraction(1e-309) / (1 - Fraction(0.3))) <= Fraction(found.error)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_a_successor_may_stand_twice_in_a_row(solver: ModuleType, gamma: float):
    if gamma == 1 and solver not in WITHOUT_DISCOUNT:
        return
    given = (
        [0, 2, 3, 3], [0, 1, 0], [0, 3, 5, 7], [0, 0, 2, 1, 1, 2, 2], [0.3, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5],
        [-1.0, -2.0, -1.0],
    )  # fmt: skip
    mdp = MDP(*map(np.array, given), gamma, np.array([False, False, True]))
    once = from_transitions(
        [0, 0, 0, 1], [0, 0, 1, 0], [0, 2, 1, 2], [0.6, 0.4, 1.0, 1.0], [-1, -1, -2, -1], gamma, 3, [2]
    )
    found, due = solver.solve(mdp), solver.solve(once)
    assert np.abs(found.value - due.value).max() <= found.error + due.error


def test_merging_loops_forgets_no_rounding():
    """A policy's rewards cancel in state 0, beside two states between which it goes to and fro for nothing."""
    mdp = from_transitions(
        [0, 0, 1, 2], [0, 1, 0, 0], [3, 3, 2, 1], [1.0] * 4, [3e9, -3e9 + 1e-3, 0.0, 0.0], 1.0, ends=[3]
    )
    process = as_decision_process(policy_reward_process(mdp, np.array([[0.5, 0.5], [1, 0], [1, 0], [0, 0]])))
    merged = merge_free_loops(process)
    assert merged is not None
    assert merged.mdp.largest_reward == process.largest_reward == 3e9
    assert unit_of_rounding(merged.mdp) >= unit_of_rounding(process)
