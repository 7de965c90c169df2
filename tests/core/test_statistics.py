"""Intervals against their coverage and against scipy; agreement against a count by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats

from operant.core.statistics import Estimate, bootstrap_mean, interquartile_mean, pair_accuracy, win_rate


class TestBootstrapMean:
    def test_covers_the_true_mean_as_often_as_it_says(self):
        rng = np.random.default_rng(1)
        samples = rng.exponential(2.0, (300, 60))
        intervals = [bootstrap_mean(x, confidence=0.8, resamples=200, seed=i) for i, x in enumerate(samples)]
        covered = np.mean([e.low <= 2.0 <= e.high for e in intervals])
        assert 0.72 < covered < 0.86

    def test_agrees_with_the_normal_interval_on_many_values(self):
        x = np.random.default_rng(2).normal(3.0, 1.0, 2000)
        estimate, half = bootstrap_mean(x), 1.96 * x.std() / np.sqrt(len(x))
        assert estimate.mean == pytest.approx(x.mean())
        assert (estimate.low, estimate.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.15 * half)

    def test_copies_of_a_value_are_worth_one_value(self):
        """Four equal answers in each group: the interval must be that of the groups, twice as wide as pretended."""
        groups = np.random.default_rng(3).normal(size=200)
        copies, names = np.repeat(groups, 4), np.repeat([f"town {i}" for i in range(200)], 4)
        naive, clustered, alone = bootstrap_mean(copies), bootstrap_mean(copies, names), bootstrap_mean(groups)
        assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(2.0, rel=0.1)
        assert (clustered.high - clustered.low) / (alone.high - alone.low) == pytest.approx(1.0, rel=0.1)

    def test_clusters_of_one_are_no_clusters(self):
        x = np.random.default_rng(4).normal(size=50)
        assert bootstrap_mean(x, np.arange(50)) == pytest.approx(bootstrap_mean(x))

    def test_every_value_counts_once_in_clusters_of_unequal_size(self):
        """Forty groups of nine 0s and forty of a single 1: the mean is 0.1, that of the groups' means would be 0.5."""
        groups = np.repeat(np.arange(80), [9, 1] * 40)
        estimate = bootstrap_mean(groups % 2, groups)
        assert estimate.mean == pytest.approx(0.1)
        assert 0.05 < estimate.low < 0.1 < estimate.high < 0.16

    def test_shift_scale_seed_and_confidence(self):
        x = np.random.default_rng(5).normal(size=40)
        estimate, wider = bootstrap_mean(x, seed=7), bootstrap_mean(x, seed=7, confidence=0.99)
        assert bootstrap_mean(10 + 3 * x, seed=7) == pytest.approx([10 + 3 * e for e in estimate])
        assert bootstrap_mean(x, seed=7) == estimate != bootstrap_mean(x, seed=8)
        assert wider.low < estimate.low < estimate.mean < estimate.high < wider.high

    def test_nothing_has_no_mean(self):
        with pytest.raises(ValueError, match="at least one value"):
            bootstrap_mean([])


class TestWinRate:
    @pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
    @pytest.mark.parametrize(("wins", "losses"), [(0, 1), (1, 0), (20, 0), (0, 20), (7, 13), (500, 501)])
    def test_is_wilsons_interval(self, wins, losses, confidence):
        expected = stats.binomtest(wins, wins + losses).proportion_ci(confidence, method="wilson")
        estimate = win_rate(wins, losses, confidence=confidence)
        assert estimate == pytest.approx((wins / (wins + losses), expected.low, expected.high), abs=1e-12)

    def test_a_tie_is_half_a_win(self):
        assert win_rate(3, 1, ties=4) == pytest.approx(win_rate(5, 3))

    def test_swapping_the_sides_mirrors_the_interval(self):
        here, there = win_rate(7, 2, 3), win_rate(2, 7, 3)
        assert here == pytest.approx((1 - there.mean, 1 - there.high, 1 - there.low))

    def test_no_comparison_has_no_rate(self):
        with pytest.raises(ValueError, match="at least one comparison"):
            win_rate(0, 0)


class TestPairAccuracy:
    def test_is_a_count_of_pairs(self):
        rng = np.random.default_rng(0)
        scores, ranks = rng.integers(0, 4, (30, 5)).astype(float), rng.integers(0, 4, (30, 5))
        correct = pairs = 0
        for row, rank in zip(scores, ranks, strict=True):
            for i, j in itertools.permutations(range(5), 2):
                if 0 < rank[i] < rank[j]:
                    pairs += 1
                    correct += row[i] > row[j]
        assert pair_accuracy(scores, ranks) == (correct, pairs)

    def test_a_scorer_that_cannot_tell_is_never_right(self):
        assert pair_accuracy(np.zeros((1, 3)), np.array([[1, 2, 3]])) == (0, 3)

    def test_ties_and_absent_responses_are_no_pairs(self):
        assert pair_accuracy(np.array([[1.0, 2.0, np.nan]]), np.array([[1, 1, 0]])) == (0, 0)


def test_an_estimate_goes_to_json_by_name():
    assert Estimate(0.5, 0.4, 0.6).to_dict() == {"mean": 0.5, "low": 0.4, "high": 0.6}


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean([1.0, 2.0, 3.0, 100.0]).mean == 2.5
    assert interquartile_mean([5.0]) == (5.0, 5.0, 5.0)
    # Of 5 values 1.25 are left out at either end: the second and the fourth count three quarters.
    assert interquartile_mean([0.0, 4.0, 6.0, 8.0, 99.0]).mean == pytest.approx((0.75 * 4 + 6 + 0.75 * 8) / 2.5)
    x = np.random.default_rng(0).normal(size=40)
    found = interquartile_mean(x)
    assert found.mean == pytest.approx(np.sort(x)[10:30].mean())
    assert found.low < found.mean < found.high
    assert interquartile_mean(3 * x + 1).mean == pytest.approx(3 * found.mean + 1)
