"""Intervals and agreement: what a measured figure is worth."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A figure and its interval."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence | np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean with a percentile bootstrap interval (Efron 1979), resampling whole clusters.

    `clusters` names the group of every value (a town asked about several times): values of one group are not
    independent, so groups are what is resampled (Davison and Hinkley 1997, section 3.8).
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError("bootstrap_mean needs at least one value")
    groups = np.arange(x.size) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    totals, counts = np.bincount(groups, weights=x), np.bincount(groups)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):  # one at a time: all at once would need memory for resamples x clusters
        draw = rng.integers(0, len(totals), len(totals))
        means[i] = totals[draw].sum() / counts[draw].sum()
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(x.mean()), float(low), float(high))


def interquartile_mean(values: Sequence[float] | np.ndarray, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Mean of the middle half, with a 95% percentile bootstrap interval: a run that failed, or excelled, weighs less.

    A quarter of the values is left out at either end; of a value at the border the part that is inside counts (Agarwal
    et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", section 4).
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError("interquartile_mean needs at least one value")
    place = np.arange(x.size)
    weight = np.clip(np.minimum(place + 1, 0.75 * x.size) - np.maximum(place, 0.25 * x.size), 0, None)
    draws = x[np.random.default_rng(seed).integers(0, x.size, (resamples, x.size))]
    means = np.sort(draws) @ weight / weight.sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(np.sort(x) @ weight / weight.sum()), float(low), float(high))


def win_rate(wins: int, losses: int, ties: int = 0, confidence: float = 0.95) -> Estimate:
    """(wins + ½ ties) / all, with Wilson's score interval (Wilson 1927); a tie counts as half a win."""
    total = wins + losses + ties
    if total == 0:
        raise ValueError("win_rate needs at least one comparison")
    rate = (wins + 0.5 * ties) / total
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (rate + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(rate * (1 - rate) / total + z**2 / (4 * total**2))
    return Estimate(rate, float(max(centre - half, 0.0)), float(min(centre + half, 1.0)))


def pair_accuracy(scores: np.ndarray, ranks: np.ndarray) -> tuple[int, int]:
    """(pairs that the scores order as the ranks do, untied pairs) over [N, K]; rank 1 is best, 0 is no response."""
    scores, ranks = np.asarray(scores), np.asarray(ranks)
    better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] > 0)
    correct = better & (scores[:, :, None] > scores[:, None, :])
    return int(correct.sum()), int(better.sum())
