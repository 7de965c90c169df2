"""Any Gymnasium vector environment with NEXT_STEP autoreset as a source of trajectories."""

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from operant.core.errors import InputError
from operant.core.record import Policy, Trajectory


class Runner:
    """B environments that step together and go on where the last rollout stopped.

    Gymnasium's NEXT_STEP autoreset ignores the action after an episode's end and returns the reset observation: that
    step is no decision (`mask` False). The observation at the ending step is the true last one, so the value of the
    state really reached is the value of the observation returned, truncated or not.
    """

    def __init__(self, env: str | VectorEnv, envs: int = 8, seed: int = 0) -> None:
        self.env = gymnasium.make_vec(env, num_envs=envs) if isinstance(env, str) else env
        mode = self.env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise InputError(
                f"the runner needs NEXT_STEP autoreset, the environment has {mode}; make it with NEXT_STEP"
            )
        observation, _ = self.env.reset(seed=seed)
        self.observation = torch.tensor(observation, dtype=torch.float32)
        self.resetting = np.zeros(self.env.num_envs, dtype=bool)
        self.running_return = np.zeros(self.env.num_envs)
        self.finished_returns: list[float] = []

    def rollout(self, policy: Policy, size: int) -> Trajectory:
        """`size` steps of every environment, as [B, size] decisions."""
        columns: list[tuple[torch.Tensor, ...]] = []
        for _ in range(size):
            action, log_prob, value, _ = policy.act(self.observation)
            observation, reward, terminated, truncated, _ = self.env.step(action.numpy())
            columns.append((
                self.observation, action, log_prob, value, torch.tensor(reward, dtype=torch.float32),
                torch.tensor(terminated), torch.tensor(truncated), torch.tensor(~self.resetting),
            ))  # fmt: skip
            self._count(reward, terminated | truncated)
            self.resetting = terminated | truncated
            self.observation = torch.tensor(observation, dtype=torch.float32)
        last_value = policy.act(self.observation)[2]
        seen, action, log_prob, value, reward, terminated, truncated, mask = (
            torch.stack(column, dim=1) for column in zip(*columns, strict=True)
        )
        next_value = torch.cat([value[:, 1:], last_value.unsqueeze(1)], dim=1)
        return Trajectory(
            observation=seen, action=action, log_prob=log_prob, value=value, next_value=next_value, reward=reward,
            discount=(~terminated).float(), terminated=terminated, truncated=truncated, mask=mask,
        )  # fmt: skip

    def _count(self, reward: np.ndarray, done: np.ndarray) -> None:
        self.running_return[self.resetting] = 0.0
        self.running_return += np.where(self.resetting, 0.0, reward)
        self.finished_returns += self.running_return[done].tolist()

    def pop_returns(self) -> list[float]:
        """Returns of the episodes that ended since the last call."""
        returns, self.finished_returns = self.finished_returns, []
        return returns
