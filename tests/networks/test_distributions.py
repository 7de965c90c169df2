"""Distributions against `torch.distributions` and against counting."""

import math

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch.distributions import (
    AffineTransform,
    Categorical,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from operant.networks.distributions import (
    bounded_log_std,
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    categorical_sample,
    gaussian_entropy,
    gaussian_kl,
    gaussian_log_prob,
    gaussian_sample,
    multi_categorical_entropy,
    multi_categorical_kl,
    multi_categorical_log_prob,
    multi_categorical_sample,
    squashed_gaussian_log_prob,
)

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


class TestCategoricalKL:
    def test_is_that_of_torch_distributions(self):
        p, q = torch.randn(2, 4, 3, 6, dtype=torch.float64, requires_grad=True).unbind()
        found, due = categorical_kl(p, q), kl_divergence(Categorical(logits=p), Categorical(logits=q))
        torch.testing.assert_close(found, due)
        for x in (p, q):
            gradients = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (found, due)]
            torch.testing.assert_close(*gradients)

    def test_forbidden_actions_change_neither_it_nor_its_first_two_derivatives(self):
        """An action that neither takes adds 0; one that only p takes makes it infinite."""
        p, few = torch.randn(2, 3).unbind()
        few.requires_grad_()
        never = torch.full((2,), -math.inf)
        found, due = categorical_kl(torch.cat([p, never]), torch.cat([few, never])), categorical_kl(p, few)
        torch.testing.assert_close(found, due)
        gradients = [torch.autograd.grad(x, few, create_graph=True)[0] for x in (found, due)]
        torch.testing.assert_close(*gradients)
        torch.testing.assert_close(*(torch.autograd.grad(g.square().sum(), few)[0] for g in gradients))
        assert categorical_kl(torch.zeros(2), torch.tensor([0.0, -math.inf])) == math.inf
        assert categorical_kl(torch.tensor([0.0, -math.inf]), torch.zeros(2)) == pytest.approx(math.log(2))


class TestMultiCategorical:
    SIZES = (2, 4, 3)

    def test_is_independent_categoricals_of_torch_distributions(self):
        logits = torch.randn(5, 6, 9, dtype=torch.float64)
        action = multi_categorical_sample(logits, self.SIZES)
        assert action.shape == (5, 6, 3)
        parts = [Categorical(logits=part) for part in logits.split(self.SIZES, -1)]
        log_prob = sum(part.log_prob(action[..., k]) for k, part in enumerate(parts))
        torch.testing.assert_close(multi_categorical_log_prob(logits, action, self.SIZES), log_prob)
        torch.testing.assert_close(multi_categorical_entropy(logits, self.SIZES), sum(part.entropy() for part in parts))
        other = torch.randn(5, 6, 9, dtype=torch.float64)
        others = [Categorical(logits=part) for part in other.split(self.SIZES, -1)]
        due = sum(kl_divergence(p, q) for p, q in zip(parts, others, strict=True))
        torch.testing.assert_close(multi_categorical_kl(logits, other, self.SIZES), due)

    def test_probabilities_of_all_actions_sum_to_1(self):
        logits = torch.randn(9, dtype=torch.float64)
        every = torch.cartesian_prod(*(torch.arange(n) for n in self.SIZES))
        log_prob = multi_categorical_log_prob(logits.expand(len(every), -1), every, self.SIZES)
        torch.testing.assert_close(log_prob.exp().sum().item(), 1.0)

    def test_draws_come_as_often_as_they_should(self):
        n = 20_000
        logits = torch.randn(9)
        action = multi_categorical_sample(logits.expand(n, -1), self.SIZES)
        number = action @ torch.tensor([12, 3, 1])
        every = torch.cartesian_prod(*(torch.arange(k) for k in self.SIZES))
        due = multi_categorical_log_prob(logits.double().expand(24, -1), every, self.SIZES).exp()
        assert chisquare(torch.bincount(number, minlength=24).numpy(), (n * due / due.sum()).numpy()).pvalue > 1e-3


