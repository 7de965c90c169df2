"""Environments that step one after another show what Gymnasium's own vector of them shows."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from operant.envs.runner import Runner
from operant.envs.sync import LightVector
from operant.networks.actor_critic import actor_critic
from tests.envs.test_runner import DECIDED, TERMINATES, TRUNCATES, Count, Scripted
from tests.envs.test_saving import goes_on


def counting(*lengths: tuple[int, bool]) -> list[Any]:
    return [lambda i=i, n=n, cut=cut: Count(i, n, cut) for i, (n, cut) in enumerate(lengths)]


def test_a_rollout_is_that_of_gymnasiums_vector():
    lengths = (TERMINATES, TRUNCATES, (1, False), (1, True), (7, True))
    light, theirs = (
        Runner(vector).rollout(Scripted(), 20)
        for vector in (
            LightVector(counting(*lengths)),
            SyncVectorEnv(counting(*lengths), autoreset_mode=AutoresetMode.SAME_STEP),
        )
    )
    for name in (*DECIDED, "mask"):
        assert torch.equal(getattr(light, name), getattr(theirs, name)), name
    assert light.mask.all()


def test_every_environment_has_a_seed_of_its_own():
    makers = [lambda: gymnasium.make("CartPole-v1")] * 3
    light, theirs = LightVector(makers), SyncVectorEnv(makers)
    np.testing.assert_array_equal(light.reset(seed=5)[0], theirs.reset(seed=5)[0])


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_it_goes_on_bit_for_bit(name):
    def make() -> Runner:
        return Runner(LightVector([lambda: gymnasium.make(name, max_episode_steps=30)] * 2))

    runner = make()
    spaces = runner.env.single_observation_space, runner.env.single_action_space
    goes_on(runner, make(), actor_critic(*spaces))
