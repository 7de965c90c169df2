"""How good a policy is: whole episodes that nothing is learned from."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from operant.envs.runner import Runner


def play(
    policy: Any, runner: Runner, episodes: int, greedy: bool = True, longest: int = 30_000
) -> Iterator[tuple[float, int]]:
    """(return, length) of `episodes` episodes, shared equally by the environments of a runner that was just made.

    Every environment plays a number of episodes that is fixed beforehand: of those that come to their end first there
    would be too many short ones. Episodes of more than `longest` steps on average are given up, and fewer come.
    """
    envs = runner.env.num_envs
    left = np.full(envs, episodes // envs) + (np.arange(envs) < episodes % envs)
    total, length = np.zeros(envs), np.zeros(envs, dtype=np.int64)
    steps = longest * int(left.max())
    while left.any() and steps:
        mask = ~runner.resetting
        reward, terminated, truncated, _ = runner.step(runner.choose(policy, greedy))
        total, length, steps = total + np.where(mask, reward, 0.0), length + mask, steps - 1
        for i in ((terminated | truncated) & mask).nonzero()[0]:
            if left[i]:
                yield float(total[i]), int(length[i])
                left[i] -= 1
            total[i], length[i] = 0.0, 0
