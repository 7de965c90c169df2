"""The bounded head against its density; the other heads are tested through `ActorCritic`."""

import numpy as np
import pytest
import torch
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from operant.networks.heads import Categorical, Gaussian, Head, MultiCategorical, SquashedGaussian

LOW, HIGH = torch.tensor([-3.0, -0.4]), torch.tensor([3.0, 1.0])


def test_a_gaussian_starts_with_deviation_1_and_trains_it():
    head = Gaussian(3)
    assert [name for name, _ in head.named_parameters()] == ["log_std"]
    assert head.log_std.tolist() == [0, 0, 0]


@pytest.mark.parametrize("head", [Categorical(5), MultiCategorical([2, 3]), Gaussian(3)], ids=repr)
def test_kl_is_the_mean_log_ratio_of_the_old_head_s_actions(head: Head):
    """Both heads are one and the same in time: its own parameters, log σ, moved in between."""
    old_output, new_output = 0.5 * torch.randn(2, head.size)
    old = head.describe(old_output).detach()
    action = head.sample(old_output.expand(100_000, -1))
    before = head.log_prob(old_output.expand(100_000, -1), action).detach()
    for p in head.parameters():
        p.data += 0.3
    ratio = before - head.log_prob(new_output.expand(100_000, -1), action).detach()
    kl = head.kl(old, head.describe(new_output)).item()
    assert abs(ratio.mean().item() - kl) < 4 * ratio.std().item() / 100_000**0.5
    assert head.kl(old, old) == 0 < kl


class TestReflex:
    """40,000 draws from one and the same output, in two steps."""

    def drawn(self, head: Head | SquashedGaussian, output: torch.Tensor) -> np.ndarray:
        draw, rows = head.reflex(2, 20_000, greedy=False), output.expand(20_000, -1).numpy()
        first, second = draw(rows, 0), draw(rows, 1)
        assert not np.array_equal(first, second)
        return np.concatenate([first, second])

    def test_a_categorical_draws_actions_as_often_as_they_are_likely(self):
        output = torch.tensor([0.0, 1.0, -1.0, 0.5])
        share = np.bincount(self.drawn(Categorical(4), output), minlength=4) / 40_000
        np.testing.assert_allclose(share, output.softmax(0), atol=0.01)

    def test_a_multi_categorical_draws_pairs_as_often_as_they_are_likely(self):
        output = torch.tensor([0.7, -0.7, 0.0, 1.0, -1.0])
        actions = self.drawn(MultiCategorical([2, 3]), output)
        share = np.bincount(3 * actions[:, 0] + actions[:, 1], minlength=6) / 40_000
        due = torch.outer(output[:2].softmax(0), output[2:].softmax(0)).flatten()
        np.testing.assert_allclose(share, due, atol=0.01)

    def test_a_gaussian_draws_around_its_means_with_its_deviations(self):
        head = Gaussian(3)
        head.log_std.data = torch.tensor([-1.0, 0.0, 0.7])
        output = torch.tensor([2.0, 0.0, -3.0])
        actions = self.drawn(head, output)
        np.testing.assert_allclose(actions.mean(0), output, atol=0.05)
        np.testing.assert_allclose(actions.std(0), head.log_std.exp().detach(), rtol=0.02)
        assert abs(np.corrcoef(actions.T) - np.eye(3)).max() < 0.03

    def test_a_squashed_gaussian_draws_one_that_is_squashed_to_its_box(self):
        head = SquashedGaussian(LOW, HIGH)
        actions = self.drawn(head, torch.tensor([0.3, -0.5, 0.1, 0.3]))
        latent = np.arctanh((actions - head.center.numpy()) / head.scale.numpy())
        np.testing.assert_allclose(latent.mean(0), [0.3, -0.5], atol=0.02)
        np.testing.assert_allclose(latent.std(0), np.exp(-1.5 + 3.5 * np.tanh([0.1, 0.3])), rtol=0.02)
        assert abs(np.corrcoef(latent.T)[0, 1]) < 0.03


def test_squashed_actions_stay_in_the_box_and_the_mode_is_that_of_the_mean():
    head = SquashedGaussian(LOW, HIGH)
    output = 5 * torch.randn(1000, 4)
    action, _ = head.sample(output)
    assert ((action >= LOW) & (action <= HIGH)).all()
    torch.testing.assert_close(head.mode(torch.zeros(4)), (LOW + HIGH) / 2)
    torch.testing.assert_close(head.mode(torch.full((4,), 20.0)), HIGH)


def test_a_squashed_log_density_belongs_to_its_action():
    head = SquashedGaussian(LOW.double(), HIGH.double())
    output = 0.5 * torch.randn(50, 4, dtype=torch.float64)
    action, log_prob = head.sample(output)
    mean, raw = output.chunk(2, -1)
    std = (-1.5 + 3.5 * raw.tanh()).exp()
    transforms = [TanhTransform(), AffineTransform(head.center, head.scale)]
    due = TransformedDistribution(Normal(mean, std), transforms).log_prob(action).sum(-1)
    torch.testing.assert_close(log_prob, due)


def test_gradients_of_a_squashed_action_and_its_log_density_are_those_of_finite_differences():
    head = SquashedGaussian(LOW.double(), HIGH.double())

    def drawn(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(3)
        return head.sample(output)

    assert torch.autograd.gradcheck(drawn, torch.randn(4, 4, dtype=torch.float64, requires_grad=True))
