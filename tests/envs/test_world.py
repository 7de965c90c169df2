"""A Gymnasium environment as a world: what it shows, how it is saved, what it refuses."""

import gymnasium
import numpy as np
import pytest

from operant.algorithms.temporal_difference import q_learning, sarsa
from operant.core.errors import InputError
from operant.core.features import tiles
from operant.core.linear import Active
from operant.core.random import stream
from operant.envs.world import World
from operant.experiment import checkpoint
from operant.mdp.model import from_gymnasium
from operant.mdp.simulator import follow, simulator


def car(seed: int = 0) -> World:
    return World("MountainCar-v0", seed, tiles([-1.2, -0.07], [0.6, 0.07]))


def test_it_is_the_environment_step_for_step():
    world, env = World("Taxi-v4", seed=3), gymnasium.make("Taxi-v4")
    s, rng, total, episodes = env.reset(seed=3)[0], np.random.default_rng(0), 0.0, 0
    for _ in range(1000):
        assert world.current() == s
        action = int(rng.integers(world.actions()))
        s, reward, terminated, truncated, _ = env.step(action)
        assert world.step(action) == (reward, s, terminated, truncated)
        total += float(reward)
        if terminated or truncated:
            episodes += 1
            assert (world.returns[world.place[2] - 1], world.lengths[world.place[2] - 1]) == (total, world.place[1])
            s, total = env.reset()[0], 0.0
            assert world.reset() == s
        assert world.place[2] == episodes
    assert episodes >= 5


def test_a_time_limit_truncates():
    world = car()
    ends = [world.step(1)[2:] for _ in range(200)]
    assert ends[-2:] == [(False, False), (False, True)]


def test_features_are_those_of_the_observation():
    world, observation = car(), gymnasium.make("MountainCar-v0").reset(seed=0)[0]
    assert world.shape == (world.features.size, 3)
    assert isinstance(world.current(), Active)
    np.testing.assert_array_equal(world.current().index, world.features(observation).index)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("FrozenLake-v1", None),
        ("Taxi-v4", None),
        ("CliffWalking-v1", None),
        ("MountainCar-v0", tiles([-1.2, -0.07], [0.6, 0.07])),
        ("CartPole-v1", tiles([-2.4, -3, -0.2, -3], [2.4, 3, 0.2, 3], tilings=4, across=4)),
        ("Acrobot-v1", tiles([-1] * 4 + [-12.6, -28.3], [1] * 4 + [12.6, 28.3], tilings=2, across=2)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_resumed_run_is_the_whole_run(name, features, tmp_path):
    config = sarsa.Config(steps=900, report_every=333, epsilon=0.3)
    state = sarsa.init(World(name, 1, features), config, seed=1)
    metrics = sarsa.train(state, config)
    next(metrics)
    checkpoint.save(tmp_path / "third", state)
    resumed = sarsa.init(World(name, 7, features), config, seed=7)
    checkpoint.load(tmp_path / "third", resumed)
    assert list(sarsa.train(resumed, config)) == list(metrics)
    np.testing.assert_array_equal(resumed.w, state.w)
    assert resumed.world.resumes


class Corridor(gymnasium.Env):
    """An environment that is not known: its state is where nobody can see it."""

    observation_space, action_space = gymnasium.spaces.Discrete(3), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._hidden = 0
        return 0, {}

    def step(self, action):
        self._hidden += 1
        return self._hidden, 1.0, self._hidden == 2, False, {}


def test_an_unknown_environment_goes_on_with_a_new_episode(tmp_path):
    config = q_learning.Config(steps=3, report_every=3)
    state = q_learning.init(World(Corridor()), config)
    list(q_learning.train(state, config))
    assert not state.world.resumes
    assert (state.world.place[1], state.world.score[0]) == (1, 1.0)
    checkpoint.save(tmp_path / "end", state)
    resumed = q_learning.init(World(Corridor()), config)
    checkpoint.load(tmp_path / "end", resumed)
    assert (resumed.world.place.tolist(), resumed.world.score[0], resumed.world.current()) == ([0, 0, 1], 0.0, 0)
    np.testing.assert_array_equal(resumed.w, state.w)


def test_learning_on_the_environment_and_on_its_model_is_the_same_in_the_mean():
    """FrozenLake without slipping: Q of every pair that was tried often has the same value from both."""
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    config = q_learning.Config(steps=15_000, epsilon=1.0, alpha=0.5, gamma=0.9)
    on_environment = q_learning.init(World(env), config)
    list(q_learning.train(on_environment, config))
    config = q_learning.Config(steps=100_000, epsilon=1.0, alpha=0.5)
    on_model = q_learning.init(simulator(from_gymnasium(env, 0.9), 0), config)
    list(q_learning.train(on_model, config))
    np.testing.assert_allclose(on_environment.w, on_model.w[:16], atol=0.01)


def test_a_policy_is_followed_without_learning():
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    w = np.zeros((16, 4))
    for s, a in {0: 2, 1: 2, 2: 1, 6: 1, 10: 1, 14: 2}.items():
        w[s, a] = 1.0
    for world, loop in ((World(env), follow.py_func), (simulator(from_gymnasium(env, 0.9), 0), follow)):
        before = w.copy()
        table = w if isinstance(world, World) else np.vstack([w, np.zeros(4)])
        loop(world, table, stream(0), 5, 1000)
        assert world.place[2] == 5
        assert (world.returns[:5] == 1.0).all()
        assert (world.lengths[:5] == 6).all()
        np.testing.assert_array_equal(w, before)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Pendulum-v1", "a table needs a Discrete space"),
        ("CartPole-v1", "give features, such as tiles"),
        ("Blackjack-v1", "give features, such as tiles"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(name, words):
    with pytest.raises(InputError, match=words):
        World(name)
