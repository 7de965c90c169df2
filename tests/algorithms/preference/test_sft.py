"""SFT is maximum likelihood of the response and its end, however the batch is cut."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.preference import sft
from operant.core.errors import InputError
from operant.text.language_model import LanguageModel, small_model
from operant.text.sampling import sample
from operant.text.tokenizer import Example

EOS = 0
EXAMPLES = [
    Example([1, 2], [3, EOS]),
    Example([4], [5, 6, 7, 8, 9, EOS]),
    Example([1, 2, 3, 4, 5], [EOS]),
    Example([6, 6], [10, 10, 2, EOS]),
    Example([9, 8, 7], [1, 4, EOS, 2, 3, EOS], [True, False, True, False, True, True]),
]
CONFIG = sft.Config(epochs=1, batch=5, max_gradient_norm=math.inf)


def language_model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(small_model(11, 16, 1, 2, 32))


def step(config: sft.Config, examples: list[Example] = EXAMPLES) -> tuple[dict[str, float], list[Tensor]]:
    """Metrics and gradient of the first update on `examples`."""
    policy = language_model()
    metrics = sft.update(sft.init(policy, examples, config), examples, config)
    return metrics, [p.grad for p in policy.parameters()]


def nll(model: Any, example: Example) -> Tensor:
    """-log π of the decided tokens, from the logits of `transformers` for this row alone."""
    row = torch.tensor([example.prompt + example.response])
    log_p = model(input_ids=row).logits[0].log_softmax(-1)
    start, decided = len(example.prompt), example.decided or [True] * len(example.response)
    return torch.stack([-log_p[start + i - 1, a] for i, a in enumerate(example.response) if decided[i]])


def test_the_loss_is_the_mean_over_the_tokens_of_responses_and_their_ends():
    policy = language_model()
    expected = torch.cat([nll(policy.model, e) for e in EXAMPLES])
    assert len(expected) == 2 + 6 + 1 + 4 + 4
    metrics, gradient = step(CONFIG)
    assert metrics["loss/language_model"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert sft.loss_of(policy, EXAMPLES, CONFIG) == pytest.approx(expected.mean().item(), rel=1e-5)
    torch.testing.assert_close(gradient, list(torch.autograd.grad(expected.mean(), list(policy.parameters()))))


@pytest.mark.parametrize("budget", [0, 1, 9, 20])
def test_micro_batches_of_unequal_length_add_up_to_the_batch(budget):
    whole, expected = step(CONFIG)
    pieces, gradient = step(dataclasses.replace(CONFIG, micro_batch=budget))
    assert pieces == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


def test_no_example_is_dropped_when_the_batch_does_not_divide_them(monkeypatch):
    config = dataclasses.replace(CONFIG, epochs=3, batch=2)
    seen: list[list[Example]] = []
    update = sft.update

    def watched(state: sft.State, examples: list[Example], config: sft.Config) -> Any:
        seen.append(examples)
        return update(state, examples, config)

    monkeypatch.setattr(sft, "update", watched)
    state = sft.init(language_model(), EXAMPLES, config)
    assert len(list(sft.train(state, config))) == sft.steps(state, config) == 9
    assert [len(x) for x in seen] == [2, 2, 1] * 3
    for epoch in range(3):
        assert sorted(e for batch in seen[3 * epoch : 3 * epoch + 3] for e in batch) == sorted(EXAMPLES)


def test_a_few_examples_are_learned_by_heart_with_their_ends():
    examples = [e for e in EXAMPLES if e.decided is None]
    config = sft.Config(epochs=150, batch=4, learning_rate=1e-2)
    state = sft.init(language_model(), examples, config)
    *_, last = sft.train(state, config)
    assert last["loss/language_model"] < 0.05
    assert last["learning_rate"] < 0.2 * config.learning_rate
    found = sample(state.policy, [e.prompt for e in examples], {EOS}, 8, greedy=True)
    assert found.responses == [e.response for e in examples]


def test_rows_that_begin_alike_are_not_packed_into_one_long_row(monkeypatch):
    """Documents all begin with the same token; attention over one row of all of them costs the square of its length."""
    policy, shapes = language_model(), []
    policy.model.get_input_embeddings().register_forward_hook(lambda module, given, out: shapes.append(out.shape[:2]))
    examples = [Example([EOS], [1, 2, 3, EOS])] * 6
    sft.update(sft.init(policy, examples, CONFIG), examples, CONFIG)
    assert shapes == [(6, 4)]


def test_a_batch_in_which_nothing_is_decided_teaches_nothing():
    metrics, gradient = step(CONFIG, [Example([1], [2, 3], [False, False])])
    assert metrics["loss/language_model"] == 0
    assert not any(g.any() for g in gradient if g is not None)


def test_no_demonstrations_are_refused():
    with pytest.raises(InputError, match="no demonstrations"):
        sft.init(language_model(), [], CONFIG)
