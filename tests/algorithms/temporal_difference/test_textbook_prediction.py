"""Sutton and Barto's figures in short, and twins that are broken on purpose, which miss them."""

import dataclasses
import doctest
from pathlib import Path

import numpy as np
import pytest

from benchmarks.textbook import prediction
from operant.algorithms.temporal_difference import (
    emphatic_td,
    gradient_td,
    least_squares_monte_carlo,
    lstd,
    monte_carlo,
    off_policy_monte_carlo,
    off_policy_td,
    td,
    td_lambda,
)
from operant.mdp import problems
from operant.mdp.chain import policy_reward_process
from operant.mdp.model import from_transitions
from operant.mdp.simulator import simulator

PAGE = Path(__file__).parents[3] / "docs" / "textbook" / "prediction.md"


def wrong(rows) -> list[str]:
    return [f"{row.what}: {row.ours} for {row.published}" for row in rows if not row.ok]


def test_the_random_walk():
    """Example 6.2. Monte Carlo in the place of TD misses all of its values by more than the tolerance."""
    rows = list(prediction.short_walk_rows(300))
    assert len(rows) == 12
    assert wrong(rows) == []
    for row, alpha, n in ((rows[1], 0.05, 50), (rows[3], 0.1, 10), (rows[5], 0.1, 100)):
        twin = prediction.errors(prediction.short_walk, monte_carlo, monte_carlo.Config(alpha=alpha), 100, 300, 0.5)
        assert not row._replace(ours=twin[:, n - 1].mean()).ok


def test_batches():
    """Figure 6.2: what fits the returns best is worse on future data than what fits the model best."""
    rows = list(prediction.batch_rows(40))
    assert wrong(rows) == []
    better = prediction.batch_errors(least_squares_monte_carlo, 40) - prediction.batch_errors(
        lstd, 40
    )  # the same episodes
    gain, error = prediction.mean(better[:, 99])
    assert gain > 3 * error
    for module in (lstd, least_squares_monte_carlo):
        shown = prediction.batch_errors(module, 40)
        assert shown[:, 99].mean() < 0.5 * shown[:, 9].mean()


def test_the_walk_of_19_states():
    """Figures 7.2, 12.3, 12.6 and 12.8 at their best step sizes; longer traces and shorter returns miss them."""
    rows = list(prediction.walk_of_19_rows(200))
    assert len(rows) == 9
    assert wrong(rows) == []
    twin = prediction.Sweep("12.8", "", td_lambda, td_lambda.Config(lambda_=0.95))
    assert not rows[-1]._replace(ours=prediction.first_ten(twin, 0.4, 200).mean()).ok
    assert not rows[2]._replace(ours=prediction.first_ten(prediction.SWEEPS[0], 0.4, 200).mean()).ok


def test_the_walk_of_1000_states():
    """Figures 9.1 and 9.2 with larger steps: fixed points of Monte Carlo and of TD, which are not each other's."""
    found = {
        m: float(prediction.value_error(prediction.grouped(m, a, 20_000))) for m, a in ((monte_carlo, 1e-4), (td, 1e-3))
    }
    assert found[monte_carlo] == pytest.approx(0.0544, abs=0.01)
    assert found[td] == pytest.approx(0.1167, abs=0.01)


def test_blackjack():
    """Example 5.4 and figure 5.3; without ratios the random policy would be valued."""
    rows = list(prediction.blackjack_rows())
    assert wrong(rows) == []
    game, _, random = prediction.blackjack_policies()
    blind = float(policy_reward_process(game, random).value()[prediction.STATE])
    assert not any(row._replace(ours=blind).ok for row in rows)
    error = {s: (prediction.blackjack_values(s, 100) - prediction.STATE_VALUE) ** 2 for s in ("ordinary", "weighted")}
    assert error["ordinary"][:, :5].mean() > 5 * error["weighted"][:, :5].mean()
    assert error["weighted"][:, 0].mean() < 1


