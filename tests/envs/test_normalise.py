"""Statistics against NumPy's over everything seen, and rewards against the definition at both kinds of ends."""

import numpy as np
import pytest

from operant.core.record import Evaluation
from operant.envs.normalise import Moments, ObservationNormalizer, RewardNormalizer
from operant.envs.runner import Runner
from operant.networks.actor_critic import ActorCritic
from tests.envs.test_runner import MODES, TERMINATES, TRUNCATES, Scripted, in_mode

RNG = np.random.default_rng(0)


def test_moments_do_not_depend_on_the_batches():
    x = RNG.normal(5, 3, (100, 4))
    whole, parts = Moments((4,)), Moments((4,))
    whole.update(x)
    for part in np.split(x, [1, 2, 2, 30, 99]):
        parts.update(part)
    for moments in (whole, parts):
        np.testing.assert_allclose(moments.mean, x.mean(0))
        np.testing.assert_allclose(moments.variance, x.var(0))
        assert moments.count == 100


def test_moments_keep_their_digits_far_from_0():
    moments = Moments(())
    for _ in range(100):
        moments.update(1e8 + RNG.normal(0, 1, 50))
    assert abs(moments.variance - 1) < 0.1


class TestObservations:
    def test_have_mean_0_and_deviation_1_and_are_clipped(self):
        normalise, x = ObservationNormalizer((3,)), RNG.normal(100, 5, (5000, 3))
        found = normalise(x)
        np.testing.assert_allclose((found.mean(0), found.std(0)), ([0] * 3, [1] * 3), atol=1e-5)
        assert normalise(np.full((1, 3), 1e6)).tolist() == [[10] * 3]

    def test_a_frozen_one_uses_what_is_learned_and_adds_nothing(self):
        learning = ObservationNormalizer((2,))
        frozen = learning.frozen()
        learning(RNG.normal(7, 2, (50, 2)))
        before = learning.state_dict()
        x = RNG.normal(-3, 1, (20, 2))
        np.testing.assert_allclose(frozen(x), ((x - before["mean"]) / before["variance"] ** 0.5).clip(-10, 10), 1e-5)
        assert learning.moments.count == 50

    @pytest.mark.parametrize("mode", MODES)
    def test_a_runner_counts_every_observation_once_in_every_mode(self, mode):
        """Also the true last ones of episodes that were reset in the same step."""
        normalise = ObservationNormalizer((2,))
        runner = in_mode(mode, (3, False), observations=normalise)
        runner.rollout(Always(), 8 if mode.name == "NEXT_STEP" else 6)
        # Two whole episodes and the first observation of the third; NEXT_STEP needs a step of its own for each reset.
        seen = np.array([0, 1, 2, 3] * 2 + [0])
        assert normalise.moments.count == 9
        np.testing.assert_allclose(normalise.moments.mean, [0, seen.mean()])
        np.testing.assert_allclose(normalise.moments.variance, [0, seen.var()])


class Always(Scripted):
    """Takes the action 0, whatever it sees."""

    def act(self, observation, state=None, greedy=False):
        action, log_prob, value, state = super().act(observation, state, greedy)
        return action * 0, log_prob, value, state

    def evaluate(self, observation, action) -> Evaluation:
        raise NotImplementedError


class TestRewards:
    def test_are_divided_by_the_deviation_of_returns_that_begin_anew_after_every_end(self):
        rewards = RNG.normal(1, 2, (40, 3))
        done = RNG.random((40, 3)) < 0.2
        normalise, returns, running = RewardNormalizer(3, 0.9), [], np.zeros(3)
        everywhere = np.ones(3, dtype=bool)
        for reward, end in zip(rewards, done, strict=True):
            found = normalise(reward, end, everywhere)
            running = 0.9 * running + reward
            returns.append(running)
            running = np.where(end, 0.0, running)
            np.testing.assert_allclose(found, (reward / np.sqrt(np.var(returns) + 1e-8)).clip(-10, 10))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("end", [TERMINATES, TRUNCATES], ids=["terminated", "truncated"])
    def test_both_kinds_of_ends_cut_the_return_in_every_mode(self, mode, end):
        length = end[0]
        normalise = RewardNormalizer(1, 0.9)
        runner = in_mode(mode, end, rewards=normalise)
        t = runner.rollout(Always(), 3 * length + (2 if mode.name == "NEXT_STEP" else 0))
        episode = [sum(0.9 ** (k - i) * 10 * i for i in range(1, k + 1)) for k in range(1, length + 1)]
        assert normalise.moments.count == 3 * length
        np.testing.assert_allclose(normalise.moments.variance, np.var(episode * 3))
        np.testing.assert_allclose(normalise.moments.mean, np.mean(episode))
        # What is recorded is normalised; what an episode returned is not.
        np.testing.assert_allclose(t.reward[0, -1], 10 * length / np.std(episode * 3), rtol=1e-5)
        assert runner.pop_returns() == [sum(range(10, 10 * length + 1, 10))] * 3

    def test_are_clipped(self):
        normalise, one, none = RewardNormalizer(1, 0.0), np.array([True]), np.array([False])
        for reward in [1.0, -1.0] * 5000:
            normalise(np.array([reward]), none, one)
        found = [normalise(np.array([reward]), none, one).item() for reward in (5.0, 50.0, -50.0)]
        assert found[0] == pytest.approx(5, rel=0.01)
        assert found[1:] == [10, -10]


def test_evaluation_changes_no_statistics():
    learning = ObservationNormalizer((4,))
    policy = ActorCritic(4, 2)
    Runner("CartPole-v1", envs=2, observations=learning).rollout(policy, 30)
    before = learning.state_dict()
    t = Runner("CartPole-v1", envs=2, seed=9, observations=learning.frozen()).rollout(policy, 30, greedy=True)
    np.testing.assert_equal(learning.state_dict(), before)
    raw = Runner("CartPole-v1", envs=2, seed=9).observation
    due = (raw - before["mean"]) / np.sqrt(before["variance"] + 1e-8)
    np.testing.assert_allclose(t.observation[:, 0], due.clip(-10, 10), rtol=1e-4)
