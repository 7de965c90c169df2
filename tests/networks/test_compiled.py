"""The compiled actor and critic against the same in PyTorch: numbers, and gradients of anything made of them."""

import copy

import pytest
import torch

from operant.core.flat import vector
from operant.core.record import Evaluation
from operant.networks.actor_critic import ActorCritic
from operant.networks.heads import Gaussian
from operant.networks.perceptron import _tanh

SHAPES = [(), (5,), (7, 3), (16, 16, 8)]


def policies(head: str, hidden: tuple[int, ...]) -> tuple[ActorCritic, ActorCritic]:
    """The same one twice: the copy's parameters are no vector, so PyTorch computes it."""
    ours = ActorCritic(4, Gaussian(3) if head == "Gaussian" else 5, hidden)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.5 * torch.randn(p.shape))
    theirs = copy.deepcopy(ours)
    assert vector(ours) is not None
    assert vector(theirs) is None
    return ours, theirs


def seen(head: str, *lead: int) -> tuple[torch.Tensor, torch.Tensor]:
    action = 2 * torch.randn(*lead, 3) if head == "Gaussian" else torch.randint(5, lead)
    return 3 * torch.randn(*lead, 4), action


@pytest.mark.parametrize("hidden", SHAPES)
@pytest.mark.parametrize("head", ["Categorical", "Gaussian"])
def test_evaluations_and_gradients_are_those_of_pytorch(head, hidden):
    ours, theirs = policies(head, hidden)
    observation, action = seen(head, 9, 4)
    found, due = (p.evaluate(observation, action) for p in (ours, theirs))
    torch.testing.assert_close(found, due, rtol=1e-5, atol=1e-5)
    factors = [torch.randn(9, 4) for _ in found]

    def loss(e: Evaluation) -> torch.Tensor:
        return sum((w * x.square()).sum() for w, x in zip(factors, e, strict=True))

    loss(found).backward()
    loss(due).backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("head", ["Categorical", "Gaussian"])
def test_each_part_alone_has_its_gradient(head, part):
    ours, theirs = policies(head, (8,))
    for p in (ours, theirs):
        torch.manual_seed(0)
        p.evaluate(*seen(head, 6, 1))[part].sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, torch.zeros_like(a) if b.grad is None else b.grad, rtol=1e-4, atol=1e-4)


def test_gradients_add_up_like_all_others():
    ours, theirs = policies("Gaussian", (8,))
    observation, action = seen("Gaussian", 6, 1)
    for p in (ours, theirs):
        for _ in range(2):
            p.evaluate(observation, action).log_prob.sum().backward()
        p.value(observation).sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_tanh_is_right_to_the_last_digits_and_keeps_what_is_no_number():
    x = torch.cat([torch.linspace(-20, 20, 10_001), torch.tensor([0.0, 1e-6, float("inf"), -float("inf")])])
    due, found = x.double().tanh(), x.clone()
    _tanh(found.numpy())
    assert (found - due).abs().max() < 3e-7
    nothing = torch.tensor([float("nan")])
    _tanh(nothing.numpy())
    assert nothing.isnan().all()
