"""A replay buffer: the latest transitions, in one block of memory a column."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.core.record import Transition
from operant.envs.pictures import Pictures, Stacks, column

DEEPEST = 16
"""Bytes [D, H, W] with more layers than these are taken for one picture, and not for a stack of them."""
WINDOW = ("observation", "action", "reward", "discount", "open")


class Replay:
    """The last `capacity` transitions of `envs` environments that step together, drawn uniformly.

    A transition covers up to `n` steps of one episode: `reward` is Σ γ^k r_k, `next_observation` the state really
    reached, and `discount` γ to the number of steps, or 0 where that state is terminal. So the target of a value is
    reward + discount · v(next_observation), without another γ. A truncated episode ends a transition and nothing more:
    only `terminated` makes the discount 0. Sutton & Barto 2018, section 7.1.

    Columns of more than `memory_limit` bytes together live in files without a name in `folder`, mapped into memory. Of
    stacks of pictures each picture is kept once (`envs.pictures`): an Atari transition takes 7 kB, and not 56.
    Raises `InputError` for counts below 1, a γ outside [0, 1] and a draw from an empty buffer.
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: tuple[int, ...],
        action_shape: tuple[int, ...] = (),
        envs: int = 1,
        gamma: float = 0.99,
        n: int = 1,
        observation_dtype: Any = np.float32,
        action_dtype: Any = np.int64,
        memory_limit: int = 2**32,
        folder: Path | None = None,
    ) -> None:
        if min(capacity, envs, n) < 1:
            raise InputError(f"capacity {capacity}, envs {envs} and n {n} count things: give 1 or more of each")
        if not 0 <= gamma <= 1:
            raise InputError(f"gamma {gamma} is no discount: give a number from 0 to 1")
        self.capacity, self.gamma, self.n = capacity, gamma, n
        kinds = {
            "observation": (observation_shape, observation_dtype), "action": (action_shape, action_dtype),
            "reward": ((), np.float32), "discount": ((), np.float32),
            "next_observation": (observation_shape, observation_dtype),
        }  # fmt: skip
        sizes = {name: math.prod(shape) * np.dtype(kind).itemsize for name, (shape, kind) in kinds.items()}
        stacked = np.dtype(observation_dtype) == np.uint8 and len(observation_shape) == 3
        self.pictures: Pictures | None = None
        depth = observation_shape[0] if stacked else 0
        if 0 < depth <= DEEPEST:
            sizes |= {"observation": sizes["observation"] // depth, "next_observation": 0}  # one is new at each step
        self.mapped = capacity * sum(sizes.values()) > memory_limit
        if 0 < depth <= DEEPEST:
            self.pictures = Pictures(2 * depth * (capacity + 1), observation_shape[1:], self.mapped, folder)
        self.columns: dict[str, NDArray[Any] | Stacks] = {
            name: Stacks(self.pictures, capacity, depth)
            if self.pictures is not None and name.endswith("observation")
            else column((capacity, *shape), kind, self.mapped, folder)
            for name, (shape, kind) in kinds.items()
        }
        self.position, self.filled, self.slot = 0, 0, 0
        # The last n steps of every environment, [n, envs, ...]: transitions that are still growing.
        self.observation = np.zeros((n, envs, *observation_shape), observation_dtype)
        self.action = np.zeros((n, envs, *action_shape), action_dtype)
        self.reward, self.discount = np.zeros((n, envs)), np.zeros((n, envs))
        self.open = np.zeros((n, envs), dtype=bool)

    def __len__(self) -> int:
        return self.filled

    def add(
        self,
        observation: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_observation: NDArray[Any],
        mask: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """T steps of every environment, [T, envs, ...]; what `mask` leaves out, such as a reset step, is not kept.

        Returns the rows in which transitions were completed.
        """
        if self.n == 1:  # nothing grows
            discount = np.where(terminated, 0.0, self.gamma)
            columns = (observation, action, reward, discount, next_observation)
            return self._store(*(x.reshape(-1, *x.shape[2:]) if mask.all() else x[mask] for x in columns))
        steps = zip(observation, action, reward, terminated, truncated, next_observation, mask, strict=True)
        return np.concatenate([self._grow(*step) for step in steps])

    def _grow(
        self,
        observation: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_observation: NDArray[Any],
        mask: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """One step of every environment: transitions that go on grow by it, and those that are complete are stored."""
        slot = self.slot
        self.observation[slot], self.action[slot] = observation, action
        self.reward[slot], self.discount[slot], self.open[slot] = 0.0, 1.0, mask
        grows = self.open & mask
        self.reward += np.where(grows, self.discount * reward, 0.0)
        self.discount[grows] *= self.gamma
        self.slot = (slot + 1) % self.n
        complete = self.open & (terminated | truncated)
        complete[self.slot] |= self.open[self.slot]
        order = np.roll(np.arange(self.n), -self.slot)  # the oldest step first
        age, env = complete[order].nonzero()
        self.open[complete] = False
        first = order[age]
        discount = np.where(terminated[env], 0.0, self.discount[first, env])
        begun = (self.observation[first, env], self.action[first, env], self.reward[first, env])
        return self._store(*begun, discount, next_observation[env])

    def _store(self, *transitions: NDArray[Any]) -> NDArray[np.int64]:
        """Arrays [k, ...], in the order of the columns."""
        count = len(transitions[0])
        rows = np.arange(self.position + max(count - self.capacity, 0), self.position + count) % self.capacity
        for place, x in zip(self.columns.values(), transitions, strict=True):
            place[rows] = x[-self.capacity :]
        self.position = (self.position + count) % self.capacity
        self.filled = min(self.filled + count, self.capacity)
        return rows

    def cut(self) -> None:
        """Drop the transitions that are still growing: the environments begin anew without an end."""
        self.open[:] = False

    def sample(self, size: int) -> Transition:
        """`size` transitions, each drawn uniformly and independently with PyTorch's global generator."""
        if not self.filled:
            raise InputError("the replay buffer is empty: collect transitions before the first update")
        return self[torch.randint(self.filled, (size,)).numpy()]

    def __getitem__(self, rows: NDArray[np.int64]) -> Transition:
        """The transitions in `rows`, in copies."""
        return Transition(**{name: torch.from_numpy(np.asarray(x[rows])) for name, x in self.columns.items()})

    def state_dict(self) -> dict[str, Any]:
        """What is filled, and the transitions that are still growing."""
        return {
            "capacity": self.capacity,
            "position": self.position,
            "filled": self.filled,
            "slot": self.slot,
            "columns": {
                name: np.asarray((x.numbers if isinstance(x, Stacks) else x)[: self.filled])
                for name, x in self.columns.items()
            },
            "pictures": None if self.pictures is None else np.asarray(self.pictures.pixels[: self.pictures.begun]),
            "window": {name: getattr(self, name) for name in WINDOW},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `InputError` if the saved buffer has another capacity, n or number of environments."""
        theirs = (state["capacity"], *state["window"]["open"].shape)
        if theirs != (ours := (self.capacity, *self.open.shape)):
            raise InputError(
                f"the saved replay buffer has (capacity, n, envs) {theirs}, and this run has {ours}: use the same"
            )
        self.position, self.filled, self.slot = state["position"], state["filled"], state["slot"]
        for name, x in self.columns.items():
            (x.numbers if isinstance(x, Stacks) else x)[: self.filled] = state["columns"][name]
        if self.pictures is not None:
            stacks = [x.numbers for x in self.columns.values() if isinstance(x, Stacks)]
            for numbers in stacks:
                numbers[self.filled :] = -1
            used = np.concatenate([numbers[: self.filled].ravel() for numbers in stacks])
            self.pictures.restore(state["pictures"], used)
        for name in WINDOW:
            getattr(self, name)[...] = state["window"][name]
