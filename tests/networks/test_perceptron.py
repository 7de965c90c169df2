"""Compiled perceptrons against PyTorch's: numbers, and gradients of weights and of what goes in."""

import copy

import pytest
import torch
from torch import nn

from operant.core.flat import flatten
from operant.networks.mlp import mlp
from operant.networks.perceptron import compilable, layers_of, through

BENDS = [nn.Tanh, nn.ReLU]


class Two(nn.Module):
    """Two perceptrons behind a parameter of another kind."""

    def __init__(self, bend: type[nn.Module], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.other = nn.Parameter(torch.ones(3))
        self.networks = nn.ModuleList(mlp((4, *hidden, size), 1.0, bend, "torch") for size in (1, 5))
        self.layers = [layers_of(self, network) for network in self.networks]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return through(list(self.networks), self, self.layers, x)


def both(bend: type[nn.Module], hidden: tuple[int, ...] = (7, 6)) -> tuple[Two, Two]:
    """The same twice, one of them flattened."""
    theirs = Two(bend, hidden)
    ours = copy.deepcopy(theirs)
    flatten(ours)
    assert compilable(ours) is not None
    assert compilable(theirs) is None
    return ours, theirs


def gradients(module: Two, x: torch.Tensor) -> list[torch.Tensor | None]:
    x = x.clone().requires_grad_()
    sum((y - 1).pow(3).sum() for y in module(x)).backward()
    return [x.grad, *(p.grad for p in module.networks.parameters())]


@pytest.mark.parametrize("lead", [(), (1,), (9,), (3, 4)])
@pytest.mark.parametrize("hidden", [(), (5,), (7, 3), (16, 16, 8)])
@pytest.mark.parametrize("bend", BENDS)
def test_outputs_and_gradients_are_those_of_pytorch(bend, hidden, lead):
    ours, theirs = both(bend, hidden)
    x = 3 * torch.randn(*lead, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x), rtol=1e-4, atol=1e-4)
    assert [y.shape for y in ours(x)] == [(*lead, 1), (*lead, 5)]


def test_a_network_whose_output_is_not_used_gets_no_gradient():
    ours, theirs = both(nn.ReLU)
    x = torch.randn(6, 4)
    for module in (ours, theirs):
        module(x)[1].square().sum().backward()
    assert all(not p.grad.any() for p in ours.networks[0].parameters())
    for p, due in zip(ours.networks[1].parameters(), theirs.networks[1].parameters(), strict=True):
        torch.testing.assert_close(p.grad, due.grad)


@pytest.mark.parametrize("bend", BENDS)
def test_frozen_networks_pass_gradients_on_and_get_none(bend):
    ours, theirs = both(bend)
    flat = compilable(ours)
    x = torch.randn(6, 4)
    for module in (ours, theirs):
        module.requires_grad_(False)
    (of_x, *_), (due, *_) = gradients(ours, x), gradients(theirs, x)
    torch.testing.assert_close(of_x, due, rtol=1e-5, atol=1e-5)
    assert flat.grad.count_nonzero() == 0


def test_columns_that_are_not_side_by_side_in_memory_are_read_right():
    ours, theirs = both(nn.ReLU)
    x = torch.randn(4, 9).T
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bend", BENDS)
def test_what_is_no_number_stays_none(bend):
    ours, _ = both(bend)
    x = torch.zeros(2, 4)
    x[1, 2] = torch.nan
    for y in ours(x):
        assert y[0].isfinite().all()
        assert y[1].isnan().all()


def test_a_module_with_a_frozen_part_is_left_to_pytorch():
    module = Two(nn.ReLU, (5,))
    module.other.requires_grad_(False)
    x = torch.randn(3, 4)
    due = module(x)
    flatten(module)
    assert compilable(module) is None
    assert all(torch.equal(a, b) for a, b in zip(module(x), due, strict=True))


@pytest.mark.parametrize(
    "rest",
    [
        [nn.Tanh()],
        [nn.Sigmoid(), nn.Linear(3, 3)],
        [nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)],
        [nn.Tanh(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)],
        [nn.Tanh(), nn.Linear(3, 3, bias=False)],
    ],
)
def test_other_layers_are_left_to_pytorch(rest):
    network = nn.Sequential(nn.Linear(4, 3), *rest)
    assert layers_of(network, network) is None
    flatten(network)
    x = torch.randn(5, 4)
    assert torch.equal(through([network], network, [None], x)[0], network(x))
