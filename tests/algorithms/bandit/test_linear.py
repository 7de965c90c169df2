"""LinUCB and linear Thompson sampling: their formulas, and that contexts are what they live on."""

import numpy as np
import pytest
from scipy.stats import norm

from operant.algorithms.bandit import linear_thompson, linucb, ucb
from operant.bandits.problems import disjoint, linear


@pytest.mark.parametrize("make", [linear, disjoint])
def test_linucb_takes_the_largest_index(make):
    world, config = make(6, 4, np.random.default_rng(0), 3), linucb.Config(alpha=0.8, ridge=0.5)
    state = linucb.init(world, config)
    for _ in linucb.train(state, config, 30):
        pass
    arm, x = linucb.choose(state, config), world.context
    for r in range(6):
        index = []
        for k in range(4):
            m, f = k % state.ridge.theta.shape[1], x[r, k % x.shape[1]]
            theta = state.ridge.inverse[r, m] @ state.ridge.moment[r, m]
            index.append(f @ theta + 0.8 * np.sqrt(f @ state.ridge.inverse[r, m] @ f))
        assert arm[r] == np.argmax(index)


@pytest.mark.parametrize("make", [linear, disjoint])
def test_draws_of_the_weights_have_the_covariance_of_the_posterior(make):
    world, config = make(3, 4, np.random.default_rng(0), 3), linear_thompson.Config(v=0.7)
    state = linear_thompson.init(world, config)
    for _ in linear_thompson.train(state, config, 50):
        pass
    np.testing.assert_allclose(state.root @ state.root.swapaxes(-1, -2), state.ridge.inverse, atol=1e-12)


def test_draws_decide_as_often_as_the_posterior_says():
    runs, v = 40_000, 0.7
    world = linear(runs, 2, np.random.default_rng(0), 2)
    state = linear_thompson.init(world, linear_thompson.Config(v=v, ridge=2.0))
    world.context = np.tile([[1.0, 0.0], [0.0, 2.0]], (runs, 1, 1))
    state.ridge.theta[:] = [0.3, 0.1]
    # x·θ of the two arms: N(0.3, v²/2) and N(0.2, 4 v²/2), independent since A is diagonal
    expected = norm.cdf((0.2 - 0.3) / (v * np.sqrt(0.5 + 2.0)))
    share = linear_thompson.choose(state, linear_thompson.Config(v=v, ridge=2.0)).mean()
    assert share == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(runs))


def test_without_its_contexts_an_algorithm_does_not_learn_this_world():
    def regret(module) -> float:
        world = linear(100, 10, np.random.default_rng(0))
        (metrics,) = module.train(module.init(world, module.Config()), module.Config(), 300, 300)
        return metrics["bandit/regret"]

    assert regret(linucb) < 10
    assert regret(linear_thompson) < 20
    assert regret(ucb) > 150
