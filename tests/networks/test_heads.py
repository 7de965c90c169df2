"""The bounded head against its density; the other heads are tested through `ActorCritic`."""

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
