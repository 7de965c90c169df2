"""Gradient bandit: its expected update, summed over all arms exactly, is the gradient of the expected reward."""

import copy

import numpy as np
import pytest
import torch

from operant.algorithms.bandit import gradient
from operant.algorithms.bandit.gradient import Config
from operant.bandits.choice import softmax
from operant.bandits.problems import gaussian

K, STEP = 5, 0.3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def expected_update(config: Config, preference: np.ndarray, reward: np.ndarray, mean: float, step: int) -> np.ndarray:
    """Σ_a π(a) [change of H when a was pulled], each change made by `update` itself."""
    policy = softmax(preference[None])[0]
    start = gradient.init(gaussian(1, K, np.random.default_rng(0)), config)
    start.preference, start.policy = preference[None].copy(), policy[None].copy()
    start.mean, start.step = np.array([mean]), step
    total = np.zeros(K)
    for arm in range(K):
        state = copy.deepcopy(start)
        gradient.update(state, config, np.array([arm]), reward[[arm]])
        total += policy[arm] * (state.preference[0] - preference)
    return total


def true_gradient(preference: np.ndarray, reward: np.ndarray) -> np.ndarray:
    h = torch.tensor(preference, requires_grad=True)
    (torch.softmax(h, 0) * torch.tensor(reward)).sum().backward()
    return h.grad.numpy()


@pytest.mark.parametrize("baseline", ["before", "none"])
@pytest.mark.parametrize("mean", [0.0, 7.0])
def test_the_expected_update_is_the_gradient_whatever_the_baseline(rng, baseline, mean):
    preference, reward = rng.standard_normal(K), rng.standard_normal(K)
    found = expected_update(Config(STEP, baseline), preference, reward, mean, 9)
    np.testing.assert_allclose(found, STEP * true_gradient(preference, reward), atol=1e-12)


def test_with_the_reward_itself_in_the_baseline_it_is_a_shorter_gradient(rng):
    preference, reward = rng.standard_normal(K), rng.standard_normal(K)
    found = expected_update(Config(STEP, "including"), preference, reward, 7.0, 9)
    np.testing.assert_allclose(found, (1 - 1 / 10) * STEP * true_gradient(preference, reward), atol=1e-12)


def test_preferences_keep_their_sum(rng):
    config = Config(0.4)
    state = gradient.init(gaussian(20, K, rng), config)
    for _ in gradient.train(state, config, 200):
        pass
    np.testing.assert_allclose(state.preference.sum(1), 0, atol=1e-10)


def test_the_mean_is_that_of_all_rewards(rng):
    state = gradient.init(gaussian(20, K, rng), Config())
    for _ in gradient.train(state, Config(), 200):
        pass
    np.testing.assert_allclose(state.mean, state.totals.reward / 200)
