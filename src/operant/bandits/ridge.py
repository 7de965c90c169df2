"""Ridge regression that learns from one example at a time, for many runs and arms at once."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operant.bandits.worlds import Unfit, World
from operant.core.errors import InputError

Array = NDArray[Any]
SMALLEST = 1e-10
"""λ at least: with less, A⁻¹ is at first so large that rounding spoils what its updates leave of it."""


@dataclasses.dataclass
class Ridge:
    """θ̂ = A⁻¹ b with A = λ I + Σ x xᵀ and b = Σ r x; M = 1 for all arms together, or K, one for each arm."""

    inverse: Array
    """A⁻¹ [R, M, D, D]."""
    moment: Array
    """b [R, M, D]."""
    theta: Array
    """θ̂ [R, M, D]."""

    def model(self, arm: Array) -> Array:
        """[R]: which of the M belongs to an arm."""
        return arm if self.theta.shape[1] > 1 else np.zeros_like(arm)

    def mean(self, context: Array) -> Array:
        """[R, K]: x·θ̂ of every arm."""
        return (context * self.theta).sum(-1)

    def variance(self, context: Array) -> Array:
        """[R, K]: xᵀ A⁻¹ x of every arm."""
        if self.theta.shape[1] > 1:
            return ((self.inverse @ context[..., None])[..., 0] * context).sum(-1)
        return ((context @ self.inverse[:, 0]) * context).sum(-1)

    def learn(self, context: Array, arm: Array, reward: Array) -> None:
        """A += x xᵀ by its inverse, A⁻¹ -= (A⁻¹ x)(A⁻¹ x)ᵀ / (1 + xᵀ A⁻¹ x) (Sherman and Morrison 1950); b += r x."""
        run, model = np.arange(len(arm)), self.model(arm)
        x = context[run, arm] if context.shape[1] > 1 else context[:, 0]
        inverse = self.inverse[run, model]
        ax = (inverse @ x[..., None])[..., 0]
        inverse -= ax[:, :, None] * (ax / (1 + (x * ax).sum(-1, keepdims=True)))[:, None, :]
        self.inverse[run, model] = inverse
        self.moment[run, model] += reward[:, None] * x
        self.theta[run, model] = (inverse @ self.moment[run, model][..., None])[..., 0]


def ridge(world: World, strength: float, algorithm: str) -> Ridge:
    """Nothing learned yet. Raises `Unfit` for a world without contexts, `InputError` for a λ that cannot be used."""
    if world.context is None:
        raise Unfit(f"{algorithm} chooses by contexts, and this world has none: take a world with contexts")
    if not SMALLEST <= strength < math.inf:
        raise InputError(f"ridge is {strength}: give a number above 0, {SMALLEST:g} at least")
    (runs, arms), (_, own, features) = world.shape, world.context.shape
    models = 1 if own > 1 else arms
    inverse = np.broadcast_to(np.eye(features) / strength, (runs, models, features, features)).copy()
    return Ridge(inverse, np.zeros((runs, models, features)), np.zeros((runs, models, features)))
