"""A known model as a world to draw from, in compiled loops.

A world is anything that these functions can be called with; an algorithm's loop is written once, in their words:

    current(world)          the state it is in: its number, or its active features
    actions(world)          how many actions it has here
    step(world, action)     -> (reward, next state, terminated, truncated), which ends an episode or not
    reset(world)            -> the first state of the next episode

A `Simulator` is compiled into the loop. Any other object has them as methods, and the loop runs as plain Python: so it
does on a Gymnasium environment.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from operant.core.compiled import njit_loop
from operant.core.errors import InputError
from operant.core.linear import Active, Features, greedy
from operant.core.random import Stream, stream, uniform
from operant.mdp.model import MDP


class Simulator(NamedTuple):
    """The arrays of an MDP, where its episode stands, and what the finished ones returned."""

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    next_state: NDArray[np.int64]
    cumulative: NDArray[np.float64]
    """[N]: the sum of a row's probabilities up to each transition."""
    reward: NDArray[np.float64]
    """[N]."""
    end: NDArray[np.bool_]
    begin: NDArray[np.float64]
    """[S]: the sum of the chances to begin in each state, up to it."""
    gamma: float
    limit: int
    """Steps after which an episode is truncated."""
    features: Active | None
    """index and weight [S, K]; None for a table."""
    random: Stream
    place: NDArray[np.int64]
    """[3]: the state, steps in this episode, episodes finished."""
    score: NDArray[np.float64]
    """[1]: the sum of rewards in this episode."""
    returns: NDArray[np.float64]
    """[E]: of the last E finished episodes; episode n is at n modulo E."""
    lengths: NDArray[np.int64]
    """[E]: their steps."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows of w, columns): states or features, and the most actions of a state."""
        most = int(np.diff(self.first).max())
        return (len(self.end) if self.features is None else int(self.features.index.max()) + 1), most

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """What a step changes."""
        return {name: getattr(self, name) for name in ("random", "place", "score", "returns", "lengths")}

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        for name, array in state.items():
            getattr(self, name)[...] = array


def simulator(
    mdp: MDP,
    begin: int | NDArray[Any],
    seed: int = 0,
    limit: int = 0,
    features: NDArray[np.float64] | Active | None = None,
    episodes: int = 1000,
) -> Simulator:
    """An MDP to draw from. Episodes begin in a state, or in one of a distribution [S].

    An episode is truncated after `limit` steps (0: never); `features` [S, F], or the active ones of each state, make
    values linear in them; of the last `episodes` the returns are kept. Raises `InputError` where an episode would
    begin at an end or in no state, and for features of another shape.
    """
    chance = np.asarray(begin, dtype=np.float64)
    if chance.ndim == 0:
        if not 0 <= begin < mdp.states:
            raise InputError(f"episodes begin in state {begin}; states go from 0 to {mdp.states - 1}")
        chance = np.eye(1, mdp.states, int(begin))[0]
    if chance.shape != (mdp.states,) or not (chance >= 0).all() or abs(chance.sum() - 1) > 1e-9:
        raise InputError(
            f"the chances to begin have the shape {chance.shape} and the sum {chance.sum():.12g}; give {mdp.states} "
            "that are 0 or more and sum to 1"
        )
    if (chance[mdp.end] > 0).any():
        raise InputError(f"state {int(np.argmax(mdp.end & (chance > 0)))} is an end: no episode can begin there")
    if isinstance(features, np.ndarray):
        features = Active(np.tile(np.arange(features.shape[1]), (len(features), 1)), features.astype(np.float64))
    if features is not None and (features.index.shape != features.weight.shape or len(features.index) != mdp.states):
        raise InputError(
            f"features have the shapes {features.index.shape} and {features.weight.shape}; the model has {mdp.states} "
            "states: give each a row"
        )
    up_to = np.cumsum(chance)
    up_to[np.flatnonzero(chance)[-1] :] = 1.0  # rounding must not let an episode begin where none can
    counts = np.diff(mdp.start)
    reward = np.repeat(mdp.reward, counts) if mdp.transition_reward is None else mdp.transition_reward.copy()
    world = Simulator(
        mdp.first, mdp.start, mdp.next_state.astype(np.int64), _row_sums(mdp.start, mdp.probability), reward, mdp.end,
        up_to, float(mdp.gamma), limit, features, stream(seed), np.zeros(3, dtype=np.int64), np.zeros(1),
        np.zeros(episodes), np.zeros(episodes, dtype=np.int64),
    )  # fmt: skip
    reset(world)
    return world