class TestBaird:
    """Section 11.2. All true values are 0, and the features can say so."""

    def test_figures(self):
        assert wrong(prediction.baird_rows(100)) == []

    def test_semi_gradient_td_diverges_and_gradient_td_does_not(self):
        semi = prediction.baird_error(prediction.baird_runs(off_policy_td, prediction.SEMI_GRADIENT, 30))
        corrected = prediction.baird_error(prediction.baird_runs(gradient_td, prediction.CORRECTED, 30))
        assert (semi[:, -1] > 100).all()
        assert (semi[:, 49] < semi[:, -1]).all()
        assert (corrected[:, -1] < 2.2).all()

    def test_gradient_td_without_its_correction_diverges(self):
        """With a second set of weights that does not learn, TDC is semi-gradient TD."""
        config = dataclasses.replace(prediction.CORRECTED, alpha=0.01, beta=1e-12)
        broken = prediction.baird_runs(gradient_td, config, 3)
        semi = prediction.baird_runs(off_policy_td, prediction.SEMI_GRADIENT, 3)
        np.testing.assert_allclose(broken, semi, rtol=1e-6)

    def test_the_mean_of_emphatic_td_is_a_contraction_and_that_of_td_is_none(self):
        x, (behaviour, target) = problems.baird_features(), problems.baird_policies()
        p = policy_reward_process(problems.baird(), target).chain.transition.toarray()
        often = policy_reward_process(problems.baird(), behaviour).chain.stationary()
        np.testing.assert_allclose(often, 1 / 7)
        semi = -x.T @ np.diag(often) @ (x - 0.99 * p @ x)
        assert np.linalg.eigvals(semi).real.max() == pytest.approx(0.239, abs=5e-4)
        w = prediction.expected_emphatic(0.03, 1000)
        assert prediction.baird_error(w[-1]) < 1e-9

    def test_steps_of_emphatic_td_have_the_mean_that_is_drawn(self):
        """Its first 1,000 steps from weights held still, many times over: E[δ z] = -A w, once F has settled."""
        x, (behaviour, target) = problems.baird_features(), problems.baird_policies()
        world = simulator(problems.baird(0.5), np.full(7, 1 / 7), 0, features=x)
        alpha = 1e-12
        config = emphatic_td.Config(steps=2_000_000, alpha=alpha, gamma=0.5)
        state = emphatic_td.init(world, target, behaviour, config)
        state.w[:, 0] = prediction.START
        list(emphatic_td.train(state, config))
        p = policy_reward_process(problems.baird(), target).chain.transition.toarray()
        emphasis = np.linalg.solve(np.eye(7) - 0.5 * p.T, np.full(7, 1 / 7))
        due = -x.T @ np.diag(emphasis) @ (x - 0.5 * p @ x) @ prediction.START
        found = (state.w[:, 0] - prediction.START) / alpha / config.steps
        np.testing.assert_allclose(found, due, atol=0.1 * np.abs(due).max())


def test_ordinary_importance_sampling_of_a_loop_does_not_settle():
    """Example 5.5: all episodes of π pay 1, b leaves the loop half the time; weighted is 1 at once, ordinary is not."""
    loop = from_transitions([0, 0, 0], [0, 0, 1], [0, 1, 2], [0.9, 0.1, 1.0], [0.0, 1.0, 0.0], 1.0, ends=[1, 2])
    target, behaviour = np.tile([1.0, 0.0], (3, 1)), np.full((3, 2), 0.5)
    ends = {}
    for sampling in ("ordinary", "weighted"):
        config = off_policy_monte_carlo.Config(steps=100_000, sampling=sampling, visits="first")
        found = []
        for seed in range(10):
            state = off_policy_monte_carlo.init(simulator(loop, 0, seed), target, behaviour, config, seed)
            list(off_policy_monte_carlo.train(state, config))
            found.append(state.w[0, 0])
        ends[sampling] = np.array(found)
    np.testing.assert_allclose(ends["weighted"], 1.0)
    assert np.abs(ends["ordinary"] - 1).max() > 0.2


def test_examples_of_the_page():
    assert doctest.testfile(str(PAGE), module_relative=False) == (0, 60)
