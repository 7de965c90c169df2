"""Rewards: on the sampled ids, one number a response, and every failure said in words."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from operant.core.errors import InputError
from operant.text.context import last_places, rows
from operant.text.language_model import LanguageModel, RewardModel, reward_model_from
from operant.text.rewards import function_reward, load_function, model_reward, score
from operant.text.sampling import Samples, sample

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)

PROMPTS = [[3, 1, 4], [3, 1, 4], [9], [2, 6]]
RESPONSES = [[7, 8, 0], [9], [1, 2, 3, 4, 0], [8, 0]]


def samples(prompts: list[list[int]], responses: list[list[int]]) -> Samples:
    context, action, mask = rows(prompts, responses)
    nothing = torch.zeros(mask.shape)
    return Samples(prompts, responses, context, action, nothing, nothing, mask, torch.ones(len(prompts)).bool())


@pytest.fixture
def reward_model(model: Any) -> RewardModel:
    return reward_model_from(model)


class TestModelReward:
    def test_is_the_score_at_the_last_token_of_each_row_alone(self, reward_model):
        found = model_reward(reward_model)(samples(PROMPTS, RESPONSES))
        assert found.shape == (4,)
        for b, (p, r) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            close(found[b], reward_model.model(input_ids=torch.tensor([p + r])).logits[0, 0])
        reward_model.offset = 3.0
        close(model_reward(reward_model)(samples(PROMPTS, RESPONSES)), found - 3.0)

    @pytest.mark.parametrize("budget", [0, 1, 9, 10_000])
    def test_micro_batches_change_nothing(self, reward_model, budget):
        context, _, mask = rows(PROMPTS, RESPONSES)
        close(score(reward_model, context, budget)[mask], reward_model(context)[mask])

    def test_needs_no_gradient(self, reward_model):
        assert not model_reward(reward_model)(samples(PROMPTS, RESPONSES)).requires_grad

    def test_scores_the_sampled_ids_and_not_their_text_encoded_again(self, make, merging):
        policy = LanguageModel(make("llama", vocabulary=5), temperature=3.0)
        found = sample(policy, [[2]], {0}, 6, completions=30)
        again = [merging.encode(merging.decode(r)) for r in found.responses]
        assert again != found.responses
        reward_model = reward_model_from(policy.model)
        reward = model_reward(reward_model)(found)
        close(reward, reward_model(last_places(found.prompts, found.responses)).squeeze(-1))
        assert (reward - reward_model(last_places(found.prompts, again)).squeeze(-1)).abs().max() > 0.01


class TestFunctionReward:
    @pytest.fixture
    def tokenizer(self, make_words) -> Any:
        names = [f"w{i}" for i in range(8)]
        return make_words(["<eos>", "<pad>", *names], bos_token="<eos>", eos_token="<eos>", pad_token="<pad>")

    def test_gets_text_without_special_tokens_and_gives_one_number_each(self, tokenizer):
        seen = []

        def length(prompts, responses):
            seen.append((list(prompts), list(responses)))
            return [len(r.split()) for r in responses]

        found = function_reward(length, tokenizer)(samples([[0, 2, 3], [0, 4]], [[5, 6, 0], [0]]))
        assert seen == [(["w0 w1", "w2"], ["w3 w4", ""])]
        assert found.tolist() == [2.0, 0.0]
        assert found.dtype == torch.float32

    def test_any_sequence_of_numbers_will_do(self, tokenizer):
        batch = samples([[2], [3]], [[4], [5]])
        for scores in ((1, 2), torch.tensor([1.0, 2.0]), [True, 2]):
            assert function_reward(lambda p, r, scores=scores: scores, tokenizer)(batch).tolist() == [1.0, 2.0]

    @pytest.mark.parametrize(
        ("scores", "message"),
        [
            (lambda: 1 / 0, "judge raised ZeroDivisionError"),
            (lambda: [1.0], "judge returned 1 scores for 2 responses"),
            (lambda: [1.0, 2.0, 3.0], "judge returned 3 scores for 2 responses"),
            (lambda: [1.0, math.nan], "judge returned nan for 'w3' after 'w1'"),
            (lambda: [-math.inf, 1.0], "judge returned -inf for 'w2' after 'w0'"),
            (lambda: None, "judge raised TypeError"),
            (lambda: ["good", "bad"], "judge raised ValueError"),
        ],
    )
    def test_says_what_a_function_did_wrong(self, tokenizer, scores, message):
        def judge(prompts, responses):
            return scores()

        with pytest.raises(InputError, match=message):
            function_reward(judge, tokenizer)(samples([[2], [3]], [[4], [5]]))


class TestLoadFunction:
    def test_from_a_file(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text(
            "FACTOR = 2\n\ndef double(prompts, responses):\n    return [FACTOR * len(r) for r in responses]\n"
        )
        assert load_function(f"{file}:double")(["a"], ["bcd"]) == [6]

    def test_from_a_module(self):
        assert load_function("math:hypot") is math.hypot

    @pytest.mark.parametrize(
        ("content", "name", "message"),
        [
            (None, "here.py:f", "does not exist"),
            ("x = 1", "here.py:f", "has no function f"),
            ("x = 1", "here.py:x", "has no function x"),
            ("def f(:", "here.py:f", "SyntaxError"),
            ("import no_such_module_at_all", "here.py:f", "ModuleNotFoundError"),
            ("open('no such file')", "here.py:f", "FileNotFoundError"),
            ("1 / 0", "here.py:f", "ZeroDivisionError"),
            ("", "here.py", "named as file.py:function"),
            ("", ":f", "named as file.py:function"),
            ("", "here.py:", "named as file.py:function"),
            ("", "no_such_module_at_all:f", "cannot be imported"),
        ],
    )
    def test_says_what_is_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content, name, message):
        monkeypatch.chdir(tmp_path)
        if content is not None:
            Path("here.py").write_text(content)
        with pytest.raises(InputError, match=message):
            load_function(name)
