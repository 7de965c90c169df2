"""Sampling: the recorded log-probs are the policy's own, and how rows are batched or dropped changes nothing."""

import copy
import dataclasses
import inspect
import itertools
from functools import partial
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from operant.core.errors import InputError
from operant.text.context import rows
from operant.text.language_model import LanguageModel, reward_model_from
from operant.text.sampling import Samples, decoding_copy, fastest_decoding_dtype, sample

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)

RAGGED = [[3, 1, 4, 1, 5], [9], [2, 6], [9], [5, 3, 5, 8, 9, 7, 9]]
SHORT = [[3], [1]]
STOP = {0, 7, 11, 13}
"""Several stop tokens, so that rows end at different times."""


@pytest.fixture
def policy(model: Any) -> LanguageModel:
    return LanguageModel(model, nn.Linear(model.config.hidden_size, 1))


class TestSample:
    @pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
    @pytest.mark.parametrize(("prompts", "completions"), [(RAGGED, 1), (RAGGED, 3), (SHORT, 1), (SHORT, 3)])
    def test_recorded_log_probs_and_values_are_those_of_evaluate(self, policy, prompts, completions, temperature):
        policy.temperature = temperature
        samples = sample(policy, prompts, STOP, 9, completions)
        again = policy.evaluate(samples.context, samples.action)
        close(samples.log_prob, again.log_prob)
        close(samples.value, again.value)
        assert (samples.log_prob[samples.mask] < 0).all()

    def test_rows_are_the_completions_of_each_prompt_in_order(self, policy):
        samples = sample(policy, RAGGED, STOP, 9, completions=3, batch=6)
        assert samples.prompts == [p for p in RAGGED for _ in range(3)]
        context, action, mask = rows(samples.prompts, samples.responses)
        assert torch.equal(samples.context.token, context.token)
        assert torch.equal(samples.context.place, context.place)
        assert torch.equal(samples.action, action)
        assert torch.equal(samples.mask, mask)

    def test_completions_of_one_prompt_are_independent(self, policy):
        samples = sample(policy, [[3, 1]], set(), 8, completions=16)
        assert len({tuple(r) for r in samples.responses}) == 16

    def test_a_response_ends_with_its_first_stop_token(self, policy):
        samples = sample(policy, RAGGED, STOP, 6, completions=20)
        for response, ended in zip(samples.responses, samples.ended.tolist(), strict=True):
            assert STOP.isdisjoint(response[:-1])
            assert ended == (response[-1] in STOP)
            assert ended or len(response) == 6
        assert 0 < samples.ended.sum() < len(samples.ended)
        assert len({len(r) for r in samples.responses}) == 6

    def test_without_stop_tokens_every_response_is_cut(self, policy):
        samples = sample(policy, RAGGED, set(), 4)
        assert [len(r) for r in samples.responses] == [4] * 5
        assert not samples.ended.any()

    def test_any_token_can_be_the_stop_token_and_no_other_is(self, make):
        """A model's own EOS means nothing here: `stop` does."""
        model = make("llama", eos_token_id=0)
        samples = sample(LanguageModel(model), [[3]], {4}, 30, completions=40)
        assert any(0 in r[:-1] for r in samples.responses)
        assert all(r[-1] == 4 for r, ended in zip(samples.responses, samples.ended, strict=True) if ended)
        assert samples.ended.any()

    @pytest.mark.parametrize("batch", [1, 2, 4, 256])
    def test_rows_that_end_early_change_nothing_for_the_others(self, policy, batch):
        """Greedy, so that every row has one right answer: the one it gets alone."""
        alone = [sample(policy, [p], STOP, 20, greedy=True) for p in RAGGED]
        assert len({len(s.responses[0]) for s in alone}) > 2
        together = sample(policy, RAGGED, STOP, 20, greedy=True, batch=batch)
        assert together.responses == [s.responses[0] for s in alone]
        for b, s in enumerate(alone):
            close(together.log_prob[b, : s.log_prob.shape[1]], s.log_prob[0])
        assert together.ended.tolist() == [bool(s.ended) for s in alone]

    def test_greedy_is_what_transformers_generates(self, policy):
        found = sample(policy, RAGGED, STOP, 20, greedy=True)
        for prompt, response in zip(RAGGED, found.responses, strict=True):
            token = torch.tensor([prompt])
            due = policy.model.generate(
                token,
                attention_mask=torch.ones_like(token),
                do_sample=False,
                max_new_tokens=20,
                eos_token_id=sorted(STOP),
                pad_token_id=0,
            )
            assert response == due[0, len(prompt) :].tolist()

    def test_a_models_generation_settings_do_not_bend_the_policy(self, policy):
        """Top-k, a minimum length or a penalty would make the recorded log-probs those of another policy."""
        torch.manual_seed(1)
        before = sample(policy, RAGGED, STOP, 9)
        settings = policy.model.generation_config
        settings.top_k, settings.min_new_tokens, settings.repetition_penalty, settings.temperature = 1, 9, 5.0, 0.1
        torch.manual_seed(1)
        assert sample(policy, RAGGED, STOP, 9).responses == before.responses
        allowed = {"policy", "prompts", "stop", "max_new_tokens", "completions", "greedy", "batch"}
        assert set(inspect.signature(sample).parameters) == allowed

    def test_leaves_no_gradient_and_no_mode_behind(self, policy):
        samples = sample(policy, RAGGED, STOP, 4)
        assert not samples.log_prob.requires_grad
        assert not policy.model.training
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize(
        ("prompts", "settings", "message"),
        [
            ([], {}, "no prompts"),
            ([[1], []], {}, "prompt 1 has no tokens"),
            ([[1]], {"max_new_tokens": 0}, "1 or more"),
            ([[1]], {"completions": 0}, "1 or more"),
            ([[1], [1] * 60], {}, "60 tokens and a response of 5 exceed the model's context of 64"),
        ],
    )
    def test_what_cannot_be_sampled_is_refused(self, policy, prompts, settings, message):
        with pytest.raises(InputError, match=message):
            sample(policy, prompts, **({"stop": STOP, "max_new_tokens": 5} | settings))

    def test_fills_the_context_to_the_last_place(self, policy):
        samples = sample(policy, [[1] * 60, [2]], set(), 4)
        close(samples.log_prob, policy.evaluate(samples.context, samples.action).log_prob)

    def test_works_inside_an_attention_window(self):
        from transformers import MistralConfig, MistralForCausalLM

        config = MistralConfig(
            vocab_size=23, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, sliding_window=12, initializer_range=0.4, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        policy = LanguageModel(MistralForCausalLM(config))
        samples = sample(policy, RAGGED, set(), 5, completions=2)
        close(samples.log_prob, policy.evaluate(samples.context, samples.action).log_prob)
        with pytest.raises(InputError, match="context of 12"):
            sample(policy, RAGGED, set(), 6)


class TestDistribution:
    """A vocabulary of 3 and at most 3 tokens: 15 responses, every one with its probability."""

    def outcomes(self, policy: LanguageModel) -> tuple[list[list[int]], torch.Tensor]:
        """All responses (0 stops) and their probabilities."""
        every = [[*head, 0] for n in range(3) for head in itertools.product([1, 2], repeat=n)]
        every += [list(cut) for cut in itertools.product([1, 2], repeat=3)]
        context, action, _ = rows([[1, 2]] * len(every), every)
        return every, policy.evaluate(context, action).log_prob.double().sum(-1).exp().detach()

    @pytest.fixture
    def policy(self, make: Any) -> LanguageModel:
        return LanguageModel(make("llama", vocabulary=3, seed=5), temperature=1.5)

    def test_probabilities_of_all_responses_add_up_to_1(self, policy):
        every, probability = self.outcomes(policy)
        assert len(every) == 15
        torch.testing.assert_close(probability.sum().item(), 1.0, rtol=0, atol=1e-5)

    def test_responses_come_as_often_as_they_should(self, policy):
        samples = sample(policy, [[1, 2]] * 4, {0}, 3, completions=1500)
        every, probability = self.outcomes(policy)
        count = [samples.responses.count(response) for response in every]
        assert sum(count) == 6000
        assert 6000 * probability.min() > 5
        assert chisquare(count, 6000 * (probability / probability.sum()).numpy()).pvalue > 1e-3
        # The test has teeth: the same counts under another temperature are all but impossible.
        policy.temperature = 1.7
        _, other = self.outcomes(policy)
        assert chisquare(count, 6000 * (other / other.sum()).numpy()).pvalue < 1e-6


class TestDecodingCopy:
    def test_leaves_the_training_weights_alone(self, policy):
        policy.evaluate(*rows([[1]], [[2]])[:2]).log_prob.sum().backward()
        before = {name: (p.data_ptr(), p.clone(), p.grad) for name, p in policy.named_parameters()}
        sample(decoding_copy(policy, torch.bfloat16), RAGGED, STOP, 5)
        for name, p in policy.named_parameters():
            place, value, grad = before[name]
            assert p.data_ptr() == place
            assert p.dtype == torch.float32
            assert torch.equal(p, value)
            assert p.grad is grad
            assert p.requires_grad

    def test_has_its_weights_in_the_new_type_and_its_buffers_as_they_were(self, policy):
        policy.temperature = 0.7
        policy.evaluate(*rows([[1]], [[2]])[:2]).log_prob.sum().backward()
        twin = decoding_copy(policy, torch.bfloat16)
        for p, q in zip(policy.parameters(), twin.parameters(), strict=True):
            assert torch.equal(p.bfloat16(), q)
            assert q.dtype == torch.bfloat16
            assert not q.requires_grad
            assert q.grad is None
        for p, q in zip(policy.buffers(), twin.buffers(), strict=True):
            assert torch.equal(p, q)
        assert twin.temperature == 0.7

    def test_knows_far_positions(self, make):
        """A rotary frequency rounded to bfloat16 would put a token at 1000 in quite another place."""
        policy = LanguageModel(make("llama", max_position_embeddings=2048))
        context, action, _ = rows([torch.randint(23, (1500,)).tolist()], [[1, 2, 3]])
        far = decoding_copy(policy, torch.bfloat16).evaluate(context, action).log_prob
        near = dataclasses.replace(context, token=context.token[:, 1400:], place=context.place - 1400)
        short = decoding_copy(policy, torch.bfloat16).evaluate(near, action).log_prob
        error = (far - policy.evaluate(context, action).log_prob).abs().max()
        assert error < 3 * (short - policy.evaluate(near, action).log_prob).abs().max() + 0.05

    def test_is_the_policy_itself_where_nothing_changes(self, policy):
        assert decoding_copy(policy, torch.float32) is policy

    def test_leaves_a_separate_value_model_out(self, model):
        policy = LanguageModel(model, reward_model_from(model))
        assert decoding_copy(policy, torch.bfloat16).value is None
        assert policy.value is not None

    def test_takes_a_mixed_precision_policy(self, policy):
        policy.dtype = "bfloat16"
        assert decoding_copy(policy, torch.bfloat16).dtype == "float32"


def test_fastest_dtype_is_measured_and_nothing_else_happens(model):
    before = copy.deepcopy(model.state_dict())
    assert fastest_decoding_dtype(model, rows=2) in ("float32", "bfloat16")
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_policy_of_nans_is_recorded_as_such(policy):
    """No crash and no finite log-prob: the world that asked can say what happened."""
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.fill_(float("nan"))
    samples: Samples = sample(policy, RAGGED, STOP, 3)
    assert samples.log_prob[samples.mask].isnan().all()
