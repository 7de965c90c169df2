"""Linear policies on tiles: the tiles are those of the core, and exploring has the density it says."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Normal

from operant.core.errors import InputError
from operant.networks.linear import LinearActorCritic, linear, step_linear

SEEN = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32))
ACTIONS = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))


def policy() -> LinearActorCritic:
    made = LinearActorCritic(SEEN, ACTIONS, tilings=4, across=3, exploration=0.3)
    made.actor.normal_()
    made.critic.normal_()
    return made


def test_mean_and_value_add_the_weights_of_the_tiles():
    """Against the features of the core, one observation at a time; outside the box counts as on its edge."""
    made = policy()
    seen = torch.tensor([[[-1.0, 0.0], [0.3, 2.0], [1.0, 5.0]], [[0.99, 4.9], [-7.0, 9.0], [0.0, 0.0]]])
    for i in range(2):
        for j in range(3):
            index = made.tiles(seen[i, j].numpy()).index
            scaled = made.actor.numpy()[index].sum(0)
            np.testing.assert_allclose(made.mean(seen)[i, j], np.array([0, 5]) + np.array([2, 5]) * scaled, rtol=1e-5)
            assert made.value(seen)[i, j].item() == pytest.approx(made.critic.numpy()[index].sum(), rel=1e-5)


def test_a_new_policy_acts_in_the_middle_of_the_box():
    made = LinearActorCritic(SEEN, ACTIONS)
    assert made.choose(torch.zeros(1, 2), greedy=True).tolist() == [[0, 5]]


def test_exploring_has_the_density_that_is_recorded():
    made = policy()
    seen = torch.tensor([0.3, 2.0]).expand(20_000, 2)
    action, log_prob, value, _ = made.act(seen)
    there = Normal(made.mean(seen[0]), 0.3 * made.scale)
    torch.testing.assert_close(log_prob, there.log_prob(action).sum(-1))
    torch.testing.assert_close(made.evaluate(seen, action).entropy[0], there.entropy().sum())
    torch.testing.assert_close(action.std(0), there.stddev, rtol=0.03, atol=0)
    torch.testing.assert_close(value, made.value(seen))


def test_a_step_adds_up_where_examples_share_tiles():
    weights, x = torch.zeros(5, 2), torch.tensor([[0, 3], [3, 4]])
    step_linear(weights, x, torch.tensor([[1.0, 10.0], [2.0, 20.0]]))
    assert weights.tolist() == [[1, 10], [0, 0], [0, 0], [3, 30], [2, 20]]
    assert linear(weights, x).tolist() == [[4, 40], [5, 50]]


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), ACTIONS, "observations in a Box"),
        (spaces.Box(0, 255, (2, 2), np.uint8), ACTIONS, "observations in a Box"),
        (SEEN, spaces.Discrete(2), "actions in a Box"),
        (spaces.Box(0, 1, (9,)), ACTIONS, "more than 10000000"),
    ],
)
def test_spaces_that_tiles_cannot_cover_are_refused(observation, action, message):
    with pytest.raises(InputError, match=message):
        LinearActorCritic(observation, action)
