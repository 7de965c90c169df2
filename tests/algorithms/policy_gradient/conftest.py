"""Worlds whose values are known."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from operant.envs.runner import Runner


class Constant(gymnasium.Env):
    """Shows 1, pays 1 and ends, by termination or by truncation, after 10 steps."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, truncates: bool) -> None:
        self.truncates, self.time = truncates, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        ended = self.time == 10
        return np.ones(1, np.float32), 1.0, ended and not self.truncates, ended and self.truncates, {}


@pytest.fixture
def constant() -> Callable[..., Runner]:
    """Environments that look the same at every step: with γ 0.9 and truncation a state is worth 1 / (1 - 0.9) = 10."""

    def make(truncates: bool, envs: int = 10, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> Runner:
        return Runner(SyncVectorEnv([lambda: Constant(truncates)] * envs, autoreset_mode=mode))

    return make


class Corridor(gymnasium.Env):
    """Seven places, one of them shown. From the middle to the right end is worth 1, to the left end nothing."""

    observation_space = spaces.Box(0, 1, (7,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = 3
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place += 2 * int(action) - 1
        return self._seen(), float(self.place == 6), self.place in (0, 6), False, {}

    def _seen(self) -> np.ndarray:
        return np.eye(7, dtype=np.float32)[self.place]


@pytest.fixture
def corridor() -> Callable[[int], Runner]:
    """A walk whose reward comes late. Random steps earn 1/2 on average, those to the right 1."""
    return lambda envs: Runner(SyncVectorEnv([Corridor] * envs, autoreset_mode=AutoresetMode.NEXT_STEP))
