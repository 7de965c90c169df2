"""A run that is saved and put into fresh environments goes on as if it had not stopped."""

import importlib.util
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from operant.core.errors import InputError
from operant.envs.normalise import ObservationNormalizer, RewardNormalizer
from operant.envs.runner import Runner
from operant.envs.saving import resumes
from operant.experiment.structure import Tensors, encode, place
from operant.networks.actor_critic import actor_critic
from tests.envs.test_runner import DECIDED, MODES, TERMINATES, TRUNCATES, Scripted, in_mode

needs_mujoco = pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("mujoco", "imageio")), reason="needs gymnasium[mujoco]"
)
CLASSIC = ["CartPole-v1", "MountainCar-v0", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0"]
MUJOCO = ["HalfCheetah", "Hopper", "Walker2d", "Swimmer", "Reacher", "Ant", "Humanoid", "InvertedDoublePendulum"]
NAMES = CLASSIC + [pytest.param(f"{name}-v5", marks=needs_mujoco) for name in [*MUJOCO, "InvertedPendulum", "Pusher"]]


def make(name: str, mode: AutoresetMode = AutoresetMode.NEXT_STEP, seed: int = 0, **settings: Any) -> Runner:
    env = SyncVectorEnv([lambda: gymnasium.make(name, max_episode_steps=30)] * 2, autoreset_mode=mode)
    return Runner(env, seed=seed, **settings)


def normalisers(runner: Runner) -> dict[str, Any]:
    shape = runner.env.single_observation_space.shape
    return {"observations": ObservationNormalizer(shape), "rewards": RewardNormalizer(runner.env.num_envs, 0.99)}


def carried(runner: Runner, fresh: Runner) -> None:
    """Through the structure of a checkpoint, as a run would."""
    tensors = Tensors()
    node = encode(runner, "runner", tensors)
    place(node, fresh, {name: x.clone() for name, x in tensors.named.items()})


def goes_on(runner: Runner, fresh: Runner, policy: Any, steps: int = 45) -> None:
    assert runner.resumes
    runner.rollout(policy, 40)
    carried(runner, fresh)
    random = torch.get_rng_state()
    due = runner.rollout(policy, steps)
    torch.set_rng_state(random)
    found = fresh.rollout(policy, steps)
    assert due.done.any()
    for name in (*DECIDED, "mask"):
        assert torch.equal(getattr(found, name), getattr(due, name)), name
    assert fresh.pop_returns() == runner.pop_returns()
    assert fresh.pop_lengths() == runner.pop_lengths()


@pytest.mark.parametrize("name", NAMES)
def test_sync_vectors_go_on_bit_for_bit(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log into the folder it is started in
    first = make(name)
    policy = actor_critic(first.env.single_observation_space, first.env.single_action_space)
    goes_on(make(name, **normalisers(first)), make(name, seed=5, **normalisers(first)), policy)


@pytest.mark.parametrize("mode", MODES)
def test_so_they_do_in_every_mode(mode):
    first = make("Acrobot-v1", mode)
    policy = actor_critic(first.env.single_observation_space, first.env.single_action_space)
    goes_on(first, make("Acrobot-v1", mode, seed=5), policy)


def test_gymnasiums_own_vector_goes_on_bit_for_bit():
    first = Runner("CartPole-v1", envs=5)
    policy = actor_critic(first.env.single_observation_space, first.env.single_action_space)
    goes_on(first, Runner("CartPole-v1", envs=5, seed=5), policy)


class Walk(gymnasium.Env):
    """Steps of a drunkard, who knows where he is."""

    observation_space = gymnasium.spaces.Box(-100, 100, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(1, np.float32)
        return self.place, {}

    def step(self, action):
        self.place = self.place + np.float32(action + self.np_random.normal())
        return self.place, float(self.place[0]), False, False, {}


class KnownWalk(Walk):
    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def test_an_environment_that_knows_its_state_goes_on_bit_for_bit_behind_wrappers():
    def walk(kind, seed):
        makers = [lambda: gymnasium.wrappers.TimeLimit(kind(), 30)] * 2
        return Runner(SyncVectorEnv(makers), seed=seed)

    first = walk(KnownWalk, 0)
    policy = actor_critic(first.env.single_observation_space, first.env.single_action_space)
    goes_on(first, walk(KnownWalk, 5), policy)
    assert not walk(Walk, 0).resumes


def test_a_state_that_an_environment_cannot_take_back_is_told():
    class Forgetful(KnownWalk):
        def load_state_dict(self, state):
            self.place = state["palace"]

    runner = Runner(SyncVectorEnv([Forgetful]))
    with pytest.raises(InputError, match=r"load_state_dict\(\) of Forgetful raised KeyError: 'palace'"):
        runner.load_state_dict(runner.state_dict())


def test_a_saved_state_does_not_change_with_its_run():
    """The environments move their arrays in place."""
    runner = Runner("CartPole-v1", envs=3)
    policy = actor_critic(runner.env.single_observation_space, runner.env.single_action_space)
    state = runner.state_dict()
    first = runner.rollout(policy, 30)
    for _ in range(2):
        runner.load_state_dict(state)
        torch.manual_seed(0)
        again = runner.rollout(policy, 30)
    assert torch.equal(again.observation[:, 0], first.observation[:, 0])
    assert runner.steps == 30


def test_what_cannot_be_saved_says_so_and_begins_new_episodes():
    runner, fresh = in_mode(MODES[0], TERMINATES, TRUNCATES), in_mode(MODES[0], TERMINATES, TRUNCATES)
    assert not runner.resumes
    assert not resumes(gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("CartPole-v1")))
    assert resumes(gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), -1, 1))
    runner.rollout(Scripted(), 5)
    carried(runner, fresh)
    assert fresh.pop_returns() == runner.pop_returns() == [63.0, 106.0]
    t = fresh.rollout(Scripted(), 5)
    assert t.observation[:, 0, 1].tolist() == [0, 0]
    assert fresh.pop_returns() == [63.0, 106.0]


def test_the_state_of_another_environment_is_refused():
    state = make("Acrobot-v1").state_dict()
    with pytest.raises(InputError, match="2 x Acrobot-v1, and this run has 2 x Pendulum-v1"):
        make("Pendulum-v1").load_state_dict(state)
