"""An endless shuffled stream of indices that can be saved and continued."""

import numpy as np


class Shuffle:
    """0 .. n-1 in a new order every epoch; the order depends on `seed` and the epoch alone."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.n, self.seed, self.taken = n, seed, 0

    def take(self, count: int) -> list[int]:
        """The next `count` indices, across epochs where they meet."""
        taken: list[int] = []
        while len(taken) < count:
            epoch, at = divmod(self.taken, self.n)
            piece = self._order(epoch)[at : at + count - len(taken)]
            self.taken += len(piece)
            taken += piece
        return taken

    def rest_of_epoch(self, count: int) -> list[int]:
        """The next `count` indices, fewer at the end of an epoch."""
        return self.take(min(count, self.n - self.taken % self.n))

    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.n).tolist()

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.taken = state["taken"]
