"""How good a policy is: whole episodes that nothing is learned from."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operant.envs.runner import Runner


class Episodes(NamedTuple):
    """What episodes came to, in no order."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]


def evaluate(policy: Any, runner: Runner, episodes: int, greedy: bool = True, longest: int = 30_000) -> Episodes:
    """Returns and lengths of `episodes` episodes, shared equally by the environments of a runner that was just made.

    Every environment plays a number of episodes that is fixed beforehand: of those that come to their end first there
    would be too many short ones. Episodes of more than `longest` steps on average are given up, and fewer come back.
    """
    envs = runner.env.num_envs
    left = np.full(envs, episodes // envs) + (np.arange(envs) < episodes % envs)
    total, length = np.zeros(envs), np.zeros(envs, dtype=np.int64)
    returns: list[float] = []
    lengths: list[int] = []
    steps = longest * int(left.max())
    while left.any() and steps:
        mask = ~runner.resetting
        reward, terminated, truncated, _ = runner._step(runner.choose(policy, greedy))
        total, length, steps = total + np.where(mask, reward, 0.0), length + mask, steps - 1
        for i in ((terminated | truncated) & mask).nonzero()[0]:
            if left[i]:
                returns.append(float(total[i]))
                lengths.append(int(length[i]))
                left[i] -= 1
            total[i], length[i] = 0.0, 0
    return Episodes(np.array(returns), np.array(lengths, dtype=np.int64))
