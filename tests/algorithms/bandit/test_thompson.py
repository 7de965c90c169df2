"""Thompson sampling: posteriors are Bayes' rule, and arms are drawn as often as they are believed to be best."""

import numpy as np
import pytest
from scipy.stats import beta, norm

from operant.algorithms.bandit import thompson
from operant.algorithms.bandit.thompson import Config
from operant.bandits.problems import bernoulli, gaussian


def posterior_on_grid(grid: np.ndarray, prior: np.ndarray, likelihood: np.ndarray) -> tuple[float, float]:
    """(mean, deviation) by Bayes' rule."""
    weight = prior * likelihood
    weight /= weight.sum()
    mean = float(weight @ grid)
    return mean, float(np.sqrt(weight @ (grid - mean) ** 2))


def test_the_beta_posterior_is_bayes_rule():
    config = Config(alpha=2.0, beta=3.5)
    a, b = thompson.beta_posterior(np.array([[7.0]]), np.array([[5.0]]), config)
    p = (np.arange(200_000) + 0.5) / 200_000
    mean, deviation = posterior_on_grid(p, beta(2.0, 3.5).pdf(p), p**5 * (1 - p) ** 2)
    assert float(beta(a, b).mean()[0, 0]) == pytest.approx(mean, rel=1e-6)
    assert float(beta(a, b).std()[0, 0]) == pytest.approx(deviation, rel=1e-6)


def test_the_gaussian_posterior_is_bayes_rule():
    config, rewards = Config(prior_mean=1.0, prior_deviation=0.7, deviation=2.0), np.array([0.5, -3.0, 2.5])
    mean, deviation = thompson.gaussian_posterior(np.array([[3.0]]), np.array([[rewards.sum()]]), config)
    mu = np.linspace(-8, 8, 200_001)
    likelihood = norm(mu[:, None], 2.0).pdf(rewards).prod(1)
    expected = posterior_on_grid(mu, norm(1.0, 0.7).pdf(mu), likelihood)
    assert (float(mean[0, 0]), float(deviation[0, 0])) == pytest.approx(expected, rel=1e-6)


def test_counts_and_totals_are_what_was_seen():
    rng = np.random.default_rng(0)
    state = thompson.init(bernoulli(3, 4, rng), Config())
    for _ in range(30):
        thompson.update(state, Config(), np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0]))
    assert state.count.tolist() == [[30, 0, 0, 0], [0, 30, 0, 0], [0, 30, 0, 0]]
    assert state.total.tolist() == [[30, 0, 0, 0], [0, 0, 0, 0], [0, 30, 0, 0]]


@pytest.mark.parametrize("make", [bernoulli, gaussian])
def test_an_arm_is_drawn_as_often_as_it_is_believed_to_be_best(make):
    runs = 50_000
    state = thompson.init(make(runs, 2, np.random.default_rng(0)), Config())
    state.count[:], state.total[:] = [4.0, 9.0], [3.0, 5.0]
    share = thompson.choose(state, Config()).mean()
    if make is bernoulli:
        grid = (np.arange(20_000) + 0.5) / 20_000
        expected = float((beta(6, 5).pdf(grid) * beta(4, 2).cdf(grid)).mean())
    else:
        means, deviations = thompson.gaussian_posterior(state.count[:1], state.total[:1], Config())
        difference = means[0, 1] - means[0, 0]
        expected = float(norm.cdf(difference / np.sqrt((deviations**2).sum())))
    assert share == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(runs))
