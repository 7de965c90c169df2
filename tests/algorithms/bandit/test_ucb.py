"""UCB and KL-UCB: their indices solve their equations, and KL-UCB's regret grows as slowly as is possible."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from operant.algorithms.bandit import epsilon_greedy, kl_ucb, ucb
from operant.bandits.bounds import bernoulli_kl, lai_robbins
from operant.bandits.problems import adversarial, bernoulli
from operant.bandits.worlds import Bernoulli


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_ucb_takes_the_largest_index(rng):
    world = bernoulli(40, 6, rng)
    config = ucb.Config(c=0.7)
    state = ucb.init(world, config)
    for _ in ucb.train(state, config, 50):
        pass
    index = state.value + 0.7 * np.sqrt(math.log(51) / state.count)
    best = index.max(1)
    arm = ucb.choose(state, config)
    np.testing.assert_allclose(index[np.arange(40), arm], best, rtol=1e-12)
    np.testing.assert_allclose(state.doubt, 1 / np.sqrt(state.count))


@pytest.mark.parametrize("t", [3, 4, 7, 30, 500])
def test_the_clock_of_ucb_is_t(t):
    """In step t. Doubt grows faster for an arm tried once: below it wins from t - 1/2 on, above only from t + 1/2."""
    state = ucb.init(bernoulli(2, 2, np.random.default_rng(0)), ucb.Config(c=0.7), seed=1)
    state.step, state.count[...] = t - 1, (1, 9)
    state.doubt[...] = 1 / np.sqrt(state.count)
    for run, equal_at in enumerate((t - 0.5, t + 0.5)):
        state.value[run] = 0.0, 0.7 * (math.sqrt(math.log(equal_at)) - math.sqrt(math.log(equal_at) / 9))
    assert ucb.choose(state, ucb.Config(c=0.7)).tolist() == [0, 1]


@pytest.mark.parametrize("c", [0.0, 3.0])
@pytest.mark.parametrize("t", [4, 7, 30, 500])
def test_the_clock_of_kl_ucb_is_t(t, c):
    """In step t, likewise: the second arm's mean is that which makes both indices equal at t - 1/2 or t + 1/2."""
    state = kl_ucb.init(bernoulli(2, 2, np.random.default_rng(0)), kl_ucb.Config(c), seed=1)
    state.step, state.count[...] = t - 1, (4, 20)
    for run, equal_at in enumerate((t - 0.5, t + 0.5)):
        level = math.log(equal_at) + c * math.log(math.log(equal_at))
        index = brentq(lambda q, level=level: 4 * bernoulli_kl(0.2, q) - level, 0.2, 1 - 1e-12)
        equal = brentq(lambda p, level=level, q=index: 20 * bernoulli_kl(p, q) - level, 1e-12, index)
        state.value[run] = 0.2, equal
    assert kl_ucb.choose(state, kl_ucb.Config(c)).tolist() == [0, 1]


@pytest.mark.parametrize("module", [ucb, kl_ucb])
def test_every_arm_is_tried_first(module, rng):
    state = module.init(bernoulli(30, 7, rng), module.Config())
    for _ in module.train(state, module.Config(), 7, 1):
        pass
    assert (state.count == 1).all()


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.5, 0.97, 1 - 1e-9])
@pytest.mark.parametrize("level", [1e-9, 1e-3, 0.1, 1.0, 10.0, 30.0])
def test_the_index_of_kl_ucb_solves_its_equation(p, level):
    q = kl_ucb.upper(p, level)
    assert p <= q <= 1
    nearer, further = max(p, q - 1e-8), min(1.0, q + 1e-8)
    assert bernoulli_kl(p, nearer) <= level * (1 + 1e-9) + 1e-12
    assert further == 1 or bernoulli_kl(p, further) >= level * (1 - 1e-9)


def test_the_index_of_kl_ucb_at_its_limits():
    assert kl_ucb.upper(1.0, 0.5) == 1.0
    assert kl_ucb.upper(0.3, 0.0) == pytest.approx(0.3)
    assert kl_ucb.upper(0.0, 0.7) == pytest.approx(1 - math.exp(-0.7))  # kl(0, q) = -ln(1 - q)
    assert kl_ucb.upper(0.5, 100.0) == 1.0


def test_indices_that_are_cut_short_change_no_choice(rng):
    value, count = rng.random((200, 8)), rng.integers(1, 50, (200, 8)).astype(float)
    whole = np.vectorize(kl_ucb.upper)(value, 5.0 / count)
    short = kl_ucb.index(value, count, 5.0)
    assert (short.argmax(1) == whole.argmax(1)).all()
    assert (short.max(1) == whole.max(1)).all()
    assert (short >= whole - 1e-8).all()


def test_kl_ucb_nears_the_bound_of_lai_and_robbins_and_others_do_not():
    def share_of_bound(module, config, start: int, end: int) -> tuple[float, float]:
        """(regret, growth of regret), both over what the bound says of them."""
        world = Bernoulli(np.tile([0.9, 0.6, 0.6], (150, 1)), np.random.default_rng(1))
        metrics = module.train(module.init(world, config), config, end, start)
        found = {start * i: m["bandit/regret"] for i, m in enumerate(metrics, 1)}
        slope = lai_robbins(world)
        growth = found[end] - found[start]
        return found[end] / (slope * math.log(end)), growth / (slope * math.log(end / start))

    total, growth = share_of_bound(kl_ucb, kl_ucb.Config(), 1000, 10_000)
    assert 0.7 < total < 1.2
    assert 0.7 < growth < 1.8
    assert share_of_bound(ucb, ucb.Config(), 1000, 10_000)[0] > 3
    assert share_of_bound(epsilon_greedy, epsilon_greedy.Config(), 1000, 10_000)[0] > 3


@pytest.mark.parametrize("module", [ucb, kl_ucb])
def test_an_adversary_pays_it_nothing_once_it_has_tried_each_arm(module):
    config = module.Config()
    world = adversarial(
        20, 4, np.random.default_rng(0), lambda world: module.train(module.init(world, config), config, 300)
    )
    state = module.init(world, config, seed=5)
    (metrics,) = module.train(state, config, 300, 300)
    first = 1 / 2 + 7 / 16 + 3 / 8 + 5 / 16  # arm k is worth 1/2 - k/16 while each is tried once
    assert state.totals.reward.tolist() == [first] * 20
    assert metrics["bandit/regret"] > 0.7 * 300
