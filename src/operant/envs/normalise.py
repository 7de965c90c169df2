"""Observations and rewards on a common scale, by statistics gathered while an agent learns and saved with it."""

from typing import Any, Self

import numba
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
        rows = np.ascontiguousarray(x, dtype=np.float64).reshape(len(x), self.mean.size)
        self.count = _join(rows, self.mean.reshape(-1), self.variance.reshape(-1), self.count)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.copy(), "variance": self.variance.copy(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean[...], self.variance[...], self.count = state["mean"], state["variance"], state["count"]


@numba.njit(cache=True)
def _join(x, mean, variance, count):
    """Add the batch x [B, D] to (mean, variance, count); the new count."""
    rows = x.shape[0]
    if rows == 0:
        return count
    total = count + rows
    ours, theirs = count / total, rows / total
    for i in range(x.shape[1]):
        center = 0.0
        for b in range(rows):
            center += x[b, i]
        center /= rows
        spread = 0.0
        for b in range(rows):
            spread += (x[b, i] - center) ** 2
        apart = center - mean[i]
        variance[i] = ours * variance[i] + theirs * (spread / rows) + ours * theirs * apart**2
        mean[i] += theirs * apart
    return total


@numba.njit(cache=True)
def _within(x, limit):
    """x clipped to ±limit; NaN stays NaN."""
    if x > limit:
        return limit
    return -limit if x < -limit else x


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
        out = np.empty(observation.shape, np.float32)
        rows = np.ascontiguousarray(observation, dtype=np.float64).reshape(len(observation), self.moments.mean.size)
        mean, variance = self.moments.mean.reshape(-1), self.moments.variance.reshape(-1)
        _scale(rows, mean, variance, self.limit, out.reshape(rows.shape))
        return out

    def state_dict(self) -> dict[str, Any]:
        return self.moments.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments.load_state_dict(state)


@numba.njit(cache=True)
def _scale(x, mean, variance, limit, out):
    for i in range(x.shape[1]):
        deviation = np.sqrt(variance[i] + EPSILON)
        for b in range(x.shape[0]):
            out[b, i] = _within((x[b, i] - mean[i]) / deviation, limit)


class RewardNormalizer:
    """r / √variance of the running discounted return R ← γ R + r, clipped to ±`limit`; R is 0 after every end.

    The mean stays: taking it away would change which policy is best. R is of the `envs` environments side by side.
    """

    def __init__(self, envs: int, gamma: float, limit: float = 10.0) -> None:
        self.moments = Moments(())
        self.gamma, self.limit = gamma, limit
        self.running = np.zeros(envs)

    def __call__(self, reward: NDArray[Any], done: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Rewards of one step [B] or of several [B, T], counted where `mask` is True and normalised.

        `done`: terminated or truncated. Each step is scaled by what was seen up to it.
        """
        place = (len(self.running), -1)
        out = np.empty(reward.shape)
        self.moments.count = _scale_by_returns(
            np.asarray(reward, dtype=np.float64).reshape(place), done.reshape(place), mask.reshape(place),
            self.gamma, self.limit, self.running, self.moments.mean.reshape(-1), self.moments.variance.reshape(-1),
            self.moments.count, out.reshape(place),
        )  # fmt: skip
        return out

    def state_dict(self) -> dict[str, Any]:
        return {"running": self.running.copy(), **self.moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.running = state["running"].copy()
        self.moments.load_state_dict(state)


@numba.njit(cache=True)
def _scale_by_returns(reward, done, mask, gamma, limit, running, mean, variance, count, out):
    counted = np.empty((reward.shape[0], 1))
    for t in range(reward.shape[1]):
        rows = 0
        for b in range(reward.shape[0]):
            if mask[b, t]:
                running[b] = gamma * running[b] + reward[b, t]
                counted[rows, 0] = running[b]
                rows += 1
            if done[b, t]:
                running[b] = 0.0
        count = _join(counted[:rows], mean, variance, count)
        deviation = np.sqrt(variance[0] + EPSILON)
        for b in range(reward.shape[0]):
            out[b, t] = _within(reward[b, t] / deviation, limit)
    return count
