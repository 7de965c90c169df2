"""RLOO: the leave-one-out baseline by its definition, and what it refuses."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.preference import rlhf, rloo
from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.text.language_model import LanguageModel, frozen, small_model
from operant.text.sampling import Samples
from operant.text.world import PromptWorld, evaluate

PROMPTS = [[1, 2], [3], [4, 5, 6]]
CONFIG = rloo.Config(iterations=1, rollout=6, minibatch=1000, max_gradient_norm=math.inf, reference_beta=0.3)


def sevens(samples: Samples) -> Tensor:
    return torch.tensor([float(r.count(7)) for r in samples.responses])


def start(config: rloo.Config = CONFIG, completions: int | None = None) -> rlhf.State:
    torch.manual_seed(0)
    model = small_model(11, 16, 1, 2, 32)
    world = PromptWorld(PROMPTS, sevens, {0}, 6, completions or config.completions, missing_stop_score=None)
    return rloo.init(LanguageModel(model), frozen(LanguageModel(copy.deepcopy(model))), world, config)


def rollout(state: rlhf.State, size: int = 6) -> Trajectory:
    return state.ppo.world.rollout(state.policy, size)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_baseline_of_a_response_is_the_mean_of_the_others(k):
    config = dataclasses.replace(CONFIG, completions=k)
    t = rollout(start(config))
    t = dataclasses.replace(t, reward=torch.where(t.mask, torch.randn(t.mask.shape), 0.0))
    batch = rloo.prepare(t, config)
    returns = t.reward.sum(-1).tolist()
    for row, own in enumerate(returns):
        group = range(row // k * k, row // k * k + k)
        others = [returns[j] for j in group if j != row]
        expected = own - sum(others) / len(others)
        n = int(t.mask[row].sum())
        torch.testing.assert_close(batch.advantage[row, :n], torch.full((n,), expected), atol=1e-5, rtol=1e-4)
        assert not batch.advantage[row, n:].any()
    assert torch.equal(batch.target, t.value)


def test_a_bonus_for_every_response_to_a_prompt_teaches_nothing():
    t = rollout(start())
    bonus = torch.arange(6.0).repeat_interleave(4).unsqueeze(-1)
    raised = dataclasses.replace(t, reward=t.reward + bonus * t.terminated)
    torch.testing.assert_close(rloo.prepare(raised, CONFIG).advantage, rloo.prepare(t, CONFIG).advantage)


def test_the_return_has_the_price_of_kl_in_it_and_the_step_is_reinforce():
    """∇ Σ_tokens Â log π / tokens, with Â from r - β log π/π_ref of whole responses (Ahmadian et al. 2024, eq. 8)."""
    state = start()
    state.ppo.step = 1
    config = dataclasses.replace(CONFIG, iterations=2)
    with torch.no_grad():
        for p in state.policy.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    t = rollout(state)
    world: Any = state.ppo.world
    world.rollout = lambda policy, size: t
    assert isinstance(state.reference, LanguageModel)
    ratio = torch.where(t.mask, t.log_prob - evaluate(state.reference, t.observation, t.action).log_prob, 0.0).sum(-1)
    assert ratio.abs().mean() > 0.01
    r = (t.reward.sum(-1) - 0.3 * ratio).view(6, 4)
    advantage = torch.stack([r[:, k] - r[:, [j for j in range(4) if j != k]].mean(-1) for k in range(4)], -1)
    log_prob = torch.where(t.mask, state.policy.evaluate(t.observation, t.action).log_prob, 0.0).sum(-1)
    loss = -(advantage.flatten() * log_prob).sum() / t.mask.sum()
    expected = torch.autograd.grad(loss, list(state.policy.parameters()))
    next(rloo.train(state, config))
    torch.testing.assert_close([p.grad for p in state.policy.parameters()], list(expected), atol=1e-6, rtol=1e-4)


def test_one_response_to_a_prompt_is_refused():
    config = dataclasses.replace(CONFIG, completions=1)
    with pytest.raises(InputError, match="completions is 1"):
        rloo.train(start(config), config)


def test_a_world_with_another_number_of_responses_is_refused():
    with pytest.raises(InputError, match="the world gives 2 responses to a prompt, completions is 4"):
        rloo.train(start(completions=2), CONFIG)


@pytest.mark.parametrize("setting", [{"gamma": 0.9}, {"lambda_": 0.5}, {"value_clip": 0.2}])
def test_settings_of_a_critic_are_refused(setting):
    config = dataclasses.replace(CONFIG, **setting)
    with pytest.raises(InputError, match=f"{next(iter(setting))} is .* does nothing"):
        rloo.train(start(config), config)


def test_a_value_coefficient_without_a_value_function_is_refused():
    with pytest.raises(InputError, match=r"value_coefficient is 0.1"):
        start(dataclasses.replace(CONFIG, value_coefficient=0.1))
