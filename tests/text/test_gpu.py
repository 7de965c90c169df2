"""The same on an accelerator: each test is a path that a CPU never takes."""

import copy

import pytest
import torch

from operant.algorithms.preference import dpo, sft
from operant.core.device import device
from operant.text.context import rows
from operant.text.language_model import LanguageModel, frozen, reward_model_from, small_model
from operant.text.machine import probe
from operant.text.rewards import score
from operant.text.sampling import decoding_copy, fastest_decoding_dtype, sample
from operant.text.tokenizer import Comparison, Example

pytestmark = pytest.mark.gpu

PROMPTS, RESPONSES = [[1, 2, 3]] * 3 + [[4]], [[5, 6], [7], [8, 9, 10, 11], [12, 13]]


@pytest.fixture
def model():
    return small_model(vocabulary=64, width=32, layers=2, heads=2, context=32).to(device())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_probs_and_gradients_are_those_of_the_cpu(model, dtype):
    context, action, _ = rows(PROMPTS, RESPONSES)
    there, here = LanguageModel(model, dtype=dtype), LanguageModel(copy.deepcopy(model).cpu())
    due = here.evaluate(context, action)
    found = there.evaluate(context.to(device()), action.to(device()))
    near = 2e-3 if dtype == "float32" else 0.1
    torch.testing.assert_close(found.log_prob.cpu(), due.log_prob, rtol=near, atol=near)
    found.log_prob.sum().backward()
    due.log_prob.sum().backward()
    for a, b in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(a.grad.cpu(), b.grad, rtol=near, atol=near * b.grad.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampled_log_probs_are_those_of_the_copy_that_sampled(model, dtype):
    actor = decoding_copy(LanguageModel(model), dtype)
    found = sample(actor, PROMPTS, stop={0}, max_new_tokens=12, completions=3)
    again = actor.evaluate(found.context, found.action).log_prob
    near = 1e-3 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(found.log_prob, again, rtol=near, atol=near)


def test_a_reward_model_scores_and_the_machine_is_measured(model):
    context, _, _ = rows(PROMPTS, RESPONSES)
    assert torch.isfinite(score(reward_model_from(model), context.to(device()))).all()
    assert probe(LanguageModel(model))[1] == "bfloat16"
    assert fastest_decoding_dtype(model) in ("float32", "bfloat16")


def test_sft_and_dpo_learn(model):
    policy = LanguageModel(model, dtype="bfloat16")
    examples = [Example(p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    config = sft.Config(epochs=30, batch=4, learning_rate=1e-2)
    losses = [m["loss/language_model"] for m in sft.train(sft.init(policy, examples, config), config)]
    assert losses[-1] < 0.5 * losses[0]
    reference = LanguageModel(frozen(copy.deepcopy(model)), dtype="bfloat16")
    pairs = [Comparison([1, 2, 3], [[5, 6], [7]], [1, 2])]
    config = dpo.Config(epochs=40, learning_rate=2e-3)
    margins = [m["rewards/margins"] for m in dpo.train(dpo.init(policy, reference, pairs, config), config)]
    assert margins[-1] > margins[0] + 0.5
