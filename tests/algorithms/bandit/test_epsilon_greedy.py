"""ε-greedy: estimates are means, exploration is ε, and without it an early mistake is for ever."""

import numpy as np
import pytest

from operant.algorithms.bandit import epsilon_greedy
from operant.algorithms.bandit.epsilon_greedy import Config
from operant.bandits.problems import abrupt, bernoulli
from operant.bandits.worlds import Bernoulli


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_sample_averages_are_means_and_constant_steps_are_weighted_ones(rng):
    arms, rewards = rng.integers(0, 3, (50, 4)), rng.standard_normal((50, 4))
    mean, constant = (epsilon_greedy.init(bernoulli(4, 3, rng), config) for config in (Config(), Config(initial=2.0)))
    for arm, reward in zip(arms, rewards, strict=True):
        epsilon_greedy.update(mean, Config(), arm, reward)
        epsilon_greedy.update(constant, Config(step_size=0.3), arm, reward)
    for r in range(4):
        for k in range(3):
            seen = rewards[arms[:, r] == k, r]
            assert mean.value[r, k] == pytest.approx(seen.mean())
            assert mean.count[r, k] == len(seen)
            weights = 0.3 * 0.7 ** np.arange(len(seen))[::-1]  # eq. 2.6
            assert constant.value[r, k] == pytest.approx(0.7 ** len(seen) * 2.0 + weights @ seen)


@pytest.mark.parametrize(("step", "decay", "epsilon"), [(0, 0.0, 0.3), (9, 0.0, 0.3), (9, 1.0, 0.03)])
def test_other_arms_are_drawn_as_often_as_epsilon_says(rng, step, decay, epsilon):
    config = Config(epsilon=0.3, decay=decay)
    state = epsilon_greedy.init(bernoulli(100_000, 5, rng), config)
    state.value[:, 2], state.step = 1.0, step
    share = np.bincount(epsilon_greedy.choose(state, config), minlength=5) / 100_000
    expected = np.full(5, epsilon / 5)
    expected[2] += 1 - epsilon
    np.testing.assert_allclose(share, expected, atol=0.006)


@pytest.mark.parametrize("step", [0, 1, 9])
@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_each_choice_is_that_of_the_definition(rng, step, decay):
    """In step t = `step` + 1, ε / (1 + decay (t - 1)), run by run on the same two draws."""
    config = Config(epsilon=0.8, decay=decay)
    state = epsilon_greedy.init(bernoulli(20_000, 5, rng), config, seed=3)
    state.value, state.step = rng.random((20_000, 5)), step
    same, t = np.random.default_rng(3), step + 1
    explore, which = same.random(20_000), same.random(20_000)
    due = [
        int(5 * which[r]) if explore[r] < 0.8 / (1 + decay * (t - 1)) else int(state.value[r].argmax())
        for r in range(20_000)
    ]
    assert epsilon_greedy.choose(state, config).tolist() == due


def test_greedy_is_caught_by_an_early_mistake_that_optimism_mends(rng):
    def optimal(config: Config) -> float:
        world = Bernoulli(np.tile([0.3, 0.7], (500, 1)), np.random.default_rng(1))
        *_, last = epsilon_greedy.train(epsilon_greedy.init(world, config), config, 500, 100)
        return last["bandit/optimal_action"]

    assert optimal(Config(epsilon=0.0)) < 0.8
    assert optimal(Config(epsilon=0.0, initial=2.0, step_size=0.1)) > 0.9
    assert optimal(Config(epsilon=1.0, decay=0.3)) > 0.9


def test_a_constant_step_size_follows_a_world_that_changes_and_a_mean_does_not():
    def late_regret(step_size: float | None) -> float:
        config = Config(step_size=step_size)
        world = abrupt(300, 5, np.random.default_rng(1), 2000, 1)
        state = epsilon_greedy.init(world, config)
        half, end = (m["bandit/regret"] for m in epsilon_greedy.train(state, config, 2000, 1000))
        return end - half

    assert late_regret(0.1) < 0.8 * late_regret(None)
