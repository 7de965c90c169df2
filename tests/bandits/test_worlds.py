"""Worlds pay what they say, know what was missed, and refuse what cannot be."""

import numpy as np
import pytest

from operant.bandits import problems
from operant.bandits.worlds import Abrupt, Adversarial, Bernoulli, Gaussian, Linear, RandomWalk, require
from operant.core.errors import InputError

R = 20_000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def everywhere(arm: int, runs: int = R) -> np.ndarray:
    return np.full(runs, arm)


def mean_of_means(world, arm: int) -> tuple[float, float]:
    reward, gap = world.pull(everywhere(arm))
    return float(reward.mean()), float(gap.mean())


@pytest.mark.parametrize("kind", [Bernoulli, Gaussian])
def test_arms_pay_their_mean_and_the_gap_is_exact(rng, kind):
    world = kind(np.tile([0.3, 0.8, 0.5], (R, 1)), rng)
    for arm, mean in enumerate((0.3, 0.8, 0.5)):
        reward, gap = world.pull(everywhere(arm))
        assert reward.mean() == pytest.approx(mean, abs=4 / np.sqrt(R))
        np.testing.assert_allclose(gap, 0.8 - mean)
    assert reward.std() == pytest.approx(0.5 if kind is Bernoulli else 1.0, rel=0.03)


def test_the_gap_is_that_of_the_arm_pulled_in_each_run(rng):
    world = problems.gaussian(50, 6, rng)
    arm = rng.integers(0, 6, 50)
    expected = [row.max() - row[k] for row, k in zip(world.mean, arm, strict=True)]
    np.testing.assert_allclose(world.pull(arm)[1], expected)


def test_a_random_walk_moves_by_its_step(rng):
    world = RandomWalk(np.zeros((R, 3)), rng, walk=0.1)
    for _ in range(9):
        world.advance()
    assert world.mean.std() == pytest.approx(0.3, rel=0.02)
    assert world.pull(everywhere(2))[1].min() >= 0


def test_the_means_that_are_given_stay_as_they_are(rng):
    given = np.zeros((2, 2))
    RandomWalk(given, rng).advance()
    assert not given.any()


def test_abrupt_changes_come_at_their_steps(rng):
    mean = np.stack([np.tile(row, (R, 1)) for row in ([1.0, 0.0], [0.0, 1.0])])
    world, paid = Abrupt(mean, np.array([0, 3]), rng), []
    for _ in range(5):
        paid.append(mean_of_means(world, 0))
        world.advance()
    assert paid == [(1.0, 0.0)] * 3 + [(0.0, 1.0)] * 2


def test_a_table_pays_its_rows_and_regret_is_to_the_best_column(rng):
    table = np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 1.0]])
    world, found = Adversarial(table, 2, rng), []
    for _ in table:
        found.append([x.tolist() for x in world.pull(np.array([0, 1]))])
        world.advance()
    assert found == [[[1, 0], [-1, 0]], [[0, 0.5], [0.5, 0]], [[0, 1], [1, 0]]]
    with pytest.raises(InputError, match="the table of rewards has 3 steps, and step 4 was asked for"):
        world.pull(np.array([0, 1]))


@pytest.mark.parametrize("make", [problems.linear, problems.disjoint])
def test_linear_arms_pay_the_product_of_features_and_weights(rng, make):
    world = make(4, 3, rng)
    for _ in range(3):
        means = np.empty((4, 3))
        for r in range(4):
            for k in range(3):
                x = world.context[r, k if world.context.shape[1] > 1 else 0]
                means[r, k] = x @ world.theta[r, k if world.theta.shape[1] > 1 else 0]
        arm = rng.integers(0, 3, 4)
        reward, gap = world.pull(arm)
        np.testing.assert_allclose(gap, means.max(1) - means[np.arange(4), arm])
        assert np.abs(reward - means[np.arange(4), arm]).max() < 0.6
        world.advance()


def test_the_adversary_leaves_an_algorithm_without_chance_nothing(rng):
    def first_of_two(world):
        for t in range(20):
            world.pull(np.array([t % 4]))
            world.advance()
            yield t

    world = problems.adversarial(3, 4, rng, first_of_two)
    assert world.table.shape == (20, 4)
    assert len(set(world.table[0])) == 4
    assert (world.table[:4] == world.table[0]).all()
    for t in range(4, 20):
        assert world.table[t].tolist() == [float(k != t % 4) for k in range(4)]


def test_what_worlds_pay_is_known(rng):
    kinds = {
        "binary": [problems.bernoulli(2, 2, rng), problems.abrupt(2, 2, rng, 9), Adversarial(np.eye(2), 2, rng)],
        "unit": [Adversarial(np.full((3, 2), 0.5), 2, rng)],
        "real": [problems.gaussian(2, 2, rng), problems.random_walk(2, 2, rng), problems.linear(2, 2, rng)],
    }
    for rewards, worlds in kinds.items():
        assert {world.rewards for world in worlds} == {rewards}
    require(kinds["binary"][0], "a", "unit")
    with pytest.raises(InputError, match="a is for rewards of 0 or 1, and this world pays numbers from 0 to 1"):
        require(kinds["unit"][0], "a", "binary")


BAD = {
    "the shape (3,); it is [runs, arms]": lambda rng: Bernoulli(np.zeros(3), rng),
    "mean has 1 arm: a bandit has at least 2": lambda rng: Gaussian(np.zeros((3, 1)), rng),
    "mean[1, 0] is nan: give finite numbers": lambda rng: Gaussian(np.array([[0, 1], [np.nan, 0]]), rng),
    "the probability at [0, 1] is 1.5: give numbers from 0 to 1": lambda rng: Bernoulli(np.array([[0, 1.5]]), rng),
    "the reward at [1, 0] is -0.1": lambda rng: Adversarial(np.array([[0, 1], [-0.1, 0]]), 2, rng),
    "a standard deviation is -1.0": lambda rng: Gaussian(np.zeros((3, 2)), rng, -1.0),
    "start is [1, 3]: give 2 steps that rise from 0": lambda rng: Abrupt(np.zeros((2, 1, 2)), np.array([1, 3]), rng),
    "changes is 9: give a whole number from 0 to 8": lambda rng: problems.abrupt(2, 2, rng, 9, 9),
    "theta has the shape (2, 3, 4); with 5 arms its middle is 1": lambda rng: Linear(np.zeros((2, 3, 4)), 5, rng),
    "arms is 1: a bandit has at least 2": lambda rng: problems.linear(2, 1, rng),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_is_refused(rng, message):
    with pytest.raises(InputError) as error:
        BAD[message](rng)
    assert message in str(error.value)
