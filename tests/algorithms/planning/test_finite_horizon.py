"""Finite horizons, against all plans one after the other, and at their limits."""

import itertools

import numpy as np
import pytest

from operant.algorithms.planning import finite_horizon, value_iteration
from operant.core.errors import InputError
from operant.mdp import problems
from operant.mdp.model import MDP

from .exact import random_model


def value_of_plan(mdp: MDP, plan: np.ndarray, last: np.ndarray) -> np.ndarray:
    """[S]: what it is worth to take action plan[h, s] in state s with h + 1 steps left."""
    value = last
    for actions in plan:
        rows = [mdp.first[s] + a for s, a in enumerate(actions)]
        value = mdp.reward[rows] + mdp.gamma * (mdp.matrix()[rows] @ value)
    return value


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_it_equals_the_best_of_all_plans(gamma: float):
    generator = np.random.default_rng(0)
    tried = 0
    while tried < 5:
        mdp = random_model(generator, gamma)
        counts = np.diff(mdp.first)
        if mdp.end.any() or counts.prod() ** 2 > 500:
            continue
        tried += 1
        last = generator.normal(size=mdp.states)
        plans = itertools.product(*(range(n) for n in np.tile(counts, 2)))
        due = np.max([value_of_plan(mdp, np.reshape(plan, (2, -1)), last) for plan in plans], axis=0)
        found = finite_horizon.solve(mdp, finite_horizon.Config(horizon=2), last)
        np.testing.assert_allclose(found.value[2], due)
        places = np.array(
            [
                [int(np.searchsorted(mdp.action[mdp.first[s] : mdp.first[s + 1]], a)) for s, a in enumerate(actions)]
                for actions in found.policy[1:]
            ]
        )
        np.testing.assert_allclose(value_of_plan(mdp, places, last), due)


def test_a_long_horizon_is_worth_what_an_endless_one_is():
    mdp = random_model(np.random.default_rng(1), 0.9)
    found, due = finite_horizon.solve(mdp, finite_horizon.Config(horizon=300)), value_iteration.solve(mdp)
    assert np.abs(found.value[300] - due.value).max() < 1e-6 + due.error
    assert (found.policy[300] == due.policy).all()


def test_the_best_action_depends_on_the_steps_that_are_left():
    """On the cliff's grid nobody gets to the end in 12 steps, and all who start can in 13."""
    value = finite_horizon.solve(problems.cliff(), finite_horizon.Config(horizon=20)).value
    assert value[[0, 5, 12, 13, 20], 36].tolist() == [0, -5, -12, -13, -13]


def test_bad_settings_are_refused():
    mdp = problems.cliff()
    with pytest.raises(InputError, match="the horizon is 0"):
        finite_horizon.solve(mdp, finite_horizon.Config(horizon=0))
    with pytest.raises(InputError, match=r"last has the shape \(2,\); give 48"):
        finite_horizon.solve(mdp, last=np.zeros(2))
