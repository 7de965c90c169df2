from itertools import pairwise

import pytest
import torch
from torch import nn

from operant.core.errors import InputError
from operant.networks.mlp import initialise, mlp


@pytest.mark.parametrize("sizes", [(3, 2), (5, 16, 4), (4, 16, 8, 1)])
def test_is_linear_layers_with_activations_between_them(sizes):
    network = mlp(sizes, activation=nn.ReLU)
    assert [type(layer) for layer in network] == [nn.Linear, nn.ReLU] * (len(sizes) - 2) + [nn.Linear]
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(pairwise(sizes))
    assert network(torch.randn(7, 2, sizes[0])).shape == (7, 2, sizes[-1])


@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_weights_are_orthogonal_with_root_2_inside_and_gain_at_the_end(gain):
    *hidden, last = [layer for layer in mlp((6, 12, 12, 3), gain) if isinstance(layer, nn.Linear)]
    for layer, scale in [(layer, 2**0.5) for layer in hidden] + [(last, gain)]:
        w = layer.weight if layer.in_features >= layer.out_features else layer.weight.T
        torch.testing.assert_close(w @ w.T, scale**2 * torch.eye(len(w)), rtol=1e-4, atol=1e-5)
        assert (layer.bias == 0).all()


def test_the_activation_is_tanh_unless_another_is_asked_for():
    network = mlp((2, 3, 1))
    assert isinstance(network[1], nn.Tanh)
    x = torch.randn(5, 2)
    torch.testing.assert_close(network(x), network[2](torch.tanh(network[0](x))))


class TestInitialisations:
    def test_normalised_weights_into_a_unit_have_the_length_gain(self):
        for layer in (nn.Linear(7, 5), nn.Conv2d(3, 5, 2)):
            initialise(layer, "normalised", 0.3)
            torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.full((5,), 0.3))
            assert (layer.bias == 0).all()

    def test_xavier_weights_have_the_variance_of_their_fans(self):
        layer = nn.Linear(300, 200)
        initialise(layer, "xavier", 2.0)
        torch.testing.assert_close(layer.weight.var().item(), 4 * 2 / 500, rtol=0.03, atol=0)

    def test_torch_leaves_what_pytorch_does(self):
        torch.manual_seed(5)
        network = mlp((4, 3), initialisation="torch")
        torch.manual_seed(5)
        nn.Linear(4, 3)
        due = nn.Linear(4, 3)
        assert torch.equal(network[0].weight, due.weight)
        assert torch.equal(network[0].bias, due.bias)

    def test_hidden_layers_of_other_initialisations_have_gain_1(self):
        network = mlp((6, 12, 3), 0.01, initialisation="normalised")
        torch.testing.assert_close(network[0].weight.norm(dim=1), torch.ones(12))
        torch.testing.assert_close(network[2].weight.norm(dim=1), torch.full((3,), 0.01))

    def test_an_unknown_name_is_refused(self, unchecked_types):
        with pytest.raises(InputError, match="orthogonal, normalised, xavier, torch"):
            mlp((2, 3), initialisation="best")