@numba.njit(cache=True)
def _row_sums(start: NDArray[np.int64], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty_like(probability)
    for row in range(len(start) - 1):
        total = 0.0
        for i in range(start[row], start[row + 1]):
            total += probability[i]
            out[i] = total
    return out


def current(world: Any) -> Any:
    """The state that the world is in: its number or its features."""
    return _current(world) if isinstance(world, Simulator) else world.current()


def actions(world: Any) -> int:
    """How many actions there are in the present state; they count from 0."""
    return _actions(world) if isinstance(world, Simulator) else world.actions()


def step(world: Any, action: int) -> tuple[float, Any, bool, bool]:
    """(reward, next state, terminated, truncated)."""
    return _step(world, action) if isinstance(world, Simulator) else world.step(action)


def reset(world: Any) -> Any:
    """The first state of a new episode."""
    return _reset(world) if isinstance(world, Simulator) else world.reset()


def _see(features: Active | None, s: Any) -> Features:
    return s if features is None else Active(features.index[s], features.weight[s])


@overload(_see, strict=False)
def _see_compiled(features: Any, s: Any) -> Any:
    if isinstance(features, types.NoneType):
        return lambda features, s: s
    return lambda features, s: Active(features.index[s], features.weight[s])


@numba.njit(cache=True)
def _current(world: Simulator) -> Features:
    return _see(world.features, world.place[0])


@numba.njit(cache=True)
def _actions(world: Simulator) -> Any:
    s = world.place[0]
    return world.first[s + 1] - world.first[s]


@numba.njit(cache=True)
def _step(world: Simulator, action: int) -> Any:
    row = world.first[world.place[0]] + action
    i, last = world.start[row], world.start[row + 1] - 1
    if i < last:
        u = uniform(world.random)
        while i < last and world.cumulative[i] <= u:
            i += 1
    s, reward = world.next_state[i], world.reward[i]
    place, score = world.place, world.score
    place[0] = s
    place[1] += 1
    score[0] += reward
    terminated = world.end[s]
    truncated = not terminated and place[1] == world.limit
    if terminated or truncated:
        world.returns[place[2] % len(world.returns)] = score[0]
        world.lengths[place[2] % len(world.returns)] = place[1]
        place[2] += 1
    return reward, _see(world.features, s), terminated, truncated


@numba.njit(cache=True)
def _reset(world: Simulator) -> Features:
    world.place[0] = np.searchsorted(world.begin, uniform(world.random), side="right")
    world.place[1] = 0
    world.score[0] = 0.0
    return _see(world.features, world.place[0])


def _compile_to(function: Any, kernel: Any) -> None:
    """Compiled code that calls `function` on a simulator runs the kernel."""

    @overload(function, strict=False, inline="always")
    def chosen(world: Any, *given: Any) -> Any:
        if isinstance(world, types.NamedTuple) and world.instance_class is Simulator:
            return kernel.py_func
        return None


for _function, _kernel in ((current, _current), (actions, _actions), (step, _step), (reset, _reset)):
    _compile_to(_function, _kernel)


@njit_loop
def follow(world: Any, w: NDArray[np.float64], random: Stream, episodes: int, most: int) -> None:
    """Act greedily in w and learn nothing, until `episodes` more are finished or `most` steps are done."""
    x, last = current(world), world.place[2] + episodes
    for _ in range(most):
        _, x, terminated, truncated = step(world, greedy(w, x, actions(world), random))
        if terminated or truncated:
            x = reset(world)
            if world.place[2] >= last:
                break
