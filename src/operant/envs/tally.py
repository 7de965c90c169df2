"""Returns and lengths of episodes, counted while environments step side by side."""

from itertools import compress
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


class Tally:
    """What the running episodes of `envs` environments have paid so far, and the episodes that are finished."""

    def __init__(self, envs: int) -> None:
        self.running_return = np.zeros(envs)
        self.running_length = np.zeros(envs, dtype=np.int64)
        self.returns: list[float] = []
        self.lengths: list[int] = []

    def add(self, reward: NDArray[np.float64], done: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
        """Steps [B, T]; where `mask` is False nothing was decided. Episodes finish in the order of time."""
        ended = int(done.sum())
        returns, lengths = np.empty(ended), np.empty(ended, dtype=np.int64)
        _count(reward, done, mask, self.running_return, self.running_length, returns, lengths)
        if ended:
            self.returns += returns.tolist()
            self.lengths += lengths.tolist()

    def restart(self) -> None:
        """All environments begin new episodes; those that are finished stay counted."""
        self.running_return[:], self.running_length[:] = 0.0, 0

    def keep(self, kept: list[bool]) -> None:
        """Of as many episodes as `kept` has places, the latest, leave only those that it says."""
        first = len(self.returns) - len(kept)
        self.returns[first:] = compress(self.returns[first:], kept)
        first = len(self.lengths) - len(kept)
        self.lengths[first:] = compress(self.lengths[first:], kept)

    def state_dict(self) -> dict[str, Any]:
        return {
            "running_return": self.running_return.copy(),
            "running_length": self.running_length.copy(),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.running_return, self.running_length = state["running_return"].copy(), state["running_length"].copy()
        self.returns, self.lengths = list(state["returns"]), list(state["lengths"])


@numba.njit(cache=True)
def _count(reward, done, mask, running_return, running_length, returns, lengths):
    ended = 0
    for t in range(reward.shape[1]):
        for b in range(reward.shape[0]):
            if mask[b, t]:
                running_return[b] += reward[b, t]
                running_length[b] += 1
            if done[b, t]:
                returns[ended], lengths[ended] = running_return[b], running_length[b]
                running_return[b], running_length[b] = 0.0, 0
                ended += 1
