"""A language model as a policy: against `transformers` itself, one row at a time."""

import copy
import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.core.record import Evaluation
from operant.text import language_model
from operant.text.context import Context, last_places, rows
from operant.text.language_model import (
    DecodeState,
    LanguageModel,
    RewardModel,
    as_reference,
    autocast,
    cast,
    context_limit,
    decode,
    frozen,
    has_plain_head,
    reward_model_from,
    small_model,
    value_head,
)
from operant.text.rewards import score

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
same = partial(torch.testing.assert_close, rtol=0, atol=1e-6)
"""Equal but for the last bit, which some CPUs' products round by where the weights lie in memory."""

PROMPTS = [[3, 1, 4, 1, 5], [3, 1, 4, 1, 5], [9], [3, 1, 4, 1, 5], [2, 6], [2, 6]]
RESPONSES = [[7, 8, 0], [9], [1, 2, 3, 4], [], [8, 0], [8, 8, 8, 0]]


@pytest.fixture(autouse=True, params=["rows side by side", "rows strung together"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which rows are laid out on a CPU."""
    monkeypatch.setattr(language_model, "LONG", 0 if "together" in request.param else 1 << 30)


def with_value(model: Any, **settings: Any) -> LanguageModel:
    """The policy with a value on its trunk that is not 0."""
    return LanguageModel(model, nn.Linear(model.config.hidden_size, 1), **settings)


def same_weights(loaded: nn.Module, saved: nn.Module) -> None:
    torch.testing.assert_close(loaded.state_dict(), saved.state_dict(), rtol=0, atol=0)


def batch(share: bool = True) -> tuple[Context, Tensor]:
    """(context, action): equal prompts share their tokens, or no rows do."""
    context, action, _ = rows(PROMPTS, RESPONSES)
    number = torch.tensor([0, 0, 1, 0, 2, 2]) if share else torch.arange(6)
    return dataclasses.replace(context, prompt=number), action


def by_hand(policy: LanguageModel, prompt: list[int], response: list[int]) -> list[Tensor]:
    """(log-prob, entropy, value) of one row from the logits of `transformers`, without packing or padding."""
    output = policy.model(input_ids=torch.tensor([[*prompt, *response]]), output_hidden_states=True)
    before = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
    log_p = (output.logits[0, before] / policy.temperature).log_softmax(-1)
    chosen = log_p.gather(-1, torch.tensor(response, dtype=torch.long).unsqueeze(-1)).squeeze(-1)
    value = (
        policy.value(output.hidden_states[-1][0, before]).squeeze(-1) if policy.value else torch.zeros(len(response))
    )
    return [chosen, -(log_p.exp() * log_p).sum(-1), value]


def gradients(policy: LanguageModel, context: Context, action: Tensor) -> list[Tensor]:
    """Of a sum in which every output has its own weight."""
    e = policy.evaluate(context, action)
    weight = torch.arange(1.0, action.numel() + 1).view(action.shape) / action.numel()
    total = (weight * (e.log_prob + 0.3 * e.entropy + e.value**2)).sum()
    return list(torch.autograd.grad(total, [p for p in policy.parameters() if p.requires_grad]))


class TestEvaluate:
    @pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
    @pytest.mark.parametrize("share", [True, False])
    def test_is_what_transformers_says_of_each_row_alone(self, model, share, temperature):
        policy = with_value(model, temperature=temperature)
        context, action = batch(share)
        found = policy.evaluate(context, action)
        for b, (p, r) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            for table, due in zip(found, by_hand(policy, p, r), strict=True):
                close(table[b, : len(r)], due)
                assert (table[b, len(r) :] == 0).all()

    def test_a_shared_prompt_changes_no_gradient(self, model):
        policy = with_value(model)
        close(gradients(policy, *batch(True)), gradients(policy, *batch(False)))

    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_attention_that_adds_its_mask_agrees_with_attention_that_selects_by_it(self, make, kind):
        """A True that is added to a score would be a 1, and branches would read each other."""
        added, selected = (with_value(make(kind, attn_implementation=name)) for name in ("eager", "sdpa"))
        added.load_state_dict(selected.state_dict())
        close(added.evaluate(*batch()), selected.evaluate(*batch()))
        close(gradients(added, *batch()), gradients(selected, *batch()))

    @pytest.mark.parametrize("share", [True, False])
    def test_padding_of_any_kind_and_width_changes_nothing(self, model, share):
        policy = with_value(model)
        context, action = batch(share)
        clean = policy.evaluate(context, action)
        length = context.shared + context.mask.sum(-1)
        for garbage in (0, 22, -100):
            token = torch.cat([context.token, context.token], 1)
            token = token.where(torch.arange(token.shape[1]) < length.unsqueeze(-1), garbage)
            place = torch.cat([context.place, torch.full_like(context.place, -1)], 1)
            wide = dataclasses.replace(context, token=token, place=place)
            dirty = policy.evaluate(wide, torch.cat([action, torch.full_like(action, 22)], 1))
            for x, y in zip(dirty, clean, strict=True):
                close(x[:, : y.shape[1]], y)
                assert (x[:, y.shape[1] :] == 0).all()

    def test_the_order_of_rows_is_free(self, model):
        policy = with_value(model)
        context, action = batch()
        order = torch.tensor([4, 2, 0, 5, 1, 3])
        close(
            policy.evaluate(context[order], action[order]), Evaluation(*(x[order] for x in policy.evaluate(*batch())))
        )

    def test_entropy_is_never_negative(self, model):
        entropy = LanguageModel(model, temperature=0.01).evaluate(*batch()).entropy
        assert (entropy > -1e-5).all()
        assert (entropy[batch()[0].mask] < 0.1).any()

    def test_dropout_is_off(self, make):
        policy = LanguageModel(make("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train())
        assert torch.equal(policy.evaluate(*batch()).log_prob, policy.evaluate(*batch()).log_prob)

    def test_a_separate_value_model_reads_the_same_places(self, model):
        value = reward_model_from(model)
        found = LanguageModel(model, value).evaluate(*batch()).value
        context, _ = batch()
        close(found, torch.where(context.mask, value(context), 0.0))

    def test_tokens_in_the_prompt_can_be_decisions(self, model):
        """One decision in a shared prompt is the same decision in all of its rows."""
        policy = with_value(model)
        context, _ = batch()
        first = dataclasses.replace(context, place=torch.zeros(6, 1, dtype=torch.long))
        found = policy.evaluate(first, context.token[:, 1:2])
        close(found.log_prob[0], found.log_prob[1])
        close(found.log_prob[0, 0], by_hand(policy, [3], [1])[0][0])


class TestMixedPrecision:
    def test_is_near_and_leaves_the_weights_in_float32(self, model):
        policy = with_value(model)
        exact = policy.evaluate(*batch())
        policy.dtype = "bfloat16"
        low = policy.evaluate(*batch())
        assert not torch.equal(low.log_prob, exact.log_prob)
        torch.testing.assert_close(low, exact, rtol=0.1, atol=0.3)
        assert {x.dtype for x in low} == {p.dtype for p in policy.parameters()} == {torch.float32}

    def test_a_value_model_keeps_its_own_dtype(self, model):
        value = reward_model_from(model)
        exact = LanguageModel(model, value).evaluate(*batch()).value
        close(LanguageModel(model, value, dtype="bfloat16").evaluate(*batch()).value, exact)
        value.dtype = "bfloat16"
        assert not torch.equal(LanguageModel(model, value).evaluate(*batch()).value, exact)

    def test_autocast_does_nothing_for_float32(self):
        with autocast("float32", torch.device("cpu")):
            assert not torch.is_autocast_enabled("cpu")
        with autocast("bfloat16", torch.device("cpu")):
            assert torch.get_autocast_dtype("cpu") is torch.bfloat16

    def test_cast_takes_weights_and_leaves_rotary_frequencies(self, make):
        """In bfloat16 the frequencies of far positions would be wrong by radians."""
        model = make("llama")
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        assert before
        cast(model, torch.bfloat16)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, before[name])
            assert buffer.dtype == torch.float32

    @pytest.mark.parametrize("value", [value_head, reward_model_from])
    def test_a_model_in_bfloat16_can_have_a_value(self, make, value):
        model = cast(make("llama"), torch.bfloat16)
        found = LanguageModel(model, value(model)).evaluate(*batch()).value
        assert found.dtype == torch.float32
        assert torch.isfinite(found).all()


class TestAct:
    @pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
    def test_through_the_cache_is_what_evaluate_says(self, model, temperature):
        policy = with_value(model, temperature=temperature)
        token, state, actions, log_probs, values = torch.tensor([[3, 1, 4], [2, 7, 1]]), None, [], [], []
        prompts = token.tolist()
        for _ in range(5):
            action, log_prob, value, state = policy.act(token, state)
            token = action.unsqueeze(-1)
            actions, log_probs, values = [*actions, action], [*log_probs, log_prob], [*values, value]
        context, action, _ = rows(prompts, torch.stack(actions, 1).tolist())
        found = policy.evaluate(context, action)
        close(torch.stack(log_probs, 1), found.log_prob)
        close(torch.stack(values, 1), found.value)

    def test_greedy_takes_the_most_likely_token(self, model):
        token = torch.tensor([[3, 1, 4], [2, 7, 1]])
        action, log_prob, _, _ = LanguageModel(model).act(token, greedy=True)
        due = model(input_ids=token).logits[:, -1].log_softmax(-1).max(-1)
        assert torch.equal(action, due.indices)
        close(log_prob, due.values)

    def test_rows_of_the_cache_can_be_repeated_and_left_out(self, model):
        first, second = torch.tensor([[3, 1], [2, 7], [5, 5]]), torch.tensor([[4], [8], [6]])
        _, state = decode(model, first, None)
        state.repeat(2)
        keep = torch.tensor([5, 0, 2])
        state.keep(keep)
        found, _ = decode(model, second[keep // 2], state)
        due, _ = decode(model, torch.cat([first, second], 1), None)
        close(found, due[keep // 2, -1:])

    def test_columns_that_may_not_be_read_are_not_there(self, model):
        """A cache padded on the right: what follows a row's end is no part of it."""
        _, state = decode(model, torch.tensor([[3, 1, 4], [2, 9, 9]]), None)
        state = DecodeState(state.cache, torch.tensor([[True] * 3, [True, False, False]]), torch.tensor([3, 1]))
        found, state = decode(model, torch.tensor([[5, 6], [7, 8]]), state)
        close(found[0], decode(model, torch.tensor([[3, 1, 4, 5, 6]]), None)[0][0, 3:])
        close(found[1], decode(model, torch.tensor([[2, 7, 8]]), None)[0][0, 1:])
        assert state.position.tolist() == [5, 3]


class TestRewardModel:
    def test_starts_on_the_language_models_trunk(self, model):
        reward = reward_model_from(model)
        for (name, p), q in zip(model.base_model.named_parameters(), reward.model.base_model.parameters(), strict=True):
            assert torch.equal(p, q), name
            assert p.data_ptr() != q.data_ptr()

    def test_head_has_deviation_one_over_root_d_plus_1(self):
        reward = reward_model_from(small_model(8, width=512, layers=1, heads=1, context=8, feed_forward=8))
        assert abs(reward.head.weight.std().item() * 513**0.5 - 1) < 0.15
        assert reward.head.bias is None or (reward.head.bias == 0).all()

    def test_scores_are_those_of_transformers_less_the_offset(self, model):
        reward = reward_model_from(model)
        reward.offset = 1.75
        reward.model.config.pad_token_id = 22
        found = reward(last_places(PROMPTS, RESPONSES)).squeeze(-1)
        whole = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        width = max(map(len, whole))
        pooled = reward.model(input_ids=torch.tensor([row + [22] * (width - len(row)) for row in whole])).logits
        close(found, pooled.squeeze(-1) - 1.75)

    @pytest.mark.parametrize("pad", [None, 0, 22])
    def test_no_token_means_padding(self, model, pad):
        """EOS (0) may double as PAD: lengths alone say where a row ends."""
        reward = reward_model_from(model)
        due = reward(last_places(PROMPTS, RESPONSES))
        reward.model.config.pad_token_id = pad
        assert torch.equal(reward(last_places(PROMPTS, RESPONSES)), due)
        alone = [reward(last_places([p], [r])).item() for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        close(due.squeeze(-1), torch.tensor(alone))

    def test_a_saved_one_loads_as_a_sequence_classifier(self, model, tmp_path):
        from transformers import AutoModelForSequenceClassification

        reward = reward_model_from(model)
        reward.offset = -0.5
        reward.model.save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert loaded.config.num_labels == 1
        token = torch.tensor([[3, 1, 4]])
        same_weights(loaded, reward.model)
        same(loaded(input_ids=token).logits, reward.model(input_ids=token).logits)
        context = last_places(PROMPTS, RESPONSES)
        same(RewardModel(loaded)(context), reward(context))

    def test_a_value_function_started_from_it_predicts_its_score(self, model):
        reward = reward_model_from(model)
        reward.offset = 2.0
        ends = last_places(PROMPTS, RESPONSES)
        policy = LanguageModel(model, RewardModel(copy.deepcopy(reward.model)))
        value = policy.evaluate(ends, torch.zeros(6, 1, dtype=torch.long)).value
        close(value, score(reward, ends))

    def test_other_classifiers_are_refused(self):
        from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

        shape = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "pad_token_id": 0}
        shape |= {"num_hidden_layers": 1, "bos_token_id": None, "eos_token_id": None}
        with pytest.raises(InputError, match="one label"):
            RewardModel(LlamaForSequenceClassification(LlamaConfig(**shape, num_labels=2)))
        both_ways = BertForSequenceClassification(BertConfig(**shape, num_labels=1, initializer_range=0.4))
        with pytest.raises(InputError, match="earlier tokens alone"):
            RewardModel(both_ways)


def test_a_saved_model_loads_as_a_causal_model(model, tmp_path):
    from transformers import AutoModelForCausalLM

    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    token = torch.tensor([[3, 1, 4]])
    same_weights(loaded, model)
    same(loaded(input_ids=token).logits, model(input_ids=token).logits)
    same(LanguageModel(loaded).evaluate(*batch()).log_prob, LanguageModel(model).evaluate(*batch()).log_prob)


def test_a_value_head_starts_at_0(model):
    assert (LanguageModel(model, value_head(model)).evaluate(*batch()).value == 0).all()


def test_a_small_model_ties_its_embeddings():
    model = small_model(vocabulary=11, width=8, layers=1, heads=2, context=16)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert abs(model.get_input_embeddings().weight.std().item() / (0.02 * (768 / 8) ** 0.5) - 1) < 0.3
    assert model(input_ids=torch.tensor([[0, 10]])).logits.shape == (1, 2, 11)
    assert context_limit(model) == 16


def test_frozen_modules_stay_as_they_are(model):
    assert not any(p.requires_grad for p in frozen(model.train()).parameters())
    assert not model.training


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
class TestAdapters:
    def adapted(self, model: Any, **settings: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        names = {"target_modules": "all-linear", "fan_in_fan_out": hasattr(model, "transformer")} | settings
        return get_peft_model(model, LoraConfig(r=2, **names))

    def test_the_reference_is_the_policy_with_its_adapter_off(self, model):
        plain = LanguageModel(copy.deepcopy(model)).evaluate(*batch()).log_prob
        policy = LanguageModel(self.adapted(model))
        before = {name: p.requires_grad for name, p in policy.named_parameters()}
        assert torch.equal(policy.evaluate(*batch()).log_prob, plain)
        with torch.no_grad():
            for name, p in policy.named_parameters():
                if "lora_B" in name:
                    p.normal_()
        with as_reference(policy, None) as reference:
            close(reference.evaluate(*batch()).log_prob, plain)
        assert (policy.evaluate(*batch()).log_prob - plain).abs().max() > 0.01
        assert {name: p.requires_grad for name, p in policy.named_parameters()} == before

    def test_only_the_adapter_learns(self, model):
        policy = LanguageModel(self.adapted(model))
        policy.evaluate(*batch()).log_prob.sum().backward()
        learning = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
        assert learning == {name for name, _ in policy.named_parameters() if "lora_B" in name}

    def test_a_reward_model_starts_on_the_merged_trunk(self, model):
        adapted = self.adapted(model)
        with torch.no_grad():
            for p in (p for name, p in adapted.named_parameters() if "lora_B" in name):
                p.normal_()
        token = torch.tensor([[3, 1, 4]])
        due = adapted.get_base_model().base_model(input_ids=token).last_hidden_state
        close(reward_model_from(adapted).model.base_model(input_ids=token).last_hidden_state, due)
        assert torch.equal(adapted.get_base_model().base_model(input_ids=token).last_hidden_state, due)

    @pytest.mark.parametrize("settings", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
    def test_an_adapter_on_the_head_is_refused(self, make, settings):
        """Log-probs come from the head's own weights, so it would be left out without a word."""
        with pytest.raises(InputError, match="leave the head out"):
            LanguageModel(self.adapted(make("llama", tie_word_embeddings=False), **settings))

    def test_a_policy_without_one_needs_a_reference(self, model):
        policy, other = LanguageModel(model), LanguageModel(copy.deepcopy(model))
        with as_reference(policy, other) as reference:
            assert reference is other
        with pytest.raises(InputError, match="reference model"), as_reference(policy, None):
            pass


SHAPE = {
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


class TestWhatIsRefused:
    def test_logits_that_are_scaled_or_capped(self):
        """Also with fresh weights, whose logits are too small for a cap to show."""
        from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

        scaled = GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0))
        capped = Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=30.0))
        for model in (scaled, capped):
            with pytest.raises(InputError, match="plain LM head"):
                LanguageModel(model)
        capped.config.final_logit_softcapping = None
        assert has_plain_head(capped.eval())

    def test_the_question_leaves_no_trace(self, model):
        token = torch.tensor([[3, 1, 4]])
        before = model(input_ids=token).logits
        assert has_plain_head(model)
        assert torch.equal(model(input_ids=token).logits, before)

    def test_models_that_cannot_tell_branches_apart(self):
        from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

        ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        recurrent = MambaForCausalLM(MambaConfig(vocab_size=12, hidden_size=8, num_hidden_layers=1, **ends))
        alibi = BloomForCausalLM(BloomConfig(vocab_size=12, hidden_size=8, n_layer=1, n_head=1, **ends))
        for model in (recurrent, alibi):
            with pytest.raises(InputError, match="cannot read several responses"):
                LanguageModel(model)

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
    def test_a_temperature_that_is_none(self, model, temperature):
        with pytest.raises(InputError, match=f"temperature is {temperature}"):
            LanguageModel(model, temperature=temperature)


def test_an_attention_window_limits_the_context(model):
    from transformers import MistralConfig

    assert context_limit(model) == 64
    model.config = MistralConfig(max_position_embeddings=32, sliding_window=16)
    assert context_limit(model) == 16
    model.config.sliding_window = None
    assert context_limit(model) == 32
