"""CartPole-NoVelocity-v1: Gymnasium's CartPole-v1 that shows where cart and pole are, and not how fast they move.

What is shown does not say which way the pole falls; who remembers the step before can tell. Its name from outside is
`operant.envs.partial:CartPole-NoVelocity-v1`.
"""

from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.wrappers import TransformObservation
from gymnasium.wrappers.vector import TransformObservation as TransformObservations

PLACES = [0, 2]
"""The cart's place and the pole's angle, without the speed behind each."""


def _box(space: Any) -> spaces.Box:
    return spaces.Box(space.low[PLACES], space.high[PLACES])


def without_velocity(render_mode: str | None = None, **settings: Any) -> gymnasium.Env:
    """One environment."""
    env = CartPoleEnv(render_mode=render_mode, **settings)
    return TransformObservation(env, lambda seen: seen[PLACES], _box(env.observation_space))


def vector_without_velocity(num_envs: int = 1, **settings: Any) -> gymnasium.vector.VectorEnv:
    """Many in one array."""
    env = CartPoleVectorEnv(num_envs, **settings)
    return TransformObservations(
        env, lambda seen: seen[:, PLACES], single_observation_space=_box(env.single_observation_space)
    )


gymnasium.register(
    "CartPole-NoVelocity-v1",
    "operant.envs.partial:without_velocity",
    max_episode_steps=500,
    reward_threshold=475.0,
    vector_entry_point="operant.envs.partial:vector_without_velocity",
)
