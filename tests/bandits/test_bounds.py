"""Divergences against their definition, the bound of Lai and Robbins against values computed by hand."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from operant.bandits.bounds import bernoulli_kl, gaussian_kl, lai_robbins, slope
from operant.bandits.problems import bernoulli, random_walk
from operant.bandits.worlds import Bernoulli, Gaussian


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("p", "q"), [(0.2, 0.7), (0.9, 0.9), (1e-6, 0.5)])
def test_bernoulli_divergence_is_the_mean_log_ratio(p, q):
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert bernoulli_kl(p, q) == pytest.approx(expected, rel=1e-12)


def test_bernoulli_divergence_at_the_edges():
    assert bernoulli_kl(0.0, 0.0) == bernoulli_kl(1.0, 1.0) == 0.0
    assert bernoulli_kl(0.0, 0.5) == bernoulli_kl(1.0, 0.5) == pytest.approx(math.log(2))
    assert bernoulli_kl(0.5, 0.0) == bernoulli_kl(0.5, 1.0) == bernoulli_kl(0.0, 1.0) == math.inf


def test_gaussian_divergence_is_an_integral():
    p, q = norm(0.3, 1.5), norm(-0.6, 1.5)
    expected = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -20, 20)[0]
    assert gaussian_kl(0.3, -0.6, 1.5) == pytest.approx(expected, rel=1e-9)


def test_divergences_are_above_their_lower_bound():
    p, q = np.random.default_rng(0).random((2, 1000))
    assert all(bernoulli_kl(a, b) >= gaussian_kl(a, b, 0.5) for a, b in zip(p.tolist(), q.tolist(), strict=True))


def test_the_bound_by_hand(rng):
    # kl(1/2, 3/4) = 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3), so C = (1/4) / (1/2 ln(4/3)) for each such arm
    world = Bernoulli(np.array([[0.75, 0.5, 0.5], [0.75, 0.5, 0.75]]), rng)
    one = 0.25 / (0.5 * math.log(4 / 3))
    assert lai_robbins(world) == pytest.approx((2 * one + one) / 2)
    # gap / (gap² / 2σ²) = 2σ² / gap: 2 + 1 with σ = 1, four times that with σ = 2
    assert lai_robbins(Gaussian(np.array([[3.0, 2.0, 1.0]]), rng)) == pytest.approx(3)
    assert lai_robbins(Gaussian(np.array([[3.0, 2.0, 1.0]]), rng, 2.0)) == pytest.approx(12)


def test_arms_that_are_all_best_cost_nothing_and_an_impossible_confusion_neither():
    assert slope(np.array([0.4, 0.4]), bernoulli_kl) == 0
    assert slope(np.array([1.0, 0.4]), bernoulli_kl) == 0


def test_only_stationary_worlds_have_it(rng):
    assert lai_robbins(random_walk(2, 3, rng)) is None
    assert lai_robbins(Gaussian(np.array([[0.0, 1.0]]), rng, 0.0)) is None
    assert lai_robbins(bernoulli(2, 3, rng)) > 0
