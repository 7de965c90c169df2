"""Environments whose values are known, for algorithms that learn from replay."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from operant.envs.runner import Runner


class Constant(gymnasium.Env[Any, Any]):
    """Nothing to see, a reward of 1 a step, over after `length` steps: by termination, or cut off."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, actions: spaces.Space[Any], terminates: bool, length: int = 5) -> None:
        self.action_space, self.terminates, self.length = actions, terminates, length

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=settings.get("seed"))
        self.steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps == self.length
        return np.ones(1, np.float32), 1.0, over and self.terminates, over and not self.terminates, {}


class Corridor(gymnasium.Env[Any, Any]):
    """Six places in a row, the start the second: the left end pays 0.2 at once, the right end 1 after four steps."""

    observation_space = spaces.Box(0, 1, (6,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=settings.get("seed"))
        self.place, self.steps = 1, 0
        return self.seen(), {}

    def seen(self) -> Any:
        return np.eye(6, dtype=np.float32)[self.place]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += 1 if action == 1 else -1
        self.steps += 1
        reward = {0: 0.2, 5: 1.0}.get(self.place, 0.0)
        return self.seen(), reward, self.place in (0, 5), self.steps == 20, {}


class Reach(gymnasium.Env[Any, Any]):
    """A point on a line, moved by a push from a lopsided box; it is paid for being near 0, over eight steps.

    `push` [-1, 3] is taken relative to the middle of the box: the second number of the action does nothing.
    """

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(np.array([-1.0, -0.4], np.float32), np.array([3.0, 0.4], np.float32))

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=settings.get("seed"))
        self.x, self.steps = self.np_random.uniform(-2, 2), 0
        return self.seen(), {}

    def seen(self) -> Any:
        return np.array([self.x, self.steps / 8], np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.x = float(np.clip(self.x + 0.5 * (action[0] - 1.0), -3, 3))
        self.steps += 1
        return self.seen(), -abs(self.x), False, self.steps == 8, {}


def world(
    make: Callable[[], gymnasium.Env[Any, Any]],
    envs: int = 1,
    seed: int = 0,
    mode: AutoresetMode = AutoresetMode.SAME_STEP,
) -> Runner:
    return Runner(SyncVectorEnv([make] * envs, autoreset_mode=mode), seed=seed)


def greedy_return(make: Callable[[], gymnasium.Env[Any, Any]], policy: Any, episodes: int = 10) -> float:
    """Mean return of greedy episodes, in environments of their own."""
    runner, returns = world(make, envs=5, seed=123), []
    while len(returns) < episodes:
        runner.play(policy, 5)
        returns += runner.pop_returns()
    return float(np.mean(returns[:episodes]))
