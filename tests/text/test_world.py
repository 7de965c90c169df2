"""Prompts as a world: what was sampled is what is learned from, and the score stands where it was earned."""

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from operant.core.errors import Diverged, InputError
from operant.core.record import Trajectory
from operant.core.returns import gae
from operant.text.language_model import LanguageModel, reward_model_from
from operant.text.rewards import function_reward, model_reward
from operant.text.sampling import Samples
from operant.text.tokenizer import stop_ids
from operant.text.world import PromptWorld, evaluate

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6], [5, 3, 5]]
STOP = {0, 7, 11}


def by_length(samples: Samples) -> Tensor:
    """A reward that every test can compute: 100 and the length."""
    return 100 + samples.mask.sum(-1).float()


@pytest.fixture
def policy(model: Any) -> LanguageModel:
    return LanguageModel(model, nn.Linear(model.config.hidden_size, 1))


def rollout(
    policy: LanguageModel, size: int = 4, reward: Any = by_length, **settings: Any
) -> tuple[Trajectory, Samples]:
    world = PromptWorld(PROMPTS, reward, STOP, 6, **({"completions": 5} | settings))
    trajectory = world.rollout(policy, size)
    assert world.last is not None
    return trajectory, world.last


class TestRollout:
    def test_the_score_lands_on_the_last_decision_and_nowhere_else(self, policy):
        t, samples = rollout(policy, missing_stop_score=None)
        for b, response in enumerate(samples.responses):
            due = torch.zeros(t.mask.shape[1])
            due[len(response) - 1] = 100 + len(response)
            assert torch.equal(t.reward[b], due)
            assert t.action[b, len(response) - 1] == response[-1]
        assert len({len(r) for r in samples.responses}) > 2

    def test_a_response_that_was_cut_gets_the_missing_stop_score_instead(self, policy):
        """In place of the reward, not added to it, and whatever the reward was."""
        for score in (-1.0, 0.0, 7.5):
            t, samples = rollout(policy, missing_stop_score=score)
            due = torch.where(samples.ended, by_length(samples), torch.tensor(score))
            assert torch.equal(t.reward.sum(-1), due)
            assert 0 < samples.ended.sum() < len(samples.ended)

    def test_every_stop_token_counts_for_cut_score_and_rate_alike(self, policy):
        world = PromptWorld(PROMPTS, by_length, {11}, 30, completions=10)
        t = world.rollout(policy, 4)
        assert world.last is not None
        ended = torch.tensor([r[-1] == 11 for r in world.last.responses])
        assert 0 < ended.sum() < 40
        assert all(11 not in r[:-1] for r in world.last.responses)
        assert torch.equal(t.reward.sum(-1) == -1.0, ~ended)
        assert world.measured()["rollout/eos_rate"] == pytest.approx(ended.float().mean().item())
        assert world.measured()["rollout/length"] == pytest.approx(t.mask.sum().item() / 40)

    def test_every_response_ends_in_a_terminal_state(self, policy):
        t, samples = rollout(policy)
        length = torch.tensor([len(r) for r in samples.responses]).unsqueeze(-1)
        step = torch.arange(t.mask.shape[1])
        assert torch.equal(t.mask, step < length)
        assert torch.equal(t.terminated, step == length - 1)
        assert not t.truncated.any()
        assert torch.equal(t.discount, (step < length - 1).float())
        inside = step < length - 1
        close(t.next_value[inside], torch.cat([t.value[:, 1:], t.value[:, :1]], 1)[inside])

    def test_padding_reaches_no_advantage(self, policy):
        t, _ = rollout(policy)

        def advantage(garbage: float) -> Tensor:
            reward, value, following = (
                torch.where(t.mask, x, garbage) for x in (t.reward, t.value, t.next_value)
            )  # fmt: skip
            return gae(reward, value, following, t.discount, t.done, 0.95)[t.mask]

        assert torch.equal(advantage(1e6), advantage(0.0))

    @pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
    @pytest.mark.parametrize(
        ("dtype", "decoding"), [("float32", None), ("float32", torch.bfloat16), ("bfloat16", None)],
        ids=["as it is", "a bfloat16 copy decodes", "mixed precision"],
    )  # fmt: skip
    @pytest.mark.parametrize("separate", [False, True], ids=["value head", "value model"])
    def test_the_first_ratio_is_1(self, policy, temperature, dtype, decoding, separate):
        """What is recorded is what `evaluate` says of the same tokens, whichever type sampled them."""
        if separate:
            policy.value = reward_model_from(policy.model)
        policy.temperature, policy.dtype = temperature, dtype
        t, _ = rollout(policy, decoding_dtype=decoding)
        with torch.no_grad():
            again = policy.evaluate(t.observation, t.action)
        tolerance = 1e-4 if dtype == "float32" else 5e-2
        close(t.log_prob, again.log_prob, rtol=0, atol=tolerance)
        close(t.value[t.mask], again.value[t.mask], rtol=0, atol=tolerance)
        assert (t.value[t.mask] != 0).any()

    def test_mixed_precision_is_evaluated_as_it_will_be_trained(self, policy):
        policy.dtype = "bfloat16"
        t, samples = rollout(policy)
        assert not torch.equal(t.log_prob, samples.log_prob)
        close(t.log_prob, evaluate(policy, t.observation, t.action).log_prob)

    def test_trained_ids_are_the_sampled_ids(self, make, merging):
        """Text would come back as other ids: "a" and "b" merge."""
        policy = LanguageModel(make("llama", vocabulary=5), temperature=3.0)
        reward = function_reward(lambda prompts, responses: [len(r) for r in responses], merging)
        world = PromptWorld([[2], [3, 2]], reward, stop_ids(merging), 6, completions=20)
        t = world.rollout(policy, 2)
        assert world.last is not None
        sampled = world.last.responses
        assert [merging.encode(merging.decode(r)) for r in sampled] != sampled
        assert [a[m].tolist() for a, m in zip(t.action, t.mask, strict=True)] == sampled
        for token, prompt, response in zip(t.observation.token, world.last.prompts, sampled, strict=True):
            assert token[: len(prompt) + len(response)].tolist() == prompt + response
        close(t.log_prob, policy.evaluate(t.observation, t.action).log_prob)

    @pytest.mark.parametrize("pad", ["<eos>", "w", None])
    def test_which_token_pads_changes_nothing(self, make, make_words, pad):
        """EOS, an ordinary word or none: the same rollout, rewards and gradients."""
        vocabulary = ["<eos>", "<pad>", "w", *(f"w{i}" for i in range(20))]

        def experience(pad_token: str | None) -> tuple[Trajectory, list[Tensor]]:
            tokenizer = make_words(vocabulary, eos_token="<eos>", **({"pad_token": pad_token} if pad_token else {}))
            policy = LanguageModel(make("llama", pad_token_id=tokenizer.pad_token_id))
            policy.value = reward_model_from(policy.model)
            world = PromptWorld([[0, 2], [0]], model_reward(policy.value), stop_ids(tokenizer), 12, completions=12)
            torch.manual_seed(0)
            t = world.rollout(policy, 2)
            e = policy.evaluate(t.observation, t.action)
            (e.log_prob + e.value).sum().backward()
            return t, [model.get_input_embeddings().weight.grad for model in (policy.model, policy.value.model)]

        (found, gradients), (due, due_gradients) = experience(pad), experience("<pad>")
        assert due.reward.sum(-1).unique().numel() > 4
        for gradient, due_gradient in zip(gradients, due_gradients, strict=True):
            assert torch.equal(gradient, due_gradient)
            assert gradient[0].any()
        for field in dataclasses.fields(Trajectory):
            x, y = getattr(found, field.name), getattr(due, field.name)
            assert torch.equal(x, y) if isinstance(x, Tensor) else torch.equal(x.token, y.token)

    def test_a_reward_is_a_model_or_any_function(self, policy, make_words):
        tokenizer = make_words([f"w{i}" for i in range(23)], eos_token="w0")
        function = function_reward(lambda prompts, responses: [float(len(r.split())) for r in responses], tokenizer)
        scorer = reward_model_from(policy.model)
        for reward in (function, model_reward(scorer)):
            t, samples = rollout(policy, reward=reward, missing_stop_score=None)
            close(t.reward.sum(-1), reward(samples))

    def test_measures_are_only_shown(self, policy):
        world = PromptWorld(
            PROMPTS, by_length, STOP, 6, measures={"objective/length": lambda s: s.mask.sum(-1).float()}
        )
        assert world.measured() == {}
        t = world.rollout(policy, 4)
        assert world.measured()["objective/length"] == t.mask.sum().item() / 4
        assert set(t.reward.sum(-1).tolist()) <= {-1.0, *(100.0 + n for n in range(7))}


