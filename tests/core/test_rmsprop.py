"""RMSProp by its definition, number by number."""

import math

import pytest
import torch

from operant.core.rmsprop import rmsprop


def test_steps_are_those_of_the_definition():
    weights, mean_square = torch.tensor([1.0, -2.0]), torch.zeros(2)
    w, m = weights.tolist(), [0.0, 0.0]
    for gradient in torch.randn(5, 2):
        rmsprop(weights, gradient, mean_square, 0.1, 0.9, 0.01)
        for i, g in enumerate(gradient.tolist()):
            m[i] = 0.9 * m[i] + 0.1 * g * g
            w[i] -= 0.1 * g / math.sqrt(m[i] + 0.01)
    assert weights.tolist() == pytest.approx(w, rel=1e-5)
    assert mean_square.tolist() == pytest.approx(m, rel=1e-5)


def test_the_scale_of_a_gradient_does_not_matter():
    small, large = torch.zeros(3), torch.zeros(3)
    squares = torch.zeros(3), torch.zeros(3)
    for gradient in torch.randn(4, 3):
        rmsprop(small, gradient, squares[0], 0.1, 0.9, 0.0)
        rmsprop(large, 1000 * gradient, squares[1], 0.1, 0.9, 0.0)
    torch.testing.assert_close(small, large)


def test_it_goes_down_a_bowl():
    weights, mean_square = torch.tensor([3.0, -40.0]), torch.zeros(2)
    for step in range(400):
        rmsprop(weights, torch.tensor([1.0, 50.0]) * weights, mean_square, 0.5 * (1 - step / 400))
    assert weights.abs().max() < 0.02
