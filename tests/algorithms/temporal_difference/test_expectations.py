"""Exact expectations: the probability of every trajectory times the estimate that it gives, summed.

Where an estimator is unbiased the sum is the value; where it is biased the sum is off by what theory says.
"""

import dataclasses

import numpy as np
import pytest

from operant.algorithms.temporal_difference import (
    lambda_return,
    monte_carlo,
    off_policy_monte_carlo,
    off_policy_td,
    td,
)
from operant.mdp.chain import policy_reward_process
from operant.mdp.model import from_transitions

from .worlds import BEHAVIOUR, TARGET, Trajectory, learn_all, returning, trajectories

GAMMA = 0.9
MODEL = returning(GAMMA)
V_TARGET = policy_reward_process(MODEL, TARGET).value()
V_BEHAVIOUR = policy_reward_process(MODEL, BEHAVIOUR).value()
WRONG = np.array([0.7, -1.5, 0.0])
"""Values to start from that are those of no policy."""


def all_of(policy, **more) -> list[tuple[float, Trajectory]]:
    return list(trajectories(MODEL, policy, 0, **more))


def expected(module, config, found, *policies, w=None) -> np.ndarray:
    """[S]: the mean of the values after one episode, over all episodes."""
    total = np.zeros(3)
    for p, path in found:
        total += p * learn_all(module, config, [path], *policies, states=3, gamma=GAMMA, w=w).w[:, 0]
    return total


@pytest.fixture(scope="module")
def of_target():
    return all_of(TARGET)


@pytest.fixture(scope="module")
def of_behaviour():
    return all_of(BEHAVIOUR)


def visits(found, s, first=False) -> float:
    """Expected visits to a state in an episode, or the chance of any."""
    times = ((p, sum(step.state == s for step in path)) for p, path in found)
    return sum(p * (min(n, 1) if first else n) for p, n in times)


def test_the_trajectories_are_all_there_are(of_target, of_behaviour):
    for found in (of_target, of_behaviour):
        assert sum(p for p, _ in found) == pytest.approx(1, abs=1e-8)
        assert len({path for _, path in found}) == len(found) > 200
        assert max(len(path) for _, path in found) > 7
    assert V_TARGET[0] != pytest.approx(V_BEHAVIOUR[0], abs=0.1)


class TestMonteCarlo:
    def test_the_mean_of_first_visits_is_unbiased(self, of_target):
        config = monte_carlo.Config(visits="first")
        assert expected(monte_carlo, config, of_target, TARGET)[0] == pytest.approx(V_TARGET[0], abs=1e-7)

    def test_so_it_is_over_two_episodes(self):
        found = all_of(TARGET, least=2e-4)
        weight = sum(p for p, _ in found)
        config, total = monte_carlo.Config(visits="first"), 0.0
        for p, one in found:
            for q, two in found:
                total += p * q * learn_all(monte_carlo, config, [one, two], TARGET, states=3, gamma=GAMMA).w[0, 0]
        single = expected(monte_carlo, config, found, TARGET)[0]
        assert total == pytest.approx(single * weight, abs=1e-9)
        assert total == pytest.approx(V_TARGET[0], abs=0.02)

    @pytest.mark.parametrize("stay", [0.05, 0.2])
    def test_the_mean_of_all_visits_is_biased_as_singh_and_sutton_say(self, stay):
        """A state that pays r and stays with probability p, or pays z and ends; no discount.

        After one episode first visits have the mean z + p / (1 - p) r, every visit z + p / 2 (1 - p) r (Singh and
        Sutton 1996, section 3.3).
        """
        loop = from_transitions([0, 0], [0, 0], [0, 1], [stay, 1 - stay], [3.0, 5.0], 1.0, ends=[1])
        found = list(trajectories(loop, np.ones((2, 1)), 0, least=1e-14))
        means = {}
        for which in ("first", "every"):
            config = monte_carlo.Config(visits=which)
            means[which] = sum(
                p * learn_all(monte_carlo, config, [path], np.ones((2, 1)), states=2, gamma=1.0).w[0, 0]
                for p, path in found
            )
        assert means["first"] == pytest.approx(5 + stay / (1 - stay) * 3)
        assert means["every"] == pytest.approx(5 + stay / (2 * (1 - stay)) * 3)

    def test_a_constant_step_goes_a_part_of_the_way(self, of_target):
        """From v, by α for each first visit. Every-visit steps are taken one after the other, and go further."""
        moved = expected(monte_carlo, monte_carlo.Config(alpha=0.25, visits="first"), of_target, TARGET, w=WRONG)
        for s in (0, 1):
            reached = visits(of_target, s, first=True)
            assert moved[s] - WRONG[s] == pytest.approx(0.25 * reached * (V_TARGET[s] - WRONG[s]), abs=1e-7)
        every = expected(monte_carlo, monte_carlo.Config(alpha=0.25), of_target, TARGET, w=WRONG)
        assert abs(every[0] - moved[0]) > 0.001


