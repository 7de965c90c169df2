"""Classic problems have the values that the book prints."""

import doctest

import numpy as np
import pytest

from operant.algorithms.planning import modified_policy_iteration, policy_iteration
from operant.mdp import problems
from operant.mdp.chain import policy_reward_process

close = np.testing.assert_allclose


def uniform(mdp):
    """The policy that takes every action of a state equally often."""
    policy = np.zeros((mdp.states, mdp.actions))
    policy[mdp.row_states(), mdp.action] = 1
    return policy / np.maximum(policy.sum(1, keepdims=True), 1)


def test_example_3_5():
    mdp = problems.jumping_grid()
    value = policy_reward_process(mdp, uniform(mdp)).value().reshape(5, 5)
    close(value[0], [3.3, 8.8, 4.4, 5.3, 1.5], atol=0.05)
    close(value[4], [-1.9, -1.3, -1.2, -1.4, -2.0], atol=0.06)
    best = modified_policy_iteration.solve(mdp).value.reshape(5, 5)
    close(best[0], [22.0, 24.4, 22.0, 19.4, 17.5], atol=0.05)


def test_example_4_1():
    mdp = problems.corner_grid()
    value = policy_reward_process(mdp, uniform(mdp)).value().reshape(4, 4)
    close(value[:2], [[0, -14, -20, -22], [-14, -18, -20, -20]], atol=1e-9)


def test_random_walk():
    mdp = problems.random_walk()
    close(policy_reward_process(mdp, uniform(mdp)).value()[1:-1], np.arange(1, 6) / 6)


def test_car_rental():
    found = modified_policy_iteration.solve(problems.car_rental(), modified_policy_iteration.Config(error=1e-4))
    assert found.reached
    value = found.value.reshape(21, 21)
    close([value[0, 0], value[10, 10], value[20, 20]], [421.414, 574.948, 636.990], atol=1e-3)


def test_recycling_robot():
    """Low: recharging pays nothing and leads to where searching is best."""
    found = modified_policy_iteration.solve(problems.recycling_robot())
    high, low = found.value
    close(high, 2 + 0.9 * (0.9 * high + 0.1 * low), atol=1e-5)
    close(low, 0.9 * high, atol=1e-5)
    assert found.policy.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("name", "states", "rows"), [("cliff", 48, 188), ("windy_grid", 70, 276), ("gambler", 101, 2500)]
)
def test_sizes(name, states, rows):
    mdp = getattr(problems, name)()
    assert (mdp.states, len(mdp.action)) == (states, rows)


def test_the_lectures_treasure_walk():
    """Also the example in its docstring; the longer the walk, the less is left of the treasure."""
    assert doctest.testmod(problems) == (0, 4)
    found = modified_policy_iteration.solve(problems.treasure_walk(9, 0.5))
    close(found.value, [*0.5 ** np.arange(7, -1, -1), 0], atol=1e-6)


def test_the_long_random_walk_is_near_a_straight_line():
    mdp = problems.long_random_walk()
    value = policy_reward_process(mdp, uniform(mdp)).value()
    close(value[1:-1], -value[-2:0:-1], atol=1e-9)
    assert np.abs(value[1:-1] - np.linspace(-1, 1, 1002)[1:-1]).max() < 0.08
    short = problems.long_random_walk(5, 1)
    close(policy_reward_process(short, uniform(short)).value()[1:-1], np.linspace(-1, 1, 7)[1:-1], atol=1e-9)


def test_the_maze_takes_14_steps():
    found = modified_policy_iteration.solve(problems.dyna_maze())
    close(found.value[18], 0.95**13, atol=1e-6)


def test_bairds_counterexample():
    """All values are 0, yet the expected semi-gradient step has an eigenvalue above 0: it diverges. On-policy none."""
    mdp, features = problems.baird(), problems.baird_features()
    behaviour, target = problems.baird_policies()
    assert (modified_policy_iteration.solve(mdp).value == 0).all()
    chain = policy_reward_process(mdp, target).chain.transition.toarray()
    visits = policy_reward_process(mdp, behaviour).chain.stationary()
    close(visits, 1 / 7)

    def growth(weight: np.ndarray) -> float:
        step = features.T @ np.diag(weight) @ (0.99 * chain - np.eye(7)) @ features
        return float(np.linalg.eigvals(step).real.max())

    close(growth(visits), 0.239, atol=5e-4)
    assert growth(np.eye(7)[6]) < 1e-12


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_the_list_of_problems(name):
    problem = problems.PROBLEMS[name]
    mdp = problem.make()
    assert problem.grid is None or problem.grid[0] * problem.grid[1] == mdp.states
    assert all(problem.actions(a) for a in sorted(set(mdp.action.tolist())))
    assert policy_iteration.solve(mdp).reached


def test_blackjack():
    """Example 5.4's state under its policy, which the book gives as -0.27726; and the optimal policy (figure 5.2)."""
    game = problems.blackjack()
    assert game.end.nonzero()[0].tolist() == [200, 201, 202]
    sticks = np.arange(203) % 10 + 12 >= 20
    value = policy_reward_process(game, np.where(sticks, 0, 1)).value()
    assert value[(10 + 2 - 1) * 10 + 13 - 12] == pytest.approx(-0.27726, abs=3e-4)
    best = policy_iteration.solve(game).policy[:200].reshape(2, 10, 10)
    stick_from = {(ace, card): 12 + int(best[ace, card - 1].argmin()) for ace in (0, 1) for card in range(1, 11)}
    assert [stick_from[0, card] for card in (2, 3, 4, 5, 6, 7, 8, 9, 10, 1)] == [13, 13, 12, 12, 12, 17, 17, 17, 17, 17]
    assert [stick_from[1, card] for card in range(2, 11)] == [18, 18, 18, 18, 18, 18, 18, 19, 19]
