"""The record of one episode, for algorithms that wait for its end."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.core.linear import Active, Features, add_to, toward, value_of
from operant.mdp.simulator import Simulator, current


class Episode(NamedTuple):
    """The decisions since the last reset, in buffers with room for T."""

    x: Any
    """[T] numbers of states, or `Active` features [T, K]."""
    reward: NDArray[np.float64]
    """[T]."""
    ratio: NDArray[np.float64]
    """[T]: π(a | s) / b(a | s), 1 where the policy itself acts; once the episode is over, the weight of each target."""
    target: NDArray[np.float64]
    """[T]: where each value is to move, once the episode is over."""
    length: NDArray[np.int64]
    """[2]: decisions so far; episodes before."""

    def _buffers(self) -> dict[str, NDArray[Any]]:
        x = {"index": self.x.index, "weight": self.x.weight} if isinstance(self.x, Active) else {"x": self.x}
        return {**x, "reward": self.reward, "ratio": self.ratio, "target": self.target}

    def make_room(self, room: int) -> None:
        """Lengthen the buffers in place; what they hold stays."""
        for buffer in self._buffers().values():
            buffer.resize((room, *buffer.shape[1:]), refcheck=False)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        return {**self._buffers(), "length": self.length}

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        self.make_room(len(state["reward"]))
        for name, buffer in self.state_dict().items():
            buffer[...] = state[name]


def episode(world: Any, room: int = 1000) -> Episode:
    """An empty record for what a world shows."""
    x, memory = current(world), np.zeros(room, dtype=np.int64)
    if isinstance(x, Active):
        memory = Active(np.zeros((room, len(x.index)), dtype=np.int64), np.zeros((room, len(x.index))))
    return Episode(memory, np.zeros(room), np.zeros(room), np.zeros(room), np.zeros(2, dtype=np.int64))


def must_end(world: Any) -> None:
    """Raise `InputError` for a model in which no episode can end: who waits for an end would learn nothing."""
    if isinstance(world, Simulator) and not world.limit and not world.end.any():
        raise InputError("the model has no end, and these values wait for one: give the simulator a limit, or use TD")


def keep(memory: Any, t: int | np.integer, x: Features) -> None:
    """memory[t] = x."""
    if isinstance(x, Active):
        memory.index[t], memory.weight[t] = x.index, x.weight
    else:
        memory[t] = x


def kept(memory: Any, t: int | np.integer) -> Features:
    """memory[t]."""
    return Active(memory.index[t], memory.weight[t]) if isinstance(memory, Active) else memory[t]


def is_new(visited: NDArray[np.int64], x: Features, number: int | np.integer) -> bool:
    """Whether a state was not yet visited in this episode; it is now. Those known by features count as new."""
    if isinstance(x, Active):
        return True
    new = bool(visited[x] != number)
    visited[x] = number
    return new


@overload(keep)
def _keep(memory: Any, t: Any, x: Any) -> Any:
    def active(memory: Any, t: Any, x: Any) -> Any:
        for k in range(len(x.index)):
            memory.index[t, k] = x.index[k]
            memory.weight[t, k] = x.weight[k]

    def table(memory: Any, t: Any, x: Any) -> Any:
        memory[t] = x

    return active if isinstance(x, types.NamedTuple) else table


@overload(kept, strict=False)
def _kept(memory: Any, t: Any) -> Any:
    if isinstance(memory, types.NamedTuple):
        return lambda memory, t: Active(memory.index[t], memory.weight[t])
    return lambda memory, t: memory[t]


@overload(is_new, strict=False)
def _is_new(visited: Any, x: Any, number: Any) -> Any:
    def table(visited: Any, x: Any, number: Any) -> Any:
        new = visited[x] != number
        visited[x] = number
        return new

    return (lambda visited, x, number: True) if isinstance(x, types.NamedTuple) else table


@numba.njit(cache=True)
def record(episode: Episode, x: Features, reward: float, ratio: float) -> None:
    """Append a decision; there must be room."""
    t = episode.length[0]
    keep(episode.x, t, x)
    episode.reward[t], episode.ratio[t] = reward, ratio
    episode.length[0] = t + 1


@numba.njit(cache=True)
def forget(episode: Episode) -> None:
    """Make ready for the next episode."""
    episode.length[0] = 0
    episode.length[1] += 1


@numba.njit(cache=True)
def returns(episode: Episode, gamma: float, last: float) -> None:
    """target_t = r_t + γ target_{t+1}: the return, where `last` is the value of what came after the final decision."""
    g = last
    for t in range(episode.length[0] - 1, -1, -1):
        g = episode.reward[t] + gamma * g
        episode.target[t] = g


@numba.njit(cache=True)
def toward_targets(w: NDArray[np.float64], episode: Episode, alpha: float) -> None:
    """v(s_t) += α [target_t - v(s_t)] for all t, in their order."""
    for t in range(episode.length[0]):
        toward(w, kept(episode.x, t), 0, episode.target[t], alpha)


@numba.njit(cache=True)
def toward_means(
    w: NDArray[np.float64], total: NDArray[np.float64], visited: NDArray[np.int64], episode: Episode, alpha: float
) -> None:
    """v(s_t) += α weight_t [target_t - v(s_t)] for all t, in their order.

    α = 0 stands for 1 / the sum of all weights so far, which `total` keeps: v is then their mean (equation 5.8). Where
    `visited` has a place for each state, only the first visit of the episode counts.
    """
    for t in range(episode.length[0]):
        x, weight = kept(episode.x, t), episode.ratio[t]
        if (len(visited) == 0 or is_new(visited, x, episode.length[1] + 1)) and weight > 0:
            add_to(total, x, 0, weight)
            toward(w, x, 0, episode.target[t], weight * alpha if alpha > 0 else weight / value_of(total, x, 0))


def go_to(due: int, state: Any, run: Callable[[int], int]) -> None:
    """`run(steps)` until step `due`, with more room whenever it stops because the record is full."""
    while state.step < due:
        state.step += run(due - state.step)
        if state.step < due:
            state.episode.make_room(2 * len(state.episode.reward))
