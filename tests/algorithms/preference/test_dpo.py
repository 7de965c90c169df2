"""DPO: its loss and gradient in closed form, K responses as their pairs, and what it refuses."""

import copy
import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.preference import dpo
from operant.core.errors import InputError
from operant.core.losses import ipo_loss
from operant.text.context import rows
from operant.text.language_model import LanguageModel, frozen, small_model
from operant.text.tokenizer import Comparison, Judgement

COMPARISONS = [
    Comparison([1, 2], [[3, 0], [4, 5, 6, 0]], [1, 2]),
    Comparison([7], [[5, 5, 0], [2, 0], [9, 8, 7, 6, 0]], [2, 1, 3]),
    Comparison([3, 3, 4, 1], [[0], [1, 1, 1, 1, 1, 1, 0], [2, 3, 0], [8, 0]], [2, 1, 2, 3]),
    Comparison([2], [[4, 4, 0], [6, 0]], [2, 1]),
    Comparison([9, 1, 5], [[1, 2, 3, 0], [3, 2, 1, 0]], [1, 2]),
]
CONFIG = dpo.Config(epochs=1, batch=5, max_gradient_norm=math.inf, schedule="constant", warmup=0.0)


def policies(seed: int = 0) -> tuple[LanguageModel, LanguageModel]:
    """(policy, reference), alike at first."""
    torch.manual_seed(seed)
    model = small_model(11, 16, 1, 2, 32)
    return LanguageModel(model), frozen(LanguageModel(copy.deepcopy(model)))


def apart(seed: int = 0) -> tuple[LanguageModel, LanguageModel]:
    """(policy, reference), the policy already trained somewhere else."""
    policy, reference = policies(seed)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return policy, reference


def gradient(policy: LanguageModel, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(policy.parameters()), retain_graph=True))


def response_log_prob(policy: LanguageModel, prompt: list[int], response: list[int]) -> Tensor:
    """log π of one response alone in its batch."""
    context, action, _ = rows([prompt], [response])
    return policy.evaluate(context, action).log_prob.sum()


def step(config: dpo.Config, comparisons: list[Comparison] = COMPARISONS) -> tuple[dict[str, float], list[Tensor]]:
    """Metrics and gradient of one update on all comparisons, from a policy that has left the reference."""
    policy, reference = apart()
    state = dpo.init(policy, reference, comparisons, config)
    metrics = dpo.update(state, range(len(state.comparisons)), config)
    return metrics, [p.grad for p in policy.parameters()]


def test_responses_are_scored_as_if_alone_and_summed_over_tokens():
    policy, _ = policies()
    alone = [response_log_prob(policy, c.prompt, r) for c in COMPARISONS for r in c.responses]
    torch.testing.assert_close(dpo.log_probs(policy, COMPARISONS), torch.stack(alone))


def test_the_gradient_is_the_closed_form():
    """∇L = -β σ(r̂_l - r̂_w) [∇ log π(y_w) - ∇ log π(y_l)], r̂ = β log π/π_ref (Rafailov et al. 2023, section 4)."""
    beta = 0.3
    c = COMPARISONS[0]
    policy, reference = apart()
    config = dataclasses.replace(CONFIG, reference_beta=beta)
    _, found = step(config, [c])
    log_w, log_l = (response_log_prob(policy, c.prompt, r) for r in c.responses)
    ref_w, ref_l = (response_log_prob(reference, c.prompt, r) for r in c.responses)
    weight = torch.sigmoid(beta * (log_l - ref_l) - beta * (log_w - ref_w)).detach()
    assert abs(weight - 0.5) > 0.01
    both = zip(gradient(policy, log_w), gradient(policy, log_l), strict=True)
    torch.testing.assert_close(found, [-beta * weight * (up - down) for up, down in both])


