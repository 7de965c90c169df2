"""Evaluation: whole episodes, a fixed number from each environment."""

import gymnasium
import numpy as np
import torch
from torch import Tensor

from operant.envs.evaluation import play
from operant.envs.make import Light, make
from operant.envs.runner import Runner


class Timed(gymnasium.Env):
    """Pays 1 a step; its episodes are as long as it was told, or go on for ever."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == self.length, False, {}


class Still:
    memory = False

    def choose(self, observation: Tensor, greedy: bool = False) -> Tensor:
        return torch.zeros(len(observation), dtype=torch.long)


def test_short_episodes_do_not_crowd_out_long_ones():
    runner = Runner(Light([lambda: Timed(2), lambda: Timed(100)]), 2)
    found = sorted(play(Still(), runner, 7))
    assert found == [(2.0, 2)] * 4 + [(100.0, 100)] * 3


def test_episodes_that_never_end_are_given_up():
    runner = Runner(Light([lambda: Timed(3), lambda: Timed(0)]), 2)
    assert list(play(Still(), runner, 4, longest=10)) == [(3.0, 3), (3.0, 3)]


def test_with_a_reset_step_the_same_episodes_come_out():
    """CartPole's own vector implementation resets in a step of its own, others in the step that ends an episode."""
    native, plain = make("CartPole-v1", 4), make("CartPole-v1", 3)
    assert type(native) is not type(plain)
    for env in (native, plain):
        found = list(play(Still(), Runner(env, env.num_envs), 12))
        assert len(found) == 12
        assert all(8 <= length == total <= 11 for total, length in found)
