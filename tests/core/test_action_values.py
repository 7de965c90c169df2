"""Targets and losses of action values, by what must be true of them."""

import pytest
import torch

from operant.core.action_values import double_q_value, huber_loss, ornstein_uhlenbeck, soft_value, td_target


def test_a_target_of_a_terminal_state_is_the_reward_alone():
    target = td_target(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.9]), torch.tensor([50.0, 50.0]))
    assert target.tolist() == [1, 46]


class TestDoubleQValue:
    def test_the_online_values_choose_and_the_target_values_judge(self):
        online = torch.tensor([[1.0, 5.0, 2.0], [0.0, -1.0, -2.0]])
        target = torch.tensor([[9.0, 3.0, 8.0], [4.0, 6.0, 7.0]])
        assert double_q_value(online, target).tolist() == [3, 4]

    def test_is_the_maximum_where_both_agree_and_never_above(self):
        online, target = torch.randn(100, 4), torch.randn(100, 4)
        torch.testing.assert_close(double_q_value(target, target), target.amax(-1))
        assert (double_q_value(online, target) <= target.amax(-1)).all()

    def test_independent_noise_does_not_raise_it(self):
        """All actions are worth 0: the maximum of noise is not, the judgement of other noise is."""
        first, second = torch.randn(2, 100_000, 4)
        assert second.amax(-1).mean() > 1
        assert double_q_value(first, second).mean().item() == pytest.approx(0, abs=0.02)


def test_the_soft_value_of_the_best_policy_is_the_log_of_the_sum():
    """With π ∝ e^{Q/α}, Q - α log π is the same for every action: α log Σ e^{Q/α} (Haarnoja et al. 2018)."""
    q, alpha = torch.randn(5, dtype=torch.float64), 0.3
    values = soft_value(q, (q / alpha).log_softmax(-1), alpha)
    torch.testing.assert_close(values, (alpha * torch.logsumexp(q / alpha, -1)).expand(5))


class TestHuberLoss:
    @pytest.mark.parametrize("threshold", [0.5, 1.0, 3.0])
    def test_is_a_parabola_and_from_the_threshold_on_a_line(self, threshold):
        value, target = 3 * torch.randn(2, 1000)
        error = (value - target).abs()
        due = torch.where(error <= threshold, 0.5 * error**2, threshold * (error - 0.5 * threshold))
        torch.testing.assert_close(huber_loss(value, target, threshold), due)

    def test_its_gradient_is_the_error_clipped(self):
        value = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(huber_loss(value, torch.zeros_like(value), 1.5).sum(), value)
        torch.testing.assert_close(gradient, value.detach().clamp(-1.5, 1.5))

    def test_without_a_threshold_it_is_half_the_square(self):
        value, target = torch.randn(2, 100)
        torch.testing.assert_close(huber_loss(value, target, float("inf")), 0.5 * (value - target) ** 2)


def test_noise_that_is_drawn_back_has_the_deviation_and_the_memory_of_its_formula():
    theta, sigma = 0.15, 0.2
    path = [torch.zeros(20_000, dtype=torch.float64)]
    for _ in range(100):
        path.append(ornstein_uhlenbeck(path[-1], theta, sigma))
    assert path[-1].std().item() == pytest.approx(sigma / (theta * (2 - theta)) ** 0.5, rel=0.03)
    for lag in (1, 5):
        correlation = torch.corrcoef(torch.stack([path[-1], path[-1 - lag]]))[0, 1].item()
        assert correlation == pytest.approx((1 - theta) ** lag, abs=0.03)
