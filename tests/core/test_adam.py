"""The compiled Adam is PyTorch's: step by step, when saved, and when the gradient is shortened."""

import copy

import pytest
import torch
from torch import nn

from operant.core.adam import Adam, adam
from operant.core.errors import Diverged
from operant.core.flat import flatten
from operant.core.optimise import descend


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 2))


def loss(module: nn.Module, step: int) -> torch.Tensor:
    x = torch.linspace(-1, 1, 12).view(4, 3) * (1 + step % 5)
    return 100 * (module(x) - x.sum(-1, keepdim=True)).square().sum()


@pytest.mark.parametrize("longest", [0.5, 200.0, float("inf")])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-3])
def test_a_hundred_steps_are_those_of_pytorch(longest, epsilon):
    ours, theirs = network(), network()
    compiled = adam([flatten(ours)], 0.01, epsilon)
    due = torch.optim.Adam(theirs.parameters(), eps=epsilon)
    assert isinstance(compiled, Adam)
    for step in range(100):
        rate = 0.01 / (1 + step)
        norms = [descend(o, [loss(m, step)], rate, longest, step) for o, m in ((compiled, ours), (due, theirs))]
        torch.testing.assert_close(norms[0], norms[1], rtol=1e-4, atol=1e-4)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_it_goes_on_from_what_it_saved_and_from_what_pytorch_saved():
    steps = range(20)
    whole, parted = network(), network()
    one = adam([flatten(whole)], 0.01)
    first = torch.optim.Adam([flatten(parted)], fused=True)
    for step in steps:
        descend(one, [loss(whole, step)], 0.01, 1.0, step)
        if step < 10:
            descend(first, [loss(parted, step)], 0.01, 1.0, step)
    again = network()
    again.load_state_dict(parted.state_dict())
    second = adam([flatten(again)], 0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in steps[10:]:
        descend(second, [loss(again, step)], 0.01, 1.0, step)
    saved = copy.deepcopy(second.state_dict())
    torch.testing.assert_close(list(again.parameters()), list(whole.parameters()), rtol=1e-4, atol=1e-5)
    third, twin = adam([flatten(last := copy.deepcopy(again))], 0.01), last
    third.load_state_dict(saved)
    for optimizer, module in ((second, again), (third, twin)):
        descend(optimizer, [loss(module, 20)], 0.01, 1.0, 20)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), twin.parameters(), strict=True))


def test_a_gradient_that_is_no_number_changes_nothing():
    module = network()
    optimizer = adam([flatten(module)], 0.01)
    descend(optimizer, [loss(module, 0)], 0.01, 1.0, 0)
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    with pytest.raises(Diverged, match="step 7: the gradient's norm is nan"):
        descend(optimizer, [loss(module, 0) * torch.nan], 0.01, 1.0, 7)
    torch.testing.assert_close((module.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)


def test_many_parameters_and_other_types_take_pytorchs():
    module = network()
    assert type(adam(list(module.parameters()), 0.1)) is torch.optim.Adam
    assert type(adam([flatten(network().double())], 0.1)) is torch.optim.Adam