class TestOrder:
    def test_every_prompt_comes_once_in_an_epoch(self, policy):
        world = PromptWorld(PROMPTS, by_length, STOP, 2)
        seen = []
        for _ in range(4):
            world.rollout(policy, 2)
            assert world.last is not None
            seen += world.last.prompts
        assert sorted(seen[:4]) == sorted(seen[4:]) == sorted(PROMPTS)

    def test_a_resumed_world_goes_on_where_it_stopped(self, policy):
        whole, resumed = (PromptWorld(PROMPTS, by_length, STOP, 2, seed=3) for _ in range(2))
        whole.rollout(policy, 3)
        resumed.load_state_dict(whole.state_dict())
        for world in (whole, resumed):
            torch.manual_seed(5)
            world.rollout(policy, 3)
        assert whole.last is not None
        assert resumed.last is not None
        assert whole.last.prompts == resumed.last.prompts
        assert whole.last.responses == resumed.last.responses
        assert whole.state_dict() == resumed.state_dict()


class TestTrouble:
    def test_a_reward_that_is_no_number_stops_with_the_step(self, policy):
        world = PromptWorld(PROMPTS, lambda s: torch.where(s.ended, 1.0, torch.nan), {0}, 2, completions=3)
        with pytest.raises(Diverged, match="step 0: the reward is nan"):
            world.rollout(policy, 4)

    def test_a_policy_of_nans_stops_before_its_samples_are_learned_from(self, policy):
        world = PromptWorld(PROMPTS, by_length, STOP, 3)
        world.rollout(policy, 2)
        with torch.no_grad():
            policy.model.get_input_embeddings().weight.fill_(torch.nan)
        with pytest.raises(Diverged, match="step 1: the log-probability of a sampled token is nan"):
            world.rollout(policy, 2)

    @pytest.mark.parametrize(
        ("prompts", "settings", "message"),
        [
            ([], {}, "no prompts"),
            ([[1], []], {}, "prompt 1 has no tokens"),
            ([[1]], {"max_new_tokens": 0}, "1 or more"),
            ([[1]], {"completions": 0}, "1 or more"),
        ],
    )
    def test_what_cannot_be_answered_is_refused_before_work_begins(self, prompts, settings, message):
        with pytest.raises(InputError, match=message):
            PromptWorld(prompts, by_length, STOP, **({"max_new_tokens": 3} | settings))

    def test_a_rollout_of_nothing_is_refused(self, policy):
        with pytest.raises(InputError, match="no prompts"):
            PromptWorld(PROMPTS, by_length, STOP, 3).rollout(policy, 0)


@pytest.mark.parametrize("budget", [0, 1, 30, 10_000])
def test_evaluation_in_micro_batches_is_evaluation_at_once(policy, budget):
    t, _ = rollout(policy)
    found = evaluate(policy, t.observation, t.action, budget)
    assert not found.log_prob.requires_grad
    close(found, policy.evaluate(t.observation, t.action))