class TestGaussian:
    def test_is_that_of_torch_distributions(self):
        mean = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
        log_std = torch.randn(2, dtype=torch.float64, requires_grad=True)
        action = torch.randn(4, 3, 2, dtype=torch.float64)
        there = Independent(Normal(mean, log_std.exp()), 1)
        found, due = gaussian_log_prob(mean, log_std, action), there.log_prob(action)
        torch.testing.assert_close(found, due)
        for x in (mean, log_std):
            gradients = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (found, due)]
            torch.testing.assert_close(*gradients)
        torch.testing.assert_close(gaussian_entropy(log_std).expand(4, 3), there.entropy())

    def test_kl_is_that_of_torch_distributions(self):
        mean, other = torch.randn(2, 4, 3, 2, dtype=torch.float64).unbind()
        log_std, other_log_std = torch.randn(2, 2, dtype=torch.float64, requires_grad=True).unbind()
        p, q = (Independent(Normal(m, s.exp()), 1) for m, s in ((mean, log_std), (other, other_log_std)))
        found, due = gaussian_kl(mean, log_std, other, other_log_std), kl_divergence(p, q)
        torch.testing.assert_close(found, due)
        for x in (log_std, other_log_std):
            gradients = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (found, due)]
            torch.testing.assert_close(*gradients)
        assert (gaussian_kl(mean, log_std, mean, log_std) == 0).all()

    def test_samples_have_its_distribution_and_carry_gradients(self):
        mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0], requires_grad=True)
        x = gaussian_sample(mean.expand(5000, 2), log_std)
        for i in range(2):
            standard = (x[:, i].detach() - mean[i]) / log_std[i].detach().exp()
            assert kstest(standard.numpy(), "norm").pvalue > 1e-3
        x.sum().backward()
        torch.testing.assert_close(log_std.grad, (x.detach() - mean).sum(0))


class TestSquashedGaussian:
    def test_density_integrates_to_1(self):
        """Over the actions themselves: [-1, 3], by the midpoint rule."""
        n, scale = 400_000, torch.tensor([2.0], dtype=torch.float64)
        tanh = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1
        latent = tanh.atanh().unsqueeze(-1)
        for mean, log_std in ((0.0, 0.0), (0.7, -1.0), (-0.5, 0.3)):
            parameters = (torch.full_like(latent, x) for x in (mean, log_std))
            density = squashed_gaussian_log_prob(*parameters, latent, scale).exp()
            assert abs((density * 4 / n).sum().item() - 1) < 1e-3

    def test_is_that_of_torch_distributions(self):
        mean, log_std, scale = torch.randn(5, 2).double(), torch.randn(5, 2).double(), torch.tensor([0.4, 3.0]).double()
        latent = torch.randn(5, 2).double()
        transforms = [TanhTransform(), AffineTransform(torch.tensor([1.0, -1.0]).double(), scale)]
        there = TransformedDistribution(Normal(mean, log_std.exp()), transforms)
        action = torch.tensor([1.0, -1.0]).double() + scale * latent.tanh()
        due = there.log_prob(action).sum(-1)
        torch.testing.assert_close(squashed_gaussian_log_prob(mean, log_std, latent, scale), due)

    def test_is_finite_where_tanh_is_1(self):
        latent = torch.tensor([[30.0], [-30.0]], requires_grad=True)
        found = squashed_gaussian_log_prob(latent, torch.zeros(2, 1), latent, torch.ones(1))
        found.sum().backward()
        assert found.isfinite().all()
        torch.testing.assert_close(found, torch.full((2,), 60 - 2 * math.log(2) - 0.5 * math.log(2 * math.pi)))
        torch.testing.assert_close(latent.grad, torch.tensor([[2.0], [-2.0]]))

    def test_log_std_stays_in_its_bounds(self):
        found = bounded_log_std(torch.tensor([-100.0, 0.0, 100.0]), -5.0, 2.0)
        torch.testing.assert_close(found, torch.tensor([-5.0, -1.5, 2.0]))
