"""CartPole without velocities: the same steps as CartPole, less shown; and who can learn it."""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import vector

from operant.algorithms.policy_gradient import ppo
from operant.envs.normalise import ObservationNormalizer
from operant.envs.runner import Runner
from operant.envs.saving import resumes
from operant.networks.actor_critic import actor_critic
from operant.networks.recurrent import recurrent_actor_critic

NAME = "operant.envs.partial:CartPole-NoVelocity-v1"


@pytest.mark.parametrize("how", ["vector_entry_point", "sync"])
def test_it_is_cartpole_with_half_of_it_shown(how):
    whole, part = (gymnasium.make_vec(name, 3, vectorization_mode=how) for name in ("CartPole-v1", NAME))
    seen = [env.reset(seed=1)[0] for env in (whole, part)]
    generator = np.random.default_rng(0)
    for _ in range(60):
        assert seen[1] in part.observation_space
        np.testing.assert_array_equal(seen[0][:, [0, 2]], seen[1])
        action = generator.integers(2, size=3)
        steps = [env.step(action) for env in (whole, part)]
        np.testing.assert_array_equal(np.stack(steps[0][1:4]), np.stack(steps[1][1:4]))
        seen = [step[0] for step in steps]


def test_it_resumes_and_ends_after_500_steps():
    one = gymnasium.make(NAME)
    assert one.spec.max_episode_steps == 500
    assert resumes(one)
    assert resumes(gymnasium.make_vec(NAME, 2))
    assert resumes(SyncVectorEnv([lambda: gymnasium.make(NAME)]))


def test_a_wrapper_of_a_vector_that_has_a_state_does_not_resume():
    assert not resumes(vector.NormalizeObservation(gymnasium.make_vec("CartPole-v1", 2)))


CONFIG = ppo.Config(
    iterations=16, rollout=128, minibatch=4, epochs=4, learning_rate=4e-3, schedule="constant", entropy_coefficient=0.0
)
THRESHOLD = 90.0


def learn(make: Any, **settings: Any) -> float:
    """Mean return of the last four rollouts."""
    torch.manual_seed(0)
    world = Runner(gymnasium.make_vec(NAME, 16), seed=0, observations=ObservationNormalizer((2,)))
    policy = make(world.observation_space, world.env.single_action_space)
    config, returns = dataclasses.replace(CONFIG, **settings), []
    for _ in ppo.train(ppo.init(policy, world, config), config):
        returns.append(world.pop_returns())
    last = [x for some in returns[-4:] for x in some]
    return sum(last) / len(last)


def test_memory_learns_what_a_reflex_cannot(unchecked_types):
    """A random agent returns about 22, and without memory no policy gets far above 50."""
    assert learn(recurrent_actor_critic) > THRESHOLD
    assert learn(actor_critic, minibatch=512) < 0.7 * THRESHOLD
    assert learn(recurrent_actor_critic, learning_rate=1e-12, iterations=4) < 0.4 * THRESHOLD
