"""Actors in a box and their critics: bounds, NumPy against PyTorch, spaces that fit."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from operant.core.errors import InputError
from operant.networks.continuous import Bounds, deterministic_actor_critic, soft_actor_critic

SEEN = spaces.Box(-1, 1, (3,), np.float32)
LOW, HIGH = np.array([-3.0, -0.4], np.float32), np.array([3.0, 1.0], np.float32)
ACTIONS = spaces.Box(LOW, HIGH)


def test_bounds_stretch_and_shrink_and_clip():
    bounds = Bounds(torch.from_numpy(LOW), torch.from_numpy(HIGH))
    torch.testing.assert_close(bounds(torch.tensor([[-1.0, 1.0], [0.0, 0.0]])), torch.tensor([[-3.0, 1.0], [0, 0.3]]))
    action = torch.rand(50, 2) * 2 - 1
    torch.testing.assert_close(bounds.inverse(bounds(action)), action)
    clipped = bounds.clip(torch.tensor([[9.0, -9.0], [1.0, 0.5]]))
    torch.testing.assert_close(clipped, torch.tensor([[3.0, -0.4], [1.0, 0.5]]))


def test_an_actor_stays_in_the_box_and_reaches_its_ends():
    policy = deterministic_actor_critic(SEEN, ACTIONS, (8,))
    with torch.no_grad():
        policy.actor.network[-1].weight *= 1000
    action = policy.choose(torch.randn(1000, 3)).numpy()
    assert (action >= LOW - 1e-6).all()
    assert (action <= HIGH + 1e-6).all()
    np.testing.assert_allclose(action.min(0), LOW, rtol=1e-5)
    np.testing.assert_allclose(action.max(0), HIGH, rtol=1e-5)


@pytest.mark.parametrize("critics", [1, 2])
def test_critics_are_different_functions_of_state_and_action(critics):
    policy = deterministic_actor_critic(SEEN, ACTIONS, (8,), critics)
    seen, action = torch.randn(5, 3), torch.from_numpy(np.stack([ACTIONS.sample() for _ in range(5)]))
    values = policy.critics(seen, action)
    assert [x.shape for x in values] == [(5,)] * critics
    assert not torch.equal(values[0], values[-1]) or critics == 1
    assert torch.equal(policy.critics(seen, action, count=1)[0], values[0])
    assert not torch.equal(policy.critics(seen, action.flip(0))[0], values[0])


def test_critics_see_actions_on_the_same_scale_whatever_the_box():
    torch.manual_seed(0)
    narrow = deterministic_actor_critic(SEEN, ACTIONS, (8,))
    torch.manual_seed(0)
    wide = deterministic_actor_critic(SEEN, spaces.Box(1000 * LOW, 1000 * HIGH), (8,))
    seen, action = torch.randn(5, 3), torch.rand(5, 2)
    torch.testing.assert_close(narrow.critics(seen, action)[0], wide.critics(seen, 1000 * action)[0])


def test_numpy_chooses_what_torch_chooses():
    policy, soft = deterministic_actor_critic(SEEN, ACTIONS, (8,)), soft_actor_critic(SEEN, ACTIONS, (8,))
    seen = torch.randn(4, 3)
    for actor, due in ((policy.actor, policy.choose(seen)), (soft.actor, soft.choose(seen, greedy=True))):
        np.testing.assert_allclose(actor.reflex(1, 4, greedy=True)(seen.numpy(), 0), due.numpy(), rtol=1e-5, atol=1e-6)


def test_draws_in_numpy_have_the_distribution_of_those_in_torch():
    soft = soft_actor_critic(SEEN, ACTIONS, (8,))
    seen = torch.randn(1, 3).expand(50_000, 3).contiguous()
    ours, due = soft.actor.reflex(1, 50_000, greedy=False)(seen.numpy(), 0), soft.choose(seen).numpy()
    for quantile in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(np.quantile(ours, quantile, 0), np.quantile(due, quantile, 0), atol=0.04)
    assert abs(np.corrcoef(ours.T)[0, 1]) < 0.02


def test_noise_of_different_steps_and_rows_differs():
    draw = soft_actor_critic(SEEN, ACTIONS, (8,)).actor.reflex(3, 2, greedy=False)
    seen = np.zeros((2, 3), np.float32)
    assert len({tuple(row) for step in range(3) for row in draw(seen, step)}) == 6


@pytest.mark.parametrize("make", [deterministic_actor_critic, soft_actor_critic])
@pytest.mark.parametrize(
    ("seen", "actions", "message"),
    [
        (SEEN, spaces.Discrete(3), "DQN, A2C and PPO"),
        (SEEN, spaces.Box(-1, 1, (2, 2)), "one dimension"),
        (SEEN, spaces.Box(-np.inf, 1, (2,)), "RescaleAction"),
        (SEEN, spaces.Box(np.float32([0, 1]), np.float32([1, 1])), "not bounded"),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), ACTIONS, "FlattenObservation"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(make, seen, actions, message):
    with pytest.raises(InputError, match=message):
        make(seen, actions)
