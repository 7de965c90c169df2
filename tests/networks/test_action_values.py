"""Q-networks: the duelling head, NumPy against PyTorch, and the spaces that fit."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from operant.core.errors import InputError
from operant.core.flat import flatten
from operant.networks.action_values import Duelling, q_network
from operant.networks.in_numpy import in_numpy
from operant.networks.masks import MaskedBox

NUMBERS = spaces.Box(-1, 1, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (4, 40, 36), np.uint8)
ACTIONS = spaces.Discrete(3, start=2)


def test_duelling_is_a_value_and_advantages_of_mean_0():
    output = torch.randn(6, 4, dtype=torch.float64)
    q = Duelling()(output)
    torch.testing.assert_close(q.mean(-1), output[:, 0])
    torch.testing.assert_close(q[:, 1] - q[:, 2], output[:, 2] - output[:, 3])
    shifted = output + torch.tensor([0, 7, 7, 7])  # only the differences of advantages count
    torch.testing.assert_close(Duelling()(shifted), q)


@pytest.mark.parametrize("duelling", [False, True])
@pytest.mark.parametrize("space", [NUMBERS, IMAGE])
def test_choose_is_the_best_action(space, duelling):
    network = q_network(space, ACTIONS, (16,), duelling)
    seen = torch.from_numpy(np.stack([space.sample() for _ in range(7)]))
    q = network(seen)
    assert q.shape == (7, 3)
    assert torch.equal(network.choose(seen), q.argmax(-1))
    assert not network.memory


@pytest.mark.parametrize("duelling", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
def test_numpy_gives_what_torch_gives_and_follows_training(duelling, activation):
    """SiLU has no counterpart there, so it goes through PyTorch."""
    network = q_network(NUMBERS, ACTIONS, (16, 8), duelling, activation)
    vector, forward = flatten(network), in_numpy(network.network)
    for _ in range(2):
        seen = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
        due = network(torch.from_numpy(seen)).detach().numpy()
        np.testing.assert_allclose(forward(seen), due, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            vector.mul_(1.1)


def test_images_go_through_torch():
    network = q_network(IMAGE, ACTIONS)
    seen = np.stack([IMAGE.sample() for _ in range(2)])
    np.testing.assert_array_equal(in_numpy(network.network)(seen), network(torch.from_numpy(seen)).detach().numpy())


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (NUMBERS, spaces.Box(-1, 1, (2,)), "DDPG, TD3 and SAC"),
        (spaces.Box(-1, 1, (2, 2)), ACTIONS, "FlattenObservation"),
        (spaces.Discrete(4), ACTIONS, "FlattenObservation"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(observation, action, message):
    with pytest.raises(InputError, match=message):
        q_network(observation, action)


@pytest.mark.parametrize("masked", [False, True])
def test_who_asks_for_no_greedy_actions_gets_random_ones_as_often_as_epsilon_says(masked):
    torch.manual_seed(0)
    space = MaskedBox(NUMBERS, 3) if masked else NUMBERS
    network = q_network(space, ACTIONS, (16,), epsilon=0.3)
    seen = torch.zeros(3000, space.shape[0])
    if masked:
        seen[:, -3:] = torch.tensor([1.0, 0.0, 1.0])
    best = network.choose(seen)
    drawn = network.choose(seen, greedy=False)
    allowed = 2 if masked else 3
    assert (drawn != best).float().mean().item() == pytest.approx(0.3 * (1 - 1 / allowed), abs=0.03)
    assert len(drawn.unique()) == allowed
