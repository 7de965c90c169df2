"""How little regret is possible: divergences between two arms, and the bound of Lai and Robbins."""

import functools
import math
from collections.abc import Callable

import numba
import numpy as np

from operant.bandits.worlds import Array, Bernoulli, Gaussian, World


@numba.njit(cache=True)
def bernoulli_kl(p: float, q: float) -> float:
    """KL(p || q) = p ln(p/q) + (1-p) ln((1-p)/(1-q)) of two probabilities; infinite where q excludes what p allows."""
    if (p > 0 and q <= 0) or (p < 1 and q >= 1):
        return math.inf
    kl = 0.0
    if p > 0:
        kl += p * math.log(p / q)
    if p < 1:
        kl += (1 - p) * math.log((1 - p) / (1 - q))
    return kl


def gaussian_kl(p: float, q: float, deviation: float = 1.0) -> float:
    """KL of two normal distributions with means p and q and one deviation σ: (p - q)² / 2σ²."""
    return (p - q) ** 2 / (2 * deviation**2)


def slope(mean: Array, kl: Callable[[float, float], float]) -> float:
    """C = Σ_k (μ* - μ_k) / KL(μ_k, μ*) over the arms of `mean` [K] that are not best.

    A policy that does well on all such worlds has a regret of at least (C + o(1)) ln t (Lai and Robbins 1985, theorem
    1).
    """
    best = float(mean.max())
    return sum((best - m) / kl(m, best) for m in mean.tolist() if m < best)


def lai_robbins(world: World) -> float | None:
    """The `slope` of a stationary world, its mean over runs: regret grows like this times ln t. None for others."""
    if isinstance(world, Bernoulli):
        return float(np.mean([slope(mean, bernoulli_kl) for mean in world.mean]))
    if isinstance(world, Gaussian) and world.deviation > 0:
        kl = functools.partial(gaussian_kl, deviation=world.deviation)
        return float(np.mean([slope(mean, kl) for mean in world.mean]))
    return None
