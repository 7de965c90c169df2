"""Prioritised replay: what surprised is drawn more often (Schaul et al. 2016, "Prioritized experience replay")."""

from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from operant.core.errors import InputError
from operant.core.record import Transition
from operant.envs.replay import Replay


class PrioritisedReplay:
    """A `Replay` whose transition i is drawn with probability p_i^α / Σ_k p_k^α, p_i = |δ_i| + ε (Schaul eq. 1).

    New transitions have the highest priority seen so far, so each is drawn soon. A draw is divided into equal ranges of
    the sum, one draw from each (app. B.2.1).

    Raises `InputError` for a negative α and an ε that is not above 0.
    """

    def __init__(self, replay: Replay, alpha: float = 0.6, epsilon: float = 1e-6) -> None:
        if alpha < 0 or epsilon <= 0:
            raise InputError(
                f"priority_alpha {alpha} and priority_epsilon {epsilon}: the power of a priority is 0 or more, and "
                "what is added to an error above 0, or what was learned once is never drawn again"
            )
        self.replay, self.alpha, self.epsilon = replay, alpha, epsilon
        self.leaves = 1 << max(replay.capacity - 1, 1).bit_length()
        self.tree = np.zeros(
            2 * self.leaves
        )  # node i is the sum of nodes 2i and 2i + 1; the leaves are the second half
        self.highest = 1.0

    def __len__(self) -> int:
        return len(self.replay)

    def add(self, *step: NDArray[Any]) -> NDArray[np.int64]:
        """As `Replay.add`."""
        rows = self.replay.add(*step)
        set_leaves(self.tree, rows, np.full(len(rows), self.highest))
        return rows

    def cut(self) -> None:
        """As `Replay.cut`."""
        self.replay.cut()

    def sample(self, size: int, beta: float) -> tuple[Transition, NDArray[np.int64], Float[Tensor, " B"]]:
        """(`size` transitions, their rows, their weights).

        A weight is (N P(i))^-β over the largest of the draw: with β = 1 the weighted mean of anything is, up to that
        one factor, what uniform draws give (Schaul section 3.4).
        """
        if not len(self):
            raise InputError("the replay buffer is empty: collect transitions before the first update")
        total = self.tree[1]
        points = (np.arange(size) + torch.rand(size, dtype=torch.float64).numpy()) * (total / size)
        rows = find(self.tree, points)
        weight = (len(self) * self.tree[self.leaves + rows] / total) ** -beta
        return self.replay[rows], rows, torch.from_numpy((weight / weight.max()).astype(np.float32))

    def update(self, rows: NDArray[np.int64], error: Float[Tensor, " B"]) -> None:
        """New priorities |δ| + ε for `rows` [B]; of a row drawn twice the last one counts."""
        priority = (error.detach().abs().cpu().double().numpy() + self.epsilon) ** self.alpha
        self.highest = max(self.highest, priority.max())
        set_leaves(self.tree, rows, priority)

    def state_dict(self) -> dict[str, Any]:
        priorities = self.tree[self.leaves : self.leaves + len(self)].copy()
        return {"replay": self.replay.state_dict(), "priorities": priorities, "highest": float(self.highest)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `InputError` if the saved buffer does not fit, as `Replay` does."""
        self.replay.load_state_dict(state["replay"])
        self.highest = state["highest"]
        self.tree[:] = 0.0
        set_leaves(self.tree, np.arange(len(self)), state["priorities"])


@numba.njit(cache=True)
def set_leaves(tree: NDArray[np.float64], rows: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    """Set the leaves `rows` and every sum above them. Sums are made anew: no rounding gathers."""
    leaves = len(tree) // 2
    for i in range(len(rows)):
        node = leaves + rows[i]
        tree[node] = values[i]
        while node > 1:
            node //= 2
            tree[node] = tree[2 * node] + tree[2 * node + 1]


@numba.njit(cache=True)
def find(tree: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows at which the running sum of the leaves passes each point."""
    leaves = len(tree) // 2
    rows = np.empty(len(points), np.int64)
    for i in range(len(points)):
        node, point = 1, points[i]
        while node < leaves:
            node *= 2
            # A point that rounding has put at or past the end stays with what can be drawn.
            if point >= tree[node] and tree[node + 1] > 0:
                point -= tree[node]
                node += 1
        rows[i] = node - leaves
    return rows
