"""RLHF: what it adds to PPO (the KL to the reference as reward, its steering, pretraining) and what it refuses."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.policy_gradient import ppo
from operant.algorithms.preference import rlhf, sft
from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.text import world as text_world
from operant.text.language_model import LanguageModel, frozen, reward_model_from, small_model, value_head
from operant.text.sampling import Samples
from operant.text.tokenizer import Example
from operant.text.world import PromptWorld, evaluate

STOP = 0
PROMPTS = [[1, 2], [3], [4, 5, 6], [7, 7], [8]]
TEXT = [Example([0], [1, 2, 3, 4, 0]), Example([0], [5, 6, 0]), Example([0], [7, 0]), Example([3], [2, 1, 9, 9, 9, 0])]
CONFIG = rlhf.Config(iterations=1, rollout=10, epochs=1, minibatch=1000, max_gradient_norm=math.inf, reference_beta=0.3)


def sevens(samples: Samples) -> Tensor:
    return torch.tensor([float(r.count(7)) for r in samples.responses])


def language_model(seed: int = 0, value: str = "shared") -> LanguageModel:
    torch.manual_seed(seed)
    model = small_model(11, 16, 1, 2, 32)
    return LanguageModel(model, value_head(model) if value == "shared" else reward_model_from(model))


def reference_of(policy: LanguageModel) -> LanguageModel:
    return frozen(LanguageModel(copy.deepcopy(policy.model)))


def prompt_world(**settings: Any) -> PromptWorld:
    return PromptWorld(PROMPTS, sevens, {STOP}, **({"max_new_tokens": 6, "missing_stop_score": None} | settings))


def start(config: rlhf.Config = CONFIG, text: Any = (), value: str = "shared", **settings: Any) -> rlhf.State:
    policy = language_model(value=value)
    return rlhf.init(policy, reference_of(policy), prompt_world(**settings), config, text)


def moved(state: rlhf.State) -> rlhf.State:
    """The policy as it is when it has already left its reference."""
    state.ppo.step = 1
    with torch.no_grad():
        for p in state.policy.model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return state


def gradients(state: rlhf.State) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in state.policy.parameters()]


@pytest.mark.parametrize("value", ["shared", "separate"])
def test_at_the_start_the_ratio_is_1_and_the_kl_to_the_reference_0(value):
    metrics = next(rlhf.train(start(value=value), CONFIG))
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/approx_kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["objective/rlhf_reward"] == pytest.approx(metrics["objective/score"], abs=1e-5)


def test_shaped_rewards_sum_to_the_objective_and_the_score_lands_on_the_last_decision():
    state = moved(start())
    t = state.ppo.world.rollout(state.policy, 20)
    assert isinstance(state.reference, LanguageModel)
    reference = evaluate(state.reference, t.observation, t.action).log_prob
    shaped, metrics = rlhf.shape(t, reference, 0.3, CONFIG)
    for row in range(20):
        n = int(t.mask[row].sum())
        score = t.reward[row, n - 1].item()
        ratio = (t.log_prob - reference)[row, :n]
        assert shaped.reward[row, :n].sum().item() == pytest.approx(score - 0.3 * ratio.sum().item(), abs=1e-5)
        torch.testing.assert_close(shaped.reward[row, : n - 1], -0.3 * ratio[:-1])
        assert not shaped.reward[row, n:].any()
    assert metrics["objective/score"] == pytest.approx(t.reward.sum().item() / 20, abs=1e-5)
    assert metrics["objective/kl"] > 0.01
    assert metrics["objective/rlhf_reward"] == pytest.approx(shaped.reward.sum().item() / 20, abs=1e-4)


def test_whitened_rewards_have_deviation_1_and_the_same_mean():
    state = moved(start())
    t = state.ppo.world.rollout(state.policy, 20)
    plain, shown = rlhf.shape(t, t.log_prob - 0.2, 0.3, CONFIG)
    white, same = rlhf.shape(t, t.log_prob - 0.2, 0.3, dataclasses.replace(CONFIG, whiten_rewards=True))
    assert white.reward[t.mask].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert white.reward[t.mask].mean().item() == pytest.approx(plain.reward[t.mask].mean().item(), abs=1e-5)
    assert shown == same


def test_the_price_of_kl_is_steered_and_used_in_the_next_rollout(monkeypatch):
    config = dataclasses.replace(
        CONFIG, iterations=5, reference_rule="ziegler", reference_target=0.02, reference_horizon=50.0
    )
    used = []
    shape = rlhf.shape

    def watched(t: Trajectory, ref_log_prob: Tensor, beta: float, config: rlhf.Config) -> Any:
        used.append(beta)
        return shape(t, ref_log_prob, beta, config)

    monkeypatch.setattr(rlhf, "shape", watched)
    expected = [0.3]
    state = moved(start(config))
    for metrics in rlhf.train(state, config):
        assert metrics["objective/reference_beta"] == pytest.approx(expected[-1])
        error = min(max(metrics["objective/kl"] / 0.02 - 1, -0.2), 0.2)
        expected.append(expected[-1] * (1 + error * config.rollout / 50.0))
    assert used == pytest.approx(expected[:-1])
    assert len(set(used)) == 4
    assert state.reference_penalty.coefficient == pytest.approx(expected[-1])


def test_a_higher_price_of_kl_keeps_the_policy_nearer():
    def distance(beta: float) -> float:
        config = rlhf.Config(iterations=12, rollout=64, minibatch=32, learning_rate=5e-3, reference_beta=beta)
        *_, last = rlhf.train(start(config), config)
        return last["objective/kl"]

    assert distance(3.0) < 0.3 * distance(0.03)


def batch(state: rlhf.State, config: rlhf.Config) -> ppo.Batch:
    torch.manual_seed(3)
    return ppo.prepare(state.ppo.world.rollout(state.policy, 10), config)


def test_ppo_ptx_is_the_gradient_of_ppo_plus_the_coefficient_times_that_of_pretraining():
    """E[r - β log π/π_ref] + γ E_pretraining[log π] (Ouyang et al. 2022, eq. 2); the loss is a mean per token."""
    plain = start()
    given = batch(plain, CONFIG)
    ppo.update(plain.ppo, given, CONFIG)
    config = dataclasses.replace(CONFIG, ptx_coefficient=27.8, ptx_batch=4)
    state = start(config, TEXT)
    language = sum(sft.parts(state.policy, TEXT, 0))
    parameters = list(state.policy.parameters())
    pretraining = torch.autograd.grad(language, parameters, allow_unused=True, materialize_grads=True)
    world: Any = state.ppo.world
    world.rollout = lambda policy, size: given.trajectory
    world.measured = lambda: {"rollout/eos_rate": 1.0}
    metrics = next(rlhf.train(state, dataclasses.replace(config, reference_beta=0.0)))
    assert metrics["loss/auxiliary"] == pytest.approx(27.8 * language.item(), rel=1e-5)
    expected = [a + 27.8 * b for a, b in zip(gradients(plain), pretraining, strict=True)]
    torch.testing.assert_close(gradients(state), expected, atol=1e-5, rtol=1e-4)


def test_pretraining_text_goes_with_every_minibatch_and_is_taken_in_turn(monkeypatch):
    taken: list[list[Example]] = []
    parts = sft.parts

    def watched(policy: LanguageModel, examples: list[Example], micro_batch: int) -> Any:
        taken.append(examples)
        return parts(policy, examples, micro_batch)

    monkeypatch.setattr(sft, "parts", watched)
    config = dataclasses.replace(CONFIG, ptx_coefficient=1.0, ptx_batch=2, minibatch=5, epochs=2)
    next(rlhf.train(start(config, TEXT), config))
    assert [len(x) for x in taken] == [2] * 4
    assert sorted(taken[0] + taken[1]) == sorted(taken[2] + taken[3]) == sorted(TEXT)


@pytest.mark.parametrize("budget", [1, 12, 30])
@pytest.mark.parametrize("value", ["shared", "separate"])
def test_micro_batches_of_unequal_length_add_up_to_the_minibatch(budget, value):
    config = dataclasses.replace(CONFIG, ptx_coefficient=1.0, ptx_batch=4, entropy_coefficient=0.1, micro_batch=0)
    found = []
    for size in (0, budget):
        cut = dataclasses.replace(config, micro_batch=size)
        state = start(cut, TEXT, value)
        torch.manual_seed(3)
        metrics = next(rlhf.train(state, cut))
        found.append((metrics, gradients(state)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4, abs=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-4)


def test_the_reference_is_evaluated_in_micro_batches_too(monkeypatch):
    budgets = []

    def watched(policy: LanguageModel, context: Any, action: Tensor, budget: int = 8192) -> Any:
        budgets.append(budget)
        return text_world.evaluate(policy, context, action, budget)

    monkeypatch.setattr(rlhf, "evaluate", watched)
    config = dataclasses.replace(CONFIG, micro_batch=17)
    next(rlhf.train(start(config), config))
    assert budgets == [17]


def test_no_response_is_dropped_when_the_minibatch_does_not_divide_the_rollout(monkeypatch):
    config = dataclasses.replace(CONFIG, minibatch=4, epochs=2)
    sizes: list[list[list[int]]] = []
    state = start(config)
    evaluated = state.policy.evaluate

    def watched(observation: Any, action: Tensor) -> Any:
        if torch.is_grad_enabled():
            sizes.append(torch.cat([observation.token, action], -1).tolist())
        return evaluated(observation, action)

    monkeypatch.setattr(state.policy, "evaluate", watched)
    next(rlhf.train(state, config))
    assert [len(x) for x in sizes] == [4, 3, 3] * 2
    whole = torch.cat([state.ppo.world.last.context.token, state.ppo.world.last.action], -1).tolist()
    for epoch in (sizes[:3], sizes[3:]):
        assert sorted(row for piece in epoch for row in piece) == sorted(whole)


def test_generation_settings_of_the_model_filter_nothing():
    """Top-k, a minimum length or a penalty would make the recorded log-probs those of another policy."""
    plain, filtered = start(), start()
    settings = filtered.policy.model.generation_config
    settings.top_k, settings.top_p, settings.min_new_tokens, settings.repetition_penalty = 1, 0.1, 6, 5.0
    found = []
    for state in (plain, filtered):
        torch.manual_seed(1)
        found.append((next(rlhf.train(state, CONFIG)), state.ppo.world.last.responses))
    assert found[0] == found[1]
    assert found[1][0]["objective/kl"] == pytest.approx(0, abs=1e-5)


def test_a_policy_that_does_not_start_from_its_reference_is_noticed():
    state = moved(start())
    state.ppo.step = 0
    with pytest.warns(UserWarning, match="KL to the reference is .* does not start from its reference"):
        next(rlhf.train(state, CONFIG))


def test_a_policy_that_never_stops_is_noticed():
    world = {"missing_stop_score": -1.0, "max_new_tokens": 1}
    state = start(**world)
    state.ppo.world.stop = set()
    with pytest.warns(UserWarning, match="no response of the first rollout ended within 1 tokens"):
        next(rlhf.train(state, CONFIG))


def test_a_policy_without_a_value_function_is_refused():
    policy = language_model()
    policy.value = None
    with pytest.raises(InputError, match=r"no value function and value_coefficient is 0.1"):
        rlhf.init(policy, reference_of(policy), prompt_world(), CONFIG)


def test_a_policy_cannot_be_its_own_reference():
    policy = language_model()
    with pytest.raises(InputError, match="KL would always be 0"):
        rlhf.init(policy, LanguageModel(policy.model), prompt_world(), CONFIG)


def test_without_a_reference_the_policy_needs_an_adapter():
    with pytest.raises(InputError, match="LoRA"):
        rlhf.init(language_model(), None, prompt_world(), CONFIG)


def test_ptx_needs_text():
    with pytest.raises(InputError, match=r"ptx_coefficient is 27.8 and there is no pretraining text"):
        start(dataclasses.replace(CONFIG, ptx_coefficient=27.8))


def test_a_bare_transformers_model_is_no_policy(unchecked_types):
    policy = language_model()
    bare: Any = policy.model
    with pytest.raises(InputError, match="the policy is a LlamaForCausalLM; give a LanguageModel"):
        rlhf.init(bare, reference_of(policy), prompt_world(), CONFIG)
