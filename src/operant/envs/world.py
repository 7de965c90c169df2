"""One Gymnasium environment as a world for loops that learn a table or a linear function.

It has the words of `operant.mdp.simulator`: current, actions, step and reset. A policy to value is a table [S, A] or a
function from what is observed to probabilities [A].
"""

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.core.linear import Active, Features
from operant.core.random import Stream, draw
from operant.envs.saving import environment_state, resumes, set_environment_state

MOST = 10_000_000
"""States of a table at most, where they are numbered from several numbers."""


class World:
    """An environment with discrete actions, whose observations are numbers of states or become active features.

    A tuple of a few such numbers, as Blackjack shows, is numbered as the digits of one. States and actions count from 0
    here, whatever `start` their spaces have; `seen` is what the environment showed. `place` holds (0, steps in this
    episode, episodes finished), `score` the sum of rewards of this one, `returns` and `lengths` those of the last
    `episodes`. `features` makes an observation `Active`; its `size` is how many there are.
    Raises `InputError` for other actions, and for observations that need `features`.
    """

    def __init__(
        self,
        env: str | gymnasium.Env[Any, Any],
        seed: int = 0,
        features: Callable[[Any], Active] | None = None,
        episodes: int = 1000,
    ) -> None:
        self.env: Any = gymnasium.make(env) if isinstance(env, str) else env
        spaces = gymnasium.spaces
        if not isinstance(self.env.action_space, spaces.Discrete):
            raise InputError(f"{self.env} has the actions {self.env.action_space}: a table needs a Discrete space")
        if features is None and rows_of(self.env.observation_space) is None:
            raise InputError(
                f"{self.env} shows {self.env.observation_space}, not numbers of states: give features, such as tiles"
            )
        self.count = int(self.env.action_space.n)
        self.features: Any = features
        self.see: Callable[[Any], Features] = features or _numbering(self.env.observation_space)
        self.do: Callable[[int], Any] = _from_start(self.env)
        self.place = np.zeros(3, dtype=np.int64)
        self.score = np.zeros(1)
        self.returns = np.zeros(episodes)
        self.lengths = np.zeros(episodes, dtype=np.int64)
        self.seed: int | None = seed
        self.reset()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows of w, columns): states or features, and actions."""
        rows = rows_of(self.env.observation_space) if self.features is None else int(self.features.size)
        assert rows is not None
        return rows, self.count

    def current(self) -> Features:
        return self.state

    def actions(self) -> int:
        return self.count

    def act(self, policy: Any, random: Stream) -> int:
        """An action of the policy in the present state."""
        return draw(random, self._chances(policy))

    def chance(self, policy: Any, action: int) -> float:
        """Its probability."""
        return float(self._chances(policy)[action])

    def _chances(self, policy: Any) -> NDArray[np.float64]:
        given = policy(self.seen) if callable(policy) else policy[self.state]
        chances = given if isinstance(given, np.ndarray) else np.asarray(given, dtype=np.float64)
        if chances.shape != (self.count,):
            raise InputError(
                f"the policy gives probabilities of the shape {chances.shape}: give {self.count}, one an action"
            )
        return chances

    def step(self, action: int) -> tuple[float, Features, bool, bool]:
        self.seen, reward, terminated, truncated, _ = self.do(action)
        self.state = self.see(self.seen)
        place = self.place
        place[1] += 1
        self.score[0] += reward
        if terminated or truncated:
            episode = place[2] % len(self.returns)
            self.returns[episode], self.lengths[episode] = self.score[0], place[1]
            place[2] += 1
        return float(reward), self.state, terminated, truncated

    def reset(self) -> Features:
        self.seen, _ = self.env.reset(seed=self.seed)
        self.seed = None
        self.place[1], self.score[0] = 0, 0.0
        self.state = self.see(self.seen)
        return self.state

    @property
    def resumes(self) -> bool:
        """Whether the environment's own state is saved too. Where it is not, a resumed run begins a new episode."""
        return resumes(self.env)

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the state of the environment where it can be had."""
        found: dict[str, Any] = {name: getattr(self, name) for name in ("place", "score", "returns", "lengths")}
        return found | ({"environment": environment_state(self.env), "seen": self.seen} if self.resumes else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("place", "score", "returns", "lengths"):
            getattr(self, name)[...] = state[name]
        if not self.resumes:
            self.place[1], self.score[0] = 0, 0.0
            return
        set_environment_state(self.env, state["environment"])
        self.seen = state["seen"]
        self.state = self.see(self.seen)


def rows_of(space: gymnasium.Space[Any]) -> int | None:
    """How many rows a table has for a number of a state, or for a tuple of a few; None where there can be none."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.n)
    if not isinstance(space, gymnasium.spaces.Tuple):
        return None
    sizes = [int(part.n) for part in space.spaces if isinstance(part, gymnasium.spaces.Discrete)]
    rows = math.prod(sizes)
    return rows if len(sizes) == len(space.spaces) > 0 and rows <= MOST else None


def _numbering(space: Any) -> Callable[[Any], int]:
    """What makes an observation the number of a row."""
    if isinstance(space, gymnasium.spaces.Tuple):
        parts: Any = space.spaces
        digits = [(int(part.n), int(part.start)) for part in parts]

        def number(seen: Any) -> int:
            row = 0
            for x, (base, start) in zip(seen, digits, strict=True):
                row = row * base + int(x) - start
            return row

        return number
    start = int(space.start)
    return (lambda seen: int(seen) - start) if start else int


def _from_start(env: gymnasium.Env[Any, Any]) -> Callable[[int], Any]:
    """`env.step`, for actions that count from 0."""
    space: Any = env.action_space
    start = int(space.start)
    return (lambda action: env.step(start + action)) if start else env.step
