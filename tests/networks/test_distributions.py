"""Categorical distributions against `torch.distributions` and against counting."""

import math

import pytest
import torch
from scipy.stats import chisquare
from torch.distributions import Categorical

from operant.networks.distributions import categorical_entropy, categorical_log_prob, categorical_sample

LOGITS = [
    torch.tensor([0.0, 1.0, -1.0, 2.5]),
    torch.tensor([-math.inf, 0.3, -math.inf, 0.0, 1.0]),
    1e4 + torch.tensor([0.0, 1.0, 2.0]),
    torch.zeros(7),
]


class TestSample:
    @pytest.mark.parametrize("logits", LOGITS)
    def test_actions_come_as_often_as_they_should(self, logits):
        n = 20_000
        count = torch.bincount(categorical_sample(logits.expand(n, -1)), minlength=len(logits))
        probability = logits.double().softmax(-1)
        possible = probability > 0
        assert count[~possible].sum() == 0
        expected = n * probability[possible]
        assert chisquare(count[possible].numpy(), (expected / expected.sum() * n).numpy()).pvalue > 1e-3

    def test_the_ends_of_the_unit_interval_stay_within_the_possible(self, monkeypatch):
        logits = torch.tensor([-math.inf, 0.0, 0.0, -math.inf])
        for point, due in ((0.0, 1), (0.5, 2), (1 - 2**-24, 2)):
            monkeypatch.setattr(torch, "rand_like", lambda x, point=point: torch.full_like(x, point))
            assert categorical_sample(logits) == due

    def test_a_certain_action_is_always_taken(self):
        logits = torch.full((1000, 50), -math.inf)
        action = torch.randint(50, (1000,))
        logits[torch.arange(1000), action] = 3.0
        assert torch.equal(categorical_sample(logits), action)

    def test_any_leading_shape_and_dtype(self):
        for dtype in (torch.float64, torch.bfloat16):
            assert categorical_sample(torch.randn(2, 3, 5, dtype=dtype)).shape == (2, 3)
        assert categorical_sample(torch.randn(5)).shape == ()

    def test_seeds_decide(self):
        logits = torch.randn(100, 5)
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(categorical_sample(logits))
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])


def test_log_prob_is_that_of_torch_distributions():
    logits = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    action = torch.randint(6, (4, 3))
    found, due = categorical_log_prob(logits, action), Categorical(logits=logits).log_prob(action)
    torch.testing.assert_close(found, due)
    gradients = [torch.autograd.grad(x.sum(), logits)[0] for x in (found, due)]
    torch.testing.assert_close(*gradients)


def test_log_prob_of_a_forbidden_action_is_minus_infinity():
    assert categorical_log_prob(torch.tensor([-math.inf, 0.0]), torch.tensor(0)) == -math.inf


class TestEntropy:
    def test_is_that_of_torch_distributions(self):
        logits = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
        found, due = categorical_entropy(logits), Categorical(logits=logits).entropy()
        torch.testing.assert_close(found, due)
        gradients = [torch.autograd.grad(x.sum(), logits)[0] for x in (found, due)]
        torch.testing.assert_close(*gradients)

    def test_is_log_n_for_n_equal_actions_and_0_for_a_certain_one(self):
        torch.testing.assert_close(categorical_entropy(torch.zeros(8)).item(), math.log(8))
        assert categorical_entropy(torch.tensor([0.0, -math.inf, -math.inf])) == 0

    def test_forbidden_actions_change_neither_it_nor_its_gradient(self):
        """0 · log 0 is 0, on the way back too."""
        few = torch.randn(3, requires_grad=True)
        many = torch.cat([few, torch.full((2,), -math.inf)])
        found, due = categorical_entropy(many), categorical_entropy(few)
        torch.testing.assert_close(found, due)
        torch.testing.assert_close(torch.autograd.grad(found, few), torch.autograd.grad(due, few))
