"""Losses against their equations, and padding against what it must not touch."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from operant.core.losses import (
    bradley_terry_loss,
    dpo_loss,
    importance_ratio,
    ipo_loss,
    masked_mean,
    policy_gradient_loss,
    ppo_clip_loss,
    ppo_kl_loss,
    ranking_loss,
    rescale,
    standardize,
    value_loss,
)

equal = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
normal = partial(torch.randn, dtype=torch.float64)
GARBAGE = [math.nan, math.inf, 1e6]


def gradient(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss.sum(), of)


class TestMaskedMean:
    def test_is_the_mean_of_what_the_mask_selects(self):
        x, mask = normal(5, 7), torch.rand(5, 7) < 0.5
        equal(masked_mean(x, mask), x[mask].mean())

    def test_of_nothing_is_0(self):
        assert masked_mean(torch.full((3,), math.nan), torch.zeros(3, dtype=torch.bool)) == 0

    @pytest.mark.parametrize("count", [10, 10.0, torch.tensor(10)])
    def test_micro_batches_of_unequal_length_add_up(self, count):
        x, lengths = normal(4, 6).requires_grad_(), torch.tensor([1, 6, 0, 3])
        mask = torch.arange(6) < lengths.unsqueeze(-1)
        whole = masked_mean(x, mask)
        parts = sum(masked_mean(x[rows], mask[rows], count) for rows in ([0, 1], [2], [3]))
        equal(parts, whole)
        equal(gradient(parts, x), gradient(whole, x))

    def test_padding_gets_no_gradient(self):
        x, mask = torch.tensor([[1.0, 2.0, 1e30]], requires_grad=True), torch.tensor([[True, True, False]])
        (grad,) = gradient(masked_mean(x**2, mask), x)
        equal(grad, torch.tensor([[1.0, 2.0, 0.0]]))


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("f", [masked_mean, standardize, rescale])
def test_padding_cannot_leak(f, garbage):
    """Twice the padding, whatever it holds, changes nothing."""
    x, mask = normal(3, 5), torch.rand(3, 5) < 0.7
    padded = torch.cat([torch.where(mask, x, garbage), torch.full((3, 5), garbage, dtype=x.dtype)], 1)
    result = f(padded, torch.cat([mask, torch.zeros_like(mask)], 1))
    equal(result[:, :5] if result.ndim else result, f(x, mask))
    assert (result[:, 5:] == 0).all() if result.ndim else True


class TestStandardize:
    def test_mean_0_deviation_1_over_the_mask(self):
        x, mask = 3 + 7 * normal(6, 9), torch.rand(6, 9) < 0.6
        inside = standardize(x, mask)[mask]
        equal(inside.mean(), torch.tensor(0.0, dtype=x.dtype))
        torch.testing.assert_close(inside.std(correction=0), torch.tensor(1.0, dtype=x.dtype))
        assert (standardize(x, mask)[~mask] == 0).all()

    @given(shift=st.floats(-100, 100), scale=st.floats(0.1, 100), seed=st.integers(0, 99))
    def test_does_not_depend_on_shift_and_scale(self, shift, scale, seed):
        x = normal(4, 5, generator=torch.Generator().manual_seed(seed))
        mask = torch.ones(4, 5, dtype=torch.bool)
        torch.testing.assert_close(standardize(shift + scale * x, mask), standardize(x, mask), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("f", [standardize, rescale])
    @pytest.mark.parametrize("constant", [0.0, 0.1, 0.7, -3.3, 1000.1, 123456.7])
    def test_equal_values_do_not_deviate(self, f, constant):
        """In float32 the mean of equal numbers is not that number; the difference must not be taken for a signal."""
        x = torch.full((8, 125), constant)
        expected = torch.zeros_like(x) if f is standardize else x
        assert torch.equal(f(x, torch.ones_like(x, dtype=torch.bool)), expected)


class TestRescale:
    def test_keeps_the_mean(self):
        x, mask = 3 + 7 * normal(6, 9), torch.rand(6, 9) < 0.6
        inside = rescale(x, mask)[mask]
        equal(inside.mean(), x[mask].mean())
        torch.testing.assert_close(inside.std(correction=0), torch.tensor(1.0, dtype=x.dtype))

    def test_is_standardize_moved_by_the_mean(self):
        x, mask = 3 + normal(4, 4), torch.rand(4, 4) < 0.6
        equal(rescale(x, mask), torch.where(mask, standardize(x, mask) + x[mask].mean(), 0.0))


class TestPolicyGradientLoss:
    def test_gradient_is_minus_the_advantage_and_leaves_the_critic_alone(self):
        log_prob, advantage = normal(6).requires_grad_(), normal(6).requires_grad_()
        loss = policy_gradient_loss(log_prob, advantage)
        equal(loss, -log_prob * advantage)
        assert not torch.autograd.grad(loss.sum(), advantage, allow_unused=True, retain_graph=True)[0]
        equal(gradient(loss, log_prob)[0], -advantage)

    @pytest.mark.parametrize("weight", [1, 1.0])
    def test_with_advantage_1_it_is_maximum_likelihood(self, weight):
        logits, action = normal(6, 4), torch.randint(4, (6,))
        log_prob = logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        equal(policy_gradient_loss(log_prob, weight), F.cross_entropy(logits, action, reduction="none"))


def test_importance_ratio():
    new, old = torch.tensor([0.3, 0.2]), torch.tensor([0.1, 0.4])
    torch.testing.assert_close(importance_ratio(new.log(), old.log()), new / old)


class TestPPOClipLoss:
    # ratio, advantage, loss, gradient with respect to the log-probability, at ε = 0.2
    CASES = (
        (1.0, 2.0, -2.0, -2.0),
        (1.0, -2.0, 2.0, 2.0),
        (1.1, 2.0, -2.2, -2.2),
        (0.9, -2.0, 1.8, 1.8),
        (1.5, 2.0, -2.4, 0.0),  # already improved by more than ε: no pull
        (0.5, -2.0, 1.6, 0.0),
        (0.5, 2.0, -1.0, -1.0),  # made worse: the pull back is whole
        (1.5, -2.0, 3.0, 3.0),
    )

    @pytest.mark.parametrize(("ratio", "advantage", "loss", "slope"), CASES)
    def test_cases(self, ratio, advantage, loss, slope):
        old = torch.tensor([-1.3], dtype=torch.float64)
        log_prob = (old + math.log(ratio)).requires_grad_()
        actual = ppo_clip_loss(log_prob, old, torch.tensor([advantage], dtype=torch.float64), clip=0.2)
        assert actual.item() == pytest.approx(loss)
        assert gradient(actual, log_prob)[0].item() == pytest.approx(slope)

    def test_at_the_old_policy_its_gradient_is_the_policy_gradient(self):
        log_prob, advantage = normal(3, 5).requires_grad_(), normal(3, 5)
        clipped = ppo_clip_loss(log_prob, log_prob.detach(), advantage, clip=0.1)
        equal(gradient(clipped, log_prob), gradient(policy_gradient_loss(log_prob, advantage), log_prob))

    def test_is_never_below_the_unclipped_loss_and_without_a_clip_equals_it(self):
        log_prob, old, advantage = normal(50), normal(50), normal(50)
        unclipped = -importance_ratio(log_prob, old) * advantage
        assert (ppo_clip_loss(log_prob, old, advantage, clip=0.2) >= unclipped).all()
        equal(ppo_clip_loss(log_prob, old, advantage, clip=math.inf), unclipped)


def test_ppo_kl_loss():
    log_prob, old, advantage, kl = normal(4).requires_grad_(), normal(4), normal(4), normal(4) ** 2
    surrogate = -importance_ratio(log_prob, old) * advantage
    equal(ppo_kl_loss(log_prob, old, advantage, kl, beta=0.0), surrogate)
    equal(ppo_kl_loss(log_prob, old, advantage, kl, beta=3), surrogate + 3 * kl)
    at_old = ppo_kl_loss(log_prob, log_prob.detach(), advantage, kl, beta=1.0)
    equal(gradient(at_old, log_prob)[0], -advantage)


class TestValueLoss:
    def test_gradient_is_the_error(self):
        value, target = normal(5).requires_grad_(), normal(5)
        equal(gradient(value_loss(value, target), value)[0], (value - target).detach())

    # value, target, loss, gradient, at old value 0 and clip 0.2
    CASES = (
        (0.1, 1.0, 0.405, -0.9),  # inside the clip: the plain loss
        (0.5, 1.0, 0.32, 0.0),  # moved towards the target by more than the clip: no pull
        (-0.5, 1.0, 1.125, -1.5),  # moved away: the pull back is whole
        (1.5, 0.1, 0.98, 1.4),  # overshot: likewise
    )

    @pytest.mark.parametrize(("value", "target", "loss", "slope"), CASES)
    def test_clip(self, value, target, loss, slope):
        v = torch.tensor([value], requires_grad=True)
        actual = value_loss(v, torch.tensor([target]), torch.zeros(1), clip=0.2)
        assert actual.item() == pytest.approx(loss)
        assert gradient(actual, v)[0].item() == pytest.approx(slope)

    def test_a_wide_clip_is_no_clip(self):
        value, target, old = normal(9), normal(9), normal(9)
        equal(value_loss(value, target, old, clip=math.inf), value_loss(value, target))

    def test_a_clip_needs_the_old_value(self):
        with pytest.raises(ValueError, match="old_value"):
            value_loss(normal(2), normal(2), clip=0.2)


class TestBradleyTerryLoss:
    @pytest.mark.parametrize("target", [0, 0.3, 0.5, 1.0, torch.linspace(0, 1, 5, dtype=torch.float64)])
    def test_is_binary_cross_entropy(self, target):
        chosen, rejected, margin = normal(5), normal(5), normal(5)
        label = torch.as_tensor(target, dtype=torch.float64).expand(5)
        expected = F.binary_cross_entropy_with_logits(chosen - rejected - margin, label, reduction="none")
        equal(bradley_terry_loss(chosen, rejected, margin, target), expected)

    def test_swapping_the_sides_swaps_the_label(self):
        a, b = normal(5), normal(5)
        equal(bradley_terry_loss(a, b, target=0.8), bradley_terry_loss(b, a, target=0.2))

    def test_a_tie_is_smallest_at_equal_scores(self):
        assert bradley_terry_loss(torch.zeros(1), torch.zeros(1), target=0.5).item() == pytest.approx(math.log(2))
        score = torch.zeros(1, requires_grad=True)
        assert gradient(bradley_terry_loss(score, torch.zeros(1), target=0.5), score)[0].item() == 0

    def test_great_differences_stay_finite(self):
        assert bradley_terry_loss(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0
        assert bradley_terry_loss(torch.tensor([-1e4]), torch.tensor([1e4])).item() == pytest.approx(2e4)


class TestRankingLoss:
    @staticmethod
    def pairs(ranks: Tensor, ties: str) -> list[tuple[int, int, float]]:
        """(better, worse, target) of every pair that counts."""
        present = [k for k, rank in enumerate(ranks) if rank > 0]
        untied = [(i, j, 1.0) for i, j in itertools.permutations(present, 2) if ranks[i] < ranks[j]]
        tied = [(i, j, 0.5) for i, j in itertools.combinations(present, 2) if ranks[i] == ranks[j]]
        return untied + (tied if ties == "half" else [])

    @pytest.mark.parametrize("ties", ["drop", "half"])
    @pytest.mark.parametrize("responses", [1, 2, 4, 9])
    def test_is_the_mean_over_its_pairs(self, responses, ties):
        scores, ranks = normal(20, responses), torch.randint(0, 4, (20, responses))
        for row, rank, actual in zip(scores, ranks, ranking_loss(scores, ranks, ties), strict=True):
            terms = [bradley_terry_loss(row[i], row[j], target=p) for i, j, p in self.pairs(rank, ties)]
            equal(actual, torch.stack(terms).mean() if terms else torch.zeros_like(actual))

    def test_of_a_pair_is_the_bradley_terry_loss(self):
        scores = normal(6, 2)
        equal(ranking_loss(scores, torch.tensor([1, 2]).expand(6, 2)), bradley_terry_loss(scores[:, 0], scores[:, 1]))
        equal(ranking_loss(scores, torch.tensor([2, 1]).expand(6, 2)), bradley_terry_loss(scores[:, 1], scores[:, 0]))

    @pytest.mark.parametrize("ties", ["drop", "half"])
    def test_depends_on_differences_of_scores_and_order_of_ranks_only(self, ties):
        scores, ranks = normal(8, 5), torch.randint(1, 4, (8, 5))
        loss, order = ranking_loss(scores, ranks, ties), torch.randperm(5)
        equal(ranking_loss(scores + 100, ranks, ties), loss)
        equal(ranking_loss(scores, ranks**2, ties), loss)
        equal(ranking_loss(scores[:, order], ranks[:, order], ties), loss)

    @pytest.mark.parametrize("garbage", GARBAGE)
    @pytest.mark.parametrize("ties", ["drop", "half"])
    def test_absent_responses_are_never_read(self, ties, garbage):
        ranks = torch.tensor([[1, 0, 2, 0], [0, 0, 0, 3]])
        scores = torch.where(ranks > 0, normal(2, 4), garbage).requires_grad_()
        loss = ranking_loss(scores, ranks, ties)
        equal(loss, torch.stack([bradley_terry_loss(scores[0, 0], scores[0, 2]), torch.zeros(()).double()]))
        (grad,) = gradient(loss, scores)
        assert (grad[ranks == 0] == 0).all()
        assert (grad[1] == 0).all()

    def test_unknown_ties_are_refused(self, unchecked_types):
        with pytest.raises(ValueError, match="'keep'"):
            ranking_loss(normal(1, 2), torch.ones(1, 2, dtype=torch.long), ties="keep")


class TestDPOLoss:
    def test_starts_at_ln_2(self):
        chosen, rejected = normal(5), normal(5)
        equal(dpo_loss(chosen, rejected, chosen, rejected, beta=0.1), torch.full_like(chosen, math.log(2)))

    def test_gradient_is_its_closed_form(self):
        """-β σ(r_l - r_w) [∇log π(y_w) - ∇log π(y_l)] (Rafailov et al. 2023, section 4)."""
        (chosen, rejected), (ref_chosen, ref_rejected), beta = normal(2, 6), normal(2, 6), 0.3
        chosen.requires_grad_(), rejected.requires_grad_()
        loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
        reward_w, reward_l = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
        weight = (beta * torch.sigmoid(reward_l - reward_w)).detach()
        equal(gradient(loss, chosen, rejected), (-weight, weight))

    def test_target_below_1_mixes_in_the_swapped_pair(self):
        a, b, ref_a, ref_b = normal(4, 6)
        mixed = 0.9 * dpo_loss(a, b, ref_a, ref_b, 0.2) + 0.1 * dpo_loss(b, a, ref_b, ref_a, 0.2)
        equal(dpo_loss(a, b, ref_a, ref_b, 0.2, target=0.9), mixed)


def test_ipo_loss():
    """Smallest, and 0, where the policy prefers the chosen response by exactly 1/(2β) more than the reference does."""
    probability = torch.rand(4, 20, dtype=torch.float64)
    chosen, rejected, ref_chosen, ref_rejected = probability
    odds = (chosen / rejected) / (ref_chosen / ref_rejected)
    equal(ipo_loss(*probability.log(), beta=0.25), (odds.log() - 2) ** 2)
    assert ipo_loss(*torch.tensor([[-1.0], [-4.0], [-2.0], [-3.0]]), beta=0.25).item() == 0
