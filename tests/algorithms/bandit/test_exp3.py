"""EXP3: its estimates are unbiased, exactly; its regret keeps the bound of its paper where UCB's is linear."""

import copy
import math

import numpy as np
import pytest

from operant.algorithms.bandit import exp3, ucb
from operant.algorithms.bandit.exp3 import Config
from operant.bandits.choice import softmax
from operant.bandits.problems import adversarial, bernoulli
from operant.bandits.worlds import Adversarial


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_estimates_are_unbiased_by_exact_expectation(rng):
    config, reward = Config(gamma=0.2), rng.random(4)
    state = exp3.init(bernoulli(1, 4, rng), config)
    state.gain = rng.random((1, 4)) * 30
    before = state.gain.copy()
    exp3.choose(state, config)
    expected = np.zeros(4)
    for arm in range(4):
        after = copy.deepcopy(state)
        exp3.update(after, config, np.array([arm]), reward[[arm]])
        expected += state.policy[0, arm] * (after.gain - before)[0]
    np.testing.assert_allclose(expected, reward, rtol=1e-12)


def test_the_policy_is_that_of_the_paper(rng):
    """Weights multiplied by exp(γ x̂ / K) after every step, and γ / K for everyone."""
    gamma, weight = 0.15, np.ones(3)
    config = Config(gamma)
    state = exp3.init(bernoulli(1, 3, rng), config)
    for _ in range(40):
        arm = exp3.choose(state, config)
        expected = (1 - gamma) * weight / weight.sum() + gamma / 3
        np.testing.assert_allclose(state.policy[0], expected, rtol=1e-10)
        reward = rng.random(1)
        exp3.update(state, config, arm, reward)
        weight[arm[0]] *= math.exp(gamma * reward[0] / expected[arm[0]] / 3)


def test_no_arm_is_ever_ruled_out(rng):
    state = exp3.init(bernoulli(2, 4, rng), Config(0.1))
    state.gain[:, 0] = 1e7
    exp3.choose(state, Config(0.1))
    assert state.policy.min() == pytest.approx(0.1 / 4)
    assert state.policy.sum(1) == pytest.approx(1)


def test_without_gamma_it_is_tuned_to_the_steps_so_far(rng):
    state = exp3.init(bernoulli(1, 4, rng), Config())
    state.gain, state.step = rng.random((1, 4)) * 30, 99
    exp3.choose(state, Config())
    gamma = math.sqrt(4 * math.log(4) / ((math.e - 1) * 100))
    np.testing.assert_allclose(state.policy, (1 - gamma) * softmax(gamma / 4 * state.gain) + gamma / 4)
    assert exp3.tuned(10, 1) == 1


def test_regret_against_an_adversary():
    """Below 2.63 sqrt(T K ln K), on tables that leave UCB nothing and on ones where an arm wakes up late."""
    steps, arms, runs = 2000, 4, 50

    def regret(module, config, world: Adversarial) -> float:
        (metrics,) = module.train(module.init(world, config, 1), config, steps, steps)
        return metrics["bandit/regret"]

    def learn(world):
        return ucb.train(ucb.init(world, ucb.Config()), ucb.Config(), steps)

    def against_ucb():
        return adversarial(runs, arms, np.random.default_rng(0), learn)

    sleeper = np.full((steps, arms), 0.5)
    sleeper[:, 0] = np.arange(steps) >= 0.4 * steps
    bound = 2 * math.sqrt(math.e - 1) * math.sqrt(steps * arms * math.log(arms))
    tuned = Config(exp3.tuned(arms, steps))
    assert regret(ucb, ucb.Config(), against_ucb()) > 2 * bound
    for config in (tuned, Config()):
        assert regret(exp3, config, against_ucb()) < bound
        assert regret(exp3, config, Adversarial(sleeper, runs, np.random.default_rng(0))) < bound
