"""An endless shuffled stream of indices that can be saved and continued."""

import numpy as np


class Shuffle:
    """0 .. n-1 in a new order every epoch; the order depends on `seed` and the epoch alone."""

    def __init__(self, n: int, seed: int = 0) -> None:
        if n < 1:
            raise ValueError("there is nothing to shuffle: n is 0")
        self.n, self.seed, self.taken = n, seed, 0
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def take(self, count: int) -> list[int]:
        """The next `count` indices, across epochs where they meet."""
        taken: list[int] = []
        while len(taken) < count:
            epoch, at = divmod(self.taken, self.n)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.n)
            piece = self._order[at : at + count - len(taken)]
            self.taken += len(piece)
            taken += piece.tolist()
        return taken

    def rest_of_epoch(self, count: int) -> list[int]:
        """The next `count` indices, fewer at the end of an epoch."""
        return self.take(min(count, self.n - self.taken % self.n))

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.taken = state["taken"]
