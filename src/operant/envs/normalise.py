"""Observations and rewards on a common scale, by statistics gathered while an agent learns and saved with it."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-8


class Moments:
    """Mean and variance of all values seen so far, exactly, however they were divided into batches.

    Batches are joined as in Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    sample variances". Before the first batch the mean is 0 and the variance 1.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape)
        self.variance = np.ones(shape)
        self.count = 0

    def update(self, x: NDArray[Any]) -> None:
        """Add the batch `x` [B, ...]."""
        if not len(x):
            return
        x = x.astype(np.float64)
        total, apart = self.count + len(x), x.mean(0) - self.mean
        ours, theirs = self.count / total, len(x) / total
        self.variance = ours * self.variance + theirs * x.var(0) + ours * theirs * apart**2
        self.mean = self.mean + theirs * apart
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.variance, self.count = state["mean"], state["variance"], state["count"]


class ObservationNormalizer:
    """(x - mean) / √variance of all observations seen, clipped to ±`limit`."""

    def __init__(self, shape: tuple[int, ...], limit: float = 10.0) -> None:
        self.moments = Moments(shape)
        self.limit = limit
        self.learns = True

    def frozen(self) -> Self:
        """For evaluation: it uses these statistics, also as they change, and adds nothing to them."""
        copy = type(self)(self.moments.mean.shape, self.limit)
        copy.moments, copy.learns = self.moments, False
        return copy

    def __call__(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Observations [B, ...], counted and normalised."""
        if self.learns:
            self.moments.update(observation)
        scaled = (observation - self.moments.mean) / np.sqrt(self.moments.variance + EPSILON)
        return scaled.clip(-self.limit, self.limit).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        return self.moments.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments.load_state_dict(state)


class RewardNormalizer:
    """r / √variance of the running discounted return R ← γ R + r, clipped to ±`limit`; R is 0 after every end.

    The mean stays: taking it away would change which policy is best. R is of the `envs` environments side by side.
    """

    def __init__(self, envs: int, gamma: float, limit: float = 10.0) -> None:
        self.moments = Moments(())
        self.gamma, self.limit = gamma, limit
        self.running = np.zeros(envs)

    def __call__(self, reward: NDArray[Any], done: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Rewards [B] of one step, counted where `mask` is True and normalised. `done`: terminated or truncated."""
        self.running = np.where(mask, self.gamma * self.running + reward, self.running)
        self.moments.update(self.running[mask])
        self.running[done] = 0.0
        return (reward / np.sqrt(self.moments.variance + EPSILON)).clip(-self.limit, self.limit)

    def state_dict(self) -> dict[str, Any]:
        return {"running": self.running.copy(), **self.moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.running = state["running"].copy()
        self.moments.load_state_dict(state)