class TestImportanceSampling:
    """Values of TARGET from episodes of BEHAVIOUR."""

    def estimate(self, found, **settings):
        config = off_policy_monte_carlo.Config(**{"visits": "first", **settings})
        return expected(off_policy_monte_carlo, config, found, TARGET, BEHAVIOUR)[0]

    @pytest.mark.parametrize("sampling", ["ordinary", "per_decision"])
    def test_ratios_on_returns_and_on_rewards_are_unbiased(self, of_behaviour, sampling):
        assert self.estimate(of_behaviour, sampling=sampling) == pytest.approx(V_TARGET[0], abs=1e-6)

    @pytest.mark.parametrize("sampling", ["ordinary", "per_decision"])
    def test_every_visit_has_a_bias(self, of_behaviour, sampling):
        assert abs(self.estimate(of_behaviour, sampling=sampling, visits="every") - V_TARGET[0]) > 0.001

    def test_the_weighted_mean_of_one_episode_is_its_return_whatever_the_policy(self, of_behaviour):
        """Its bias after one episode is v_b - v_π, all there is between the two policies."""
        assert self.estimate(of_behaviour, sampling="weighted") == pytest.approx(V_BEHAVIOUR[0], abs=1e-7)

    def test_the_bias_of_the_weighted_mean_shrinks_with_episodes(self):
        found = all_of(BEHAVIOUR, least=2e-3)
        bias, config = [], off_policy_monte_carlo.Config(visits="first")
        total = weight = 0.0
        for p, one in found:
            for q, two in found:
                state = learn_all(off_policy_monte_carlo, config, [one, two], TARGET, BEHAVIOUR, states=3, gamma=GAMMA)
                total, weight = total + p * q * state.w[0, 0], weight + p * q
        bias = total / weight - V_TARGET[0]
        assert abs(bias) < 0.8 * abs(V_BEHAVIOUR[0] - V_TARGET[0])

    def test_ratios_on_rewards_vary_less_than_on_returns(self, of_behaviour):
        spread = {}
        for sampling in ("ordinary", "per_decision", "weighted"):
            config = off_policy_monte_carlo.Config(visits="first", sampling=sampling)
            spread[sampling] = sum(
                p * (learn_all(off_policy_monte_carlo, config, [path], TARGET, BEHAVIOUR, states=3).w[0, 0] - mean) ** 2
                for mean in [V_BEHAVIOUR[0] if sampling == "weighted" else V_TARGET[0]]
                for p, path in of_behaviour
            )
        assert spread["weighted"] < spread["per_decision"] < spread["ordinary"]

    def test_without_ratios_it_would_be_the_value_of_the_other_policy(self, of_behaviour):
        """What a broken twin gives that forgets them."""
        config = off_policy_monte_carlo.Config(visits="first", sampling="ordinary")
        blind = expected(off_policy_monte_carlo, config, of_behaviour, BEHAVIOUR, BEHAVIOUR)[0]
        assert blind == pytest.approx(V_BEHAVIOUR[0], abs=1e-7)


class TestTD:
    """Steps so short that an episode's updates see the values of its beginning, divided by their length."""

    alpha = 1e-7

    def change(self, module, config, found, *policies):
        config = dataclasses.replace(config, alpha=self.alpha)
        return (expected(module, config, found, *policies, w=WRONG) - WRONG * sum(p for p, _ in found)) / self.alpha

    def test_td_moves_each_value_by_its_bellman_error_for_each_visit(self, of_target):
        process = policy_reward_process(MODEL, TARGET)
        error = process.reward + GAMMA * process.chain.transition @ WRONG - WRONG
        due = [visits(of_target, s) * error[s] for s in (0, 1)]
        np.testing.assert_allclose(self.change(td, td.Config(), of_target, TARGET)[:2], due, atol=1e-5)

    @pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
    def test_off_policy_td_moves_towards_the_values_of_the_target_policy(self, of_behaviour, lambda_):
        """Ratio on the TD error with its trace: E[Σ δ z](s) = visits (T^λ v - v)(s), T^λ that of the target policy."""
        process = policy_reward_process(MODEL, TARGET)
        p = GAMMA * process.chain.transition.toarray()[:2, :2]
        error = (process.reward + GAMMA * process.chain.transition @ WRONG - WRONG)[:2]
        due = np.linalg.solve(np.eye(2) - lambda_ * p, error)
        if lambda_ == 1:
            np.testing.assert_allclose(due, (V_TARGET - WRONG)[:2])
        due *= [visits(of_behaviour, s) for s in (0, 1)]
        config = off_policy_td.Config(lambda_=lambda_)
        np.testing.assert_allclose(
            self.change(off_policy_td, config, of_behaviour, TARGET, BEHAVIOUR)[:2], due, atol=1e-4
        )

    def test_without_ratios_it_moves_towards_the_other_policy(self, of_behaviour):
        config = off_policy_td.Config(lambda_=1.0)
        due = [visits(of_behaviour, s) * (V_BEHAVIOUR - WRONG)[s] for s in (0, 1)]
        blind = self.change(off_policy_td, config, of_behaviour, BEHAVIOUR, BEHAVIOUR)[:2]
        np.testing.assert_allclose(blind, due, atol=1e-4)


class TestTimeLimit:
    """Episodes that are cut off after two steps. The values are right: nothing may change in the mean."""

    def mean(self, module, config, found, *policies):
        return expected(module, config, found, *policies, w=V_TARGET)[:2]

    @pytest.mark.parametrize(
        ("module", "config"),
        [
            (td, td.Config(alpha=0.5)),
            (monte_carlo, monte_carlo.Config(alpha=0.5, visits="first")),
            (lambda_return, lambda_return.Config(alpha=0.5, lambda_=0.5)),
        ],
        ids=["td", "monte_carlo", "lambda_return"],
    )
    def test_a_cut_episode_goes_on_with_the_value(self, module, config):
        cut = all_of(TARGET, limit=1)
        assert any(path[-1].truncated for _, path in cut)
        np.testing.assert_allclose(self.mean(module, config, cut, TARGET), V_TARGET[:2], atol=1e-12)

    def test_an_end_in_its_place_would_be_wrong(self):
        ended = [
            (p, (*path[:-1], path[-1]._replace(terminated=True, truncated=False)))
            for p, path in all_of(TARGET, limit=1)
        ]
        assert abs(self.mean(td, td.Config(alpha=0.5), ended, TARGET)[0] - V_TARGET[0]) > 0.01
