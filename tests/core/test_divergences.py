"""KL estimators by exact expectation over all actions; the shaped reward; the rules that steer a penalty."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from operant.core.divergences import AdaptiveKL, kl_estimate, kl_shaped_reward

equal = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
normal = partial(torch.randn, dtype=torch.float64)


def log_distribution(size: int) -> torch.Tensor:
    """Log-probabilities of `size` actions; `expected` sums over all of them, so nothing here is sampled."""
    return (1.5 * normal(size)).log_softmax(-1)


def expected(x: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """E[x] over actions drawn from p: as in training, no gradient goes through the draw."""
    return (log_p.detach().exp() * x).sum()


def exact_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum()


class TestKLEstimate:
    @pytest.mark.parametrize("estimator", ["k1", "k3"])
    def test_is_unbiased(self, estimator):
        p, q = log_distribution(7), log_distribution(7)
        equal(expected(kl_estimate(p, q, estimator), p), exact_kl(p, q))

    def test_k2_is_right_between_close_policies(self):
        p = log_distribution(7)
        q = (p + 1e-3 * normal(7)).log_softmax(-1)
        assert expected(kl_estimate(p, q, "k2"), p).item() == pytest.approx(exact_kl(p, q).item(), rel=0.01)
        far = log_distribution(7)
        assert expected(kl_estimate(p, far, "k2"), p).item() != pytest.approx(exact_kl(p, far).item(), rel=0.01)

    @pytest.mark.parametrize("estimator", ["k1", "k3"])
    def test_gradient_of_a_penalty_to_the_old_policy(self, estimator):
        """PPO's case: samples from the old policy p, gradient with respect to the new one, q."""
        p, logits = log_distribution(7), normal(7).requires_grad_()
        q = logits.log_softmax(-1)
        equal(
            torch.autograd.grad(expected(kl_estimate(p, q, estimator), p), logits, retain_graph=True),
            torch.autograd.grad(exact_kl(p, q), logits),
        )

    def test_gradient_of_a_penalty_to_the_reference(self):
        """Samples from the policy p that is trained: used as a loss, only k2 has the gradient of KL(p || q)."""
        logits, q = normal(7).requires_grad_(), log_distribution(7)
        p = logits.log_softmax(-1)
        by = {
            k: torch.autograd.grad(expected(kl_estimate(p, q, k), p), logits, retain_graph=True)[0]
            for k in ("k1", "k2", "k3")
        }
        equal(by["k2"], torch.autograd.grad(exact_kl(p, q), logits, retain_graph=True)[0])
        equal(by["k1"], torch.zeros_like(logits))
        equal(by["k3"], torch.autograd.grad(exact_kl(q, p), logits)[0])

    @given(st.floats(-30, 0), st.floats(-30, 0))
    def test_k3_is_never_negative(self, p, q):
        for dtype in (torch.float32, torch.float64):
            assert kl_estimate(torch.tensor(p, dtype=dtype), torch.tensor(q, dtype=dtype)) >= 0

    def test_k3_does_not_cancel_between_nearly_equal_policies(self):
        p = torch.tensor([-2.0])
        assert kl_estimate(p, p + 2**-12).item() == pytest.approx(2**-25, rel=1e-3)

    @pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
    def test_of_a_policy_to_itself_is_0(self, estimator):
        p = log_distribution(5)
        assert (kl_estimate(p, p, estimator) == 0).all()

    def test_unknown_estimator_is_refused(self, unchecked_types):
        with pytest.raises(ValueError, match="'k4'"):
            kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


class TestKLShapedReward:
    MASK = torch.tensor(
        [
            [1, 1, 1, 1, 1, 1],
            [1, 1, 1, 0, 0, 0],
            [1, 0, 1, 0, 1, 0],  # holes: tokens that the policy did not choose
            [0, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 0, 0],
        ],
        dtype=torch.bool,
    )

    def test_sums_to_the_objective_of_rlhf(self):
        score, log_prob, ref = normal(5), normal(5, 6), normal(5, 6)
        reward = kl_shaped_reward(score, log_prob, ref, self.MASK, beta=0.3)
        log_ratio = torch.where(self.MASK, log_prob - ref, 0.0).sum(-1)
        equal(reward[:4].sum(-1), (score - 0.3 * log_ratio)[:4])

    def test_the_score_lands_on_the_last_decision_alone(self):
        zero = torch.zeros(5, 6)
        reward = kl_shaped_reward(torch.full((5,), 7.0), zero, zero, self.MASK, beta=0.3)
        expected = torch.zeros(5, 6)
        expected[[0, 1, 2, 3], [5, 2, 4, 5]] = 7.0
        assert torch.equal(reward, expected)

    def test_the_penalty_of_a_decision_stays_there(self):
        log_prob, ref = normal(5, 6), normal(5, 6)
        reward = kl_shaped_reward(torch.zeros(5).double(), log_prob, ref, self.MASK, beta=0.3)
        equal(reward, torch.where(self.MASK, -0.3 * (log_prob - ref), 0.0))

    @pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e6])
    def test_padding_cannot_leak(self, garbage):
        score, log_prob, ref = normal(5), normal(5, 6), normal(5, 6)
        clean = kl_shaped_reward(score, log_prob, ref, self.MASK, beta=0.3)
        spoilt = (torch.where(self.MASK, x, garbage) for x in (log_prob, ref))
        assert torch.equal(kl_shaped_reward(score, *spoilt, self.MASK, beta=0.3), clean)
        assert (clean[~self.MASK] == 0).all()


class TestAdaptiveKL:
    def test_schulman_doubles_and_halves_outside_a_band_of_half(self):
        rule = AdaptiveKL(coefficient=1.0, target=0.02, rule="schulman")
        measured = [0.02, 0.0299, 0.0301, 0.5, 0.0134, 0.0133, 0.0]
        assert [rule.update(kl) for kl in measured] == [1, 1, 2, 4, 4, 2, 1]

    def test_ziegler_moves_in_proportion_and_at_most_a_fifth(self):
        rule = AdaptiveKL(coefficient=0.15, target=6.0, rule="ziegler", horizon=10_000)
        steps = [(6.0, 1.0), (6.6, 1.00256), (60.0, 1.00512), (5.4, 0.99744), (0.0, 0.99488)]
        coefficient = 0.15
        for kl, factor in steps:
            coefficient *= factor
            assert rule.update(kl, episodes=256) == pytest.approx(coefficient, rel=1e-12)

    def test_ziegler_does_not_depend_on_how_episodes_are_batched_to_first_order(self):
        whole, parts = (AdaptiveKL(0.1, 6.0, "ziegler") for _ in range(2))
        whole.update(7.0, episodes=64)
        for _ in range(4):
            parts.update(7.0, episodes=16)
        assert parts.coefficient == pytest.approx(whole.coefficient, rel=1e-5)

    def test_fixed_stays(self):
        assert AdaptiveKL(0.3, rule="fixed").update(99.0) == 0.3

    def test_goes_on_from_its_state(self):
        first = AdaptiveKL(1.0, 0.01)
        first.update(1.0)
        second = AdaptiveKL(1.0, 0.01)
        second.load_state_dict(first.state_dict())
        assert second == first
        assert second.update(1.0) == 4.0

    def test_unknown_rule_is_refused(self, unchecked_types):
        with pytest.raises(ValueError, match="'schulmann'"):
            AdaptiveKL(1.0, rule="schulmann")
