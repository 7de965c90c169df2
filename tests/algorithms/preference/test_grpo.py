"""GRPO: the group's standardised returns by their definition."""

import copy
import dataclasses
import statistics

import pytest
import torch
from torch import Tensor

from operant.algorithms.preference import grpo, rlhf, rloo
from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.text.language_model import LanguageModel, frozen, small_model
from operant.text.sampling import Samples
from operant.text.world import PromptWorld

CONFIG = grpo.Config(iterations=1, rollout=6)


def sevens(samples: Samples) -> Tensor:
    return torch.tensor([float(r.count(7)) for r in samples.responses])


def start(config: grpo.Config) -> rlhf.State:
    model = small_model(11, 16, 1, 2, 32)
    world = PromptWorld([[1, 2], [3], [4, 5]], sevens, {0}, 6, config.completions, missing_stop_score=None)
    return grpo.init(LanguageModel(model), frozen(LanguageModel(copy.deepcopy(model))), world, config)


def rollout(config: grpo.Config) -> Trajectory:
    """Six prompts with rewards on every token."""
    state = start(config)
    t = state.ppo.world.rollout(state.policy, 6)
    return dataclasses.replace(t, reward=torch.where(t.mask, torch.randn(t.mask.shape), 0.0))


@pytest.mark.parametrize("k", [2, 3, 8])
def test_the_advantage_is_the_return_standardised_within_its_group(k):
    config = dataclasses.replace(CONFIG, completions=k)
    t = rollout(config)
    advantage = grpo.prepare(t, config).advantage
    returns = t.reward.sum(-1).tolist()
    for row, own in enumerate(returns):
        group = returns[row // k * k : row // k * k + k]
        expected = (own - statistics.mean(group)) / (statistics.pstdev(group) + 1e-4)
        n = int(t.mask[row].sum())
        torch.testing.assert_close(advantage[row, :n], torch.full((n,), expected), atol=1e-4, rtol=1e-4)
        assert not advantage[row, n:].any()


def test_scale_and_offset_of_a_groups_rewards_do_not_matter():
    config = dataclasses.replace(CONFIG, advantage_epsilon=0.0)
    t = rollout(config)
    other = dataclasses.replace(t, reward=5 * t.reward + 100 * t.terminated)
    torch.testing.assert_close(
        grpo.prepare(other, config).advantage, grpo.prepare(t, config).advantage, atol=1e-3, rtol=1e-3
    )
    assert not torch.allclose(rloo.prepare(other, config).advantage, rloo.prepare(t, config).advantage)


def test_a_group_of_equal_returns_teaches_nothing():
    t = rollout(CONFIG)
    equal = dataclasses.replace(t, reward=2.0 * t.terminated)
    assert not grpo.prepare(equal, CONFIG).advantage.any()


@pytest.mark.parametrize(("settings", "message"), [({"completions": 1}, "completions is 1"), ({"gamma": 0.9}, "gamma")])
def test_a_group_of_one_and_settings_of_a_critic_are_refused(settings, message):
    config = dataclasses.replace(CONFIG, **settings)
    with pytest.raises(InputError, match=message):
        grpo.train(start(config), config)
