"""A Gymnasium environment as a world: what it shows, how it is saved, what it refuses."""

import itertools

import gymnasium
import numpy as np
import pytest

from operant.algorithms.planning import dyna_q
from operant.algorithms.temporal_difference import monte_carlo_control, n_step_sarsa, q_learning, sarsa, sarsa_lambda
from operant.core.errors import InputError
from operant.core.features import tiles
from operant.core.linear import Active
from operant.core.random import stream
from operant.envs.world import World, _numbering, rows_of
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


class Counted(gymnasium.Env):
    """Four states in a row, of which the last is over; one of two actions goes on. Both are counted from `start`."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.observation_space, self.action_space = (gymnasium.spaces.Discrete(n, start=start) for n in (4, 2))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self.start, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place += int(action - self.start)
        return self.start + self.place, float(self.place), self.place == 3, False, {}


@pytest.mark.parametrize("module", [q_learning, sarsa_lambda, monte_carlo_control, n_step_sarsa, dyna_q])
@pytest.mark.parametrize("start", [1, -2])
def test_spaces_may_start_at_another_number(module, start, tmp_path):
    """The table is that of the same environment counted from 0, and goes on from a checkpoint."""
    config = module.Config(steps=300, report_every=100, epsilon=0.5)
    states = [module.init(World(Counted(k)), config) for k in (0, start)]
    resumed = module.init(World(Counted(start)), config)
    for state in states:
        for _ in module.train(state, config):
            pass
    assert states[0].world.place[2] >= 10
    assert all(state.world.shape == (4, 2) and state.world.actions() == 2 for state in states)
    assert [state.world.seen - state.world.current() for state in states] == [0, start]
    np.testing.assert_array_equal(states[0].w, states[1].w)
    checkpoint.save(tmp_path / "end", states[1])
    checkpoint.load(tmp_path / "end", resumed)
    np.testing.assert_array_equal(resumed.w, states[0].w)
    assert resumed.world.current() == 0


def test_a_policy_by_table_has_a_row_for_each_state_wherever_they_start():
    """A table is asked for the row counted from 0; a function is told what was observed."""
    table = np.array([[0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
    world, told = World(Counted(1)), []
    for s in range(3):
        assert world.chance(table, 1) == table[s, 1]
        assert world.chance(lambda seen: [told.append(seen) or 0.1, 0.9], 1) == 0.9
        assert world.act(np.eye(2)[[1, 1, 1, 1]], stream(0)) == 1
        assert world.step(1)[1] == s + 1
    assert told == [1, 2, 3]


def test_a_known_environment_that_starts_at_another_number_is_saved(monkeypatch, tmp_path):
    """In the middle of an episode: the state is its own row, and the next steps are those of the whole run."""
    monkeypatch.setattr("operant.envs.saving.ATTRIBUTES", (Counted.__module__,))
    config = sarsa.Config(steps=300, report_every=101, epsilon=0.5)
    state = sarsa.init(World(Counted(1)), config)
    metrics = sarsa.train(state, config)
    next(metrics)
    place = state.world.current()
    checkpoint.save(tmp_path / "third", state)
    resumed = sarsa.init(World(Counted(1), seed=7), config, seed=7)
    checkpoint.load(tmp_path / "third", resumed)
    assert resumed.world.current() == place == resumed.world.seen - 1 > 0
    assert list(sarsa.train(resumed, config)) == list(metrics)
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


def test_a_tuple_of_numbers_has_a_row_for_each_of_its_values():
    spaces = gymnasium.spaces
    space = spaces.Tuple((spaces.Discrete(3, start=1), spaces.Discrete(2), spaces.Discrete(4, start=-1)))
    world = World("Blackjack-v1")
    assert world.shape == (32 * 11 * 2, 2)
    assert world.current() == (world.seen[0] * 11 + world.seen[1]) * 2 + world.seen[2]
    number = _numbering(space)
    seen = itertools.product(range(1, 4), range(2), range(-1, 3))
    assert [number(x) for x in seen] == list(range(24)) == list(range(rows_of(space) or 0))
    assert rows_of(spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1)))) is None
    assert rows_of(spaces.Tuple([spaces.Discrete(1000)] * 3)) is None


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
    ],
)
def test_spaces_that_do_not_fit_are_refused(name, words):
    with pytest.raises(InputError, match=words):
        World(name)
