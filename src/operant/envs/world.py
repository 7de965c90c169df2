"""One Gymnasium environment as a world for loops that learn a table or a linear function.

It has the words of `operant.mdp.simulator`: current, actions, step and reset.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from operant.core.errors import InputError
from operant.core.linear import Active, Features


class World:
    """An environment with discrete actions, whose observations are numbers of states or become active features.

    `place` holds the steps in this episode and the episodes finished, `score` the rewards of this one, `returns` those
    of the last `episodes`. Raises `InputError` for other actions, and for observations that need `features`.
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
        if features is None and not isinstance(self.env.observation_space, spaces.Discrete):
            raise InputError(
                f"{self.env} shows {self.env.observation_space}, not numbers of states: give features, such as tiles"
            )
        self.count = int(self.env.action_space.n)
        self.see: Callable[[Any], Features] = features or int
        self.place = np.zeros(2, dtype=np.int64)
        self.score = np.zeros(1)
        self.returns = np.zeros(episodes)
        self.seed: int | None = seed
        self.reset()

    def current(self) -> Features:
        return self.state

    def actions(self) -> int:
        return self.count

    def step(self, action: int) -> tuple[float, Features, bool, bool]:
        seen, reward, terminated, truncated, _ = self.env.step(action)
        self.state = self.see(seen)
        self.place[0] += 1
        self.score[0] += reward
        if terminated or truncated:
            self.returns[self.place[1] % len(self.returns)] = self.score[0]
            self.place[1] += 1
        return float(reward), self.state, terminated, truncated

    def reset(self) -> Features:
        seen, _ = self.env.reset(seed=self.seed)
        self.seed = None
        self.place[0], self.score[0] = 0, 0.0
        self.state = self.see(seen)
        return self.state
