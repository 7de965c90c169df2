"""Policies evaluated by sweeps, against the linear system."""

import numpy as np
import pytest

from operant.algorithms.planning import policy_evaluation, value_iteration
from operant.core.errors import InputError
from operant.mdp import problems
from operant.mdp.chain import policy_reward_process

from .exact import random_model


@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.9999])
def test_the_error_holds(gamma: float):
    generator = np.random.default_rng(0)
    for _ in range(20):
        mdp = random_model(generator, gamma)
        weight = generator.random(len(mdp.action)) + 1e-3
        policy = np.zeros((mdp.states, mdp.actions))
        policy[mdp.row_states(), mdp.action] = weight
        policy[~mdp.end] /= policy[~mdp.end].sum(1, keepdims=True)
        found = policy_evaluation.solve(mdp, policy, policy_evaluation.Config(error=1e-4))
        assert found.reached
        due = policy_reward_process(mdp, policy).value()
        assert np.abs(found.value - due).max() <= found.error + 1e-9 * np.abs(due).max()


def test_without_a_discount():
    """Example 4.1: any of four directions, each with the same chance."""
    mdp = problems.corner_grid()
    found = policy_evaluation.solve(mdp, np.full((16, 4), 0.25))
    assert found.reached
    due = [0, -14, -20, -22, -14, -18, -20, -20, -20, -20, -18, -14, -22, -20, -14, 0]
    np.testing.assert_allclose(found.value, due, atol=found.error)


def test_the_best_policy_is_worth_the_optimum():
    mdp = problems.car_rental()
    best = value_iteration.solve(mdp)
    found = policy_evaluation.solve(mdp, best.policy)
    assert np.abs(found.value - best.value).max() <= found.error + 3 * best.error


def test_policies_that_cannot_be_evaluated_are_refused():
    mdp = problems.corner_grid()
    with pytest.raises(InputError, match="no end can be reached"):
        policy_evaluation.solve(mdp, np.zeros(16, dtype=int))
    with pytest.raises(InputError, match="the policy has the shape"):
        policy_evaluation.solve(mdp, np.zeros(3, dtype=int))
