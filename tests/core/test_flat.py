"""A module and its vector are one: what happens to either happens to both."""

import copy

import torch
from torch import nn

from operant.core.flat import flatten, move_towards, shorten, trainable, vector
from operant.core.optimise import descend


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def learn(module: nn.Module, steps: int = 5) -> list[torch.Tensor]:
    optimizer = torch.optim.Adam(trainable(module), lr=0.1)
    x = torch.linspace(-1, 1, 12).view(4, 3)
    for step in range(steps):
        descend(optimizer, [(module(x) - 1).square().sum()], 0.1, 0.5, step)
    return [p.detach().clone() for p in module.parameters()]


def test_a_flattened_module_computes_and_learns_as_before():
    plain = network()
    flat = copy.deepcopy(plain)
    x = torch.randn(7, 3)
    before = plain(x)
    flatten(flat)
    assert torch.equal(flat(x), before)
    assert (len(trainable(plain)), len(trainable(flat))) == (4, 1)
    torch.testing.assert_close(learn(flat), learn(plain))


def test_the_vector_is_the_parameters_in_their_order():
    module = network()
    due = torch.cat([p.detach().flatten() for p in module.parameters()])
    flat = flatten(module)
    assert torch.equal(flat.detach(), due)
    with torch.no_grad():
        flat.add_(1)
        module[0].bias.zero_()
    assert torch.equal(torch.cat([p.detach().flatten() for p in module.parameters()]), flat.detach())


def test_frozen_parameters_stay_out_of_it():
    module = network()
    module[0].weight.requires_grad_(False)
    frozen = module[0].weight.clone()
    assert len(flatten(module)) == 4 + 8 + 2
    learn(module)
    assert torch.equal(module[0].weight, frozen)


def test_a_copy_has_no_vector_and_shares_nothing():
    module = network()
    flatten(module)
    twin = copy.deepcopy(module)
    assert vector(module) is not None
    assert vector(twin) is None
    before = [p.clone() for p in twin.parameters()]
    learn(module)
    assert all(map(torch.equal, before, twin.parameters()))


def test_a_saved_state_is_loaded_in_place():
    module, other = network(), network()
    flat = flatten(module)
    module.load_state_dict(other.state_dict())
    assert torch.equal(flat.detach(), torch.cat([p.detach().flatten() for p in other.parameters()]))


def test_a_target_moves_by_a_share_of_the_way():
    target, source = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])
    move_towards(target, source, 0.25)
    assert target.tolist() == [0.25, 1.75]


def test_only_long_gradients_are_shortened():
    gradient = torch.tensor([3.0, 4.0])
    assert shorten(gradient, 10.0).item() == 5
    assert gradient.tolist() == [3, 4]
    assert shorten(gradient, 0.5).item() == 5
    torch.testing.assert_close(gradient, torch.tensor([0.3, 0.4]))
    nothing = torch.zeros(2)
    assert shorten(nothing, 0.5).item() == 0
    assert nothing.tolist() == [0, 0]