def test_at_the_start_the_loss_is_ln_2_and_all_margins_are_0():
    policy, reference = policies()
    metrics = next(dpo.train(dpo.init(policy, reference, COMPARISONS, CONFIG), CONFIG))
    assert metrics["loss/dpo"] == pytest.approx(math.log(2), abs=1e-5)
    for name in ("rewards/margins", "rewards/chosen", "rewards/rejected"):
        assert metrics[name] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_label_smoothing_keeps_ln_2_at_the_start(smoothing):
    policy, reference = policies()
    config = dataclasses.replace(CONFIG, label_smoothing=smoothing)
    metrics = next(dpo.train(dpo.init(policy, reference, COMPARISONS, config), config))
    assert metrics["loss/dpo"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_policy_that_does_not_start_from_its_reference_is_noticed():
    policy, _ = policies()
    _, other = policies(seed=1)
    with pytest.warns(UserWarning, match="does not start from its reference"):
        next(dpo.train(dpo.init(policy, other, COMPARISONS, CONFIG), CONFIG))


def test_learning_moves_chosen_up_against_rejected():
    policy, reference = policies()
    config = dataclasses.replace(CONFIG, epochs=30, learning_rate=1e-2)
    *_, last = dpo.train(dpo.init(policy, reference, COMPARISONS, config), config)
    assert last["rewards/accuracies"] == 1
    assert last["rewards/chosen"] - last["rewards/rejected"] == pytest.approx(last["rewards/margins"], abs=1e-4)
    assert last["loss/dpo"] < 0.3


def test_a_run_of_one_step_learns_with_the_default_schedule():
    policy, reference = policies()
    config = dpo.Config(batch=5)
    before = [p.clone() for p in policy.parameters()]
    (metrics,) = dpo.train(dpo.init(policy, reference, COMPARISONS, config), config)
    assert metrics["learning_rate"] > 0.1 * config.learning_rate
    assert not any(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def split(comparison: Comparison) -> list[Comparison]:
    """Each untied pair as a comparison of its own."""
    pairs = itertools.permutations(range(len(comparison.ranks)), 2)
    return [
        Comparison(comparison.prompt, [comparison.responses[a], comparison.responses[b]], [1, 2])
        for a, b in pairs
        if comparison.ranks[a] < comparison.ranks[b]
    ]


@pytest.mark.parametrize("comparison", COMPARISONS[1:3])
def test_k_responses_are_the_mean_of_their_pairs(comparison):
    pieces = split(comparison)
    assert len(pieces) in (3, 5)
    whole, pairs = step(CONFIG, [comparison]), step(CONFIG, pieces)
    assert whole[0]["loss/dpo"] == pytest.approx(pairs[0]["loss/dpo"], abs=1e-6)
    torch.testing.assert_close(whole[1], pairs[1])


def test_every_prompt_weighs_the_same_however_many_pairs_it_has():
    whole = step(CONFIG)[0]["loss/dpo"]
    alone = [step(CONFIG, [c])[0]["loss/dpo"] for c in COMPARISONS]
    assert whole == pytest.approx(sum(alone) / len(alone), abs=1e-6)


@pytest.mark.parametrize("budget", [1, 20, 45])
def test_micro_batches_add_up_to_the_batch(budget):
    whole = step(CONFIG)
    pieces = step(dataclasses.replace(CONFIG, micro_batch=budget))
    assert pieces[0] == pytest.approx(whole[0], abs=1e-5)
    torch.testing.assert_close(pieces[1], whole[1], atol=1e-6, rtol=1e-4)


def test_reference_log_probs_stay_with_their_comparison_however_they_are_computed():
    policy, reference = apart()
    expected = [torch.stack([response_log_prob(reference, c.prompt, r) for r in c.responses]) for c in COMPARISONS]
    for budget in (1, 20, 8192):
        state = dpo.init(policy, reference, COMPARISONS, dataclasses.replace(CONFIG, micro_batch=budget))
        torch.testing.assert_close(state.reference, expected)
        assert not any(x.requires_grad for x in state.reference)


def test_no_comparison_is_dropped_when_the_batch_does_not_divide_them(monkeypatch):
    policy, reference = policies()
    config = dataclasses.replace(CONFIG, epochs=3, batch=2)
    state = dpo.init(policy, reference, COMPARISONS, config)
    seen: list[list[int]] = []
    update = dpo.update

    def watched(state: dpo.State, index: list[int], config: dpo.Config) -> Any:
        seen.append(list(index))
        return update(state, index, config)

    monkeypatch.setattr(dpo, "update", watched)
    assert len(list(dpo.train(state, config))) == dpo.steps(state, config) == 9
    assert [len(x) for x in seen] == [2, 2, 1] * 3
    for epoch in range(3):
        assert sorted(itertools.chain(*seen[3 * epoch : 3 * epoch + 3])) == list(range(5))


def test_ties_are_left_out():
    tied = Comparison([5], [[1, 0], [2, 0]], [1, 1])
    policy, reference = policies()
    state = dpo.init(policy, reference, [tied, *COMPARISONS, tied], CONFIG)
    assert state.comparisons == COMPARISONS
    with pytest.raises(InputError, match="every comparison is a tie"):
        dpo.init(policy, reference, [tied], CONFIG)


def test_ipo_is_its_equation_on_summed_log_probs():
    config = dataclasses.replace(CONFIG, objective="ipo", reference_beta=0.2)
    pairs = [c for c in COMPARISONS if len(c.ranks) == 2]
    policy, reference = apart()
    expected = []
    for c in pairs:
        ordered = [c.responses[c.ranks.index(rank)] for rank in (1, 2)]
        logs = [response_log_prob(p, c.prompt, r) for p in (policy, reference) for r in ordered]
        expected.append(ipo_loss(*logs, 0.2))
    assert step(config, pairs)[0]["loss/dpo"] == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_label_smoothing_is_a_mixture_with_the_flipped_labels():
    flipped = [c._replace(ranks=[max(c.ranks) + 1 - r for r in c.ranks]) for c in COMPARISONS]
    _, right = step(CONFIG)
    _, wrong = step(CONFIG, flipped)
    _, smooth = step(dataclasses.replace(CONFIG, label_smoothing=0.2))
    torch.testing.assert_close(smooth, [0.8 * a + 0.2 * b for a, b in zip(right, wrong, strict=True)])


def test_without_a_reference_the_policy_needs_an_adapter():
    policy, _ = policies()
    with pytest.raises(InputError, match="LoRA"):
        dpo.init(policy, None, COMPARISONS, CONFIG)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_lora_adapter_switched_off_is_the_reference():
    peft = pytest.importorskip("peft")
    policy, reference = policies()
    adapted = peft.get_peft_model(copy.deepcopy(policy.model), peft.LoraConfig(r=2, target_modules="all-linear"))
    state = dpo.init(LanguageModel(adapted), None, COMPARISONS, CONFIG)
    expected = dpo.init(policy, reference, COMPARISONS, CONFIG)
    torch.testing.assert_close(state.reference, expected.reference)
    config = dataclasses.replace(CONFIG, epochs=3, learning_rate=1e-2)
    first, *_, last = dpo.train(state, config)
    assert first["loss/dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert last["loss/dpo"] < first["loss/dpo"]
    again = dpo.init(LanguageModel(adapted), None, COMPARISONS, CONFIG)
    torch.testing.assert_close(again.reference, expected.reference)


@pytest.mark.parametrize(
    ("settings", "message"), [({"objective": "slic"}, "slic"), ({"objective": "ipo", "label_smoothing": 0.1}, "ipo")]
)
def test_settings_that_would_be_ignored_are_refused(settings, message, unchecked_types):
    with pytest.raises(InputError, match=message):
        dpo.init(*policies(), COMPARISONS, dataclasses.replace(CONFIG, **settings))


def test_thumbs_are_refused(unchecked_types):
    data: list[Any] = [*COMPARISONS, Judgement([1], [2, 0], True)]
    with pytest.raises(InputError, match="record 5 is a Judgement"):
        dpo.init(*policies(), data, CONFIG)
