"""`operant train --device`: networks of images on an accelerator, also on the stand-in of `make test-device`."""

import copy
import json
import shutil
import sys
import types

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from operant.algorithms.policy_gradient import a2c, ppo
from operant.algorithms.temporal_difference import dqn
from operant.cli.main import main
from operant.cli.trained import load
from operant.core.device import device
from operant.core.errors import InputError
from operant.envs.runner import Runner
from operant.networks.action_values import q_network
from operant.networks.actor_critic import actor_critic

NAME = "lamps:Lamp-v0"
SHORT = ["--evaluation-episodes", "2", "--checkpoint-every", "1"]
ROLLOUTS = ["--steps", "96", "--envs", "2", "--rollout", "12"]
REPLAY = ["--steps", "96", "--envs", "2", "--learning-starts", "24", "--batch", "8", "--report-every", "24"]


class Lamp(gymnasium.Env):
    """A picture that is bright or dark; the action that says which earns 1. Ten steps."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._picture(), {}

    def step(self, action):
        reward = float(action == self.bright)
        return self._picture(), reward, False, False, {}

    def state_dict(self):
        return {"bright": self.bright}

    def load_state_dict(self, state):
        self.bright = state["bright"]

    def _picture(self):
        self.bright = int(self.np_random.integers(2))
        return np.full((1, 36, 36), 50 + 150 * self.bright, np.uint8)


@pytest.fixture(autouse=True)
def lamps(monkeypatch):
    module = types.ModuleType("lamps")
    monkeypatch.setitem(sys.modules, "lamps", module)
    monkeypatch.setitem(
        gymnasium.registry, "Lamp-v0", gymnasium.envs.registration.EnvSpec("Lamp-v0", Lamp, max_episode_steps=10)
    )


@pytest.fixture
def pretended(monkeypatch):
    """PyTorch says that it has one CUDA device; nothing can be moved there."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if not name.startswith("time/")} for line in lines]


class TestDevice:
    def test_the_best_there_is_is_taken_unasked(self, pretended):
        assert device() == torch.device("cuda")
        assert device("cpu") == torch.device("cpu")
        assert device("cuda:0") == torch.device("cuda", 0)

    @pytest.mark.parametrize("name", ["cuda:1", "mps", "meta", "nonsense", ""])
    def test_what_is_not_there_is_refused(self, pretended, name):
        with pytest.raises(InputError, match=f"--device is {name}, and PyTorch finds cpu and cuda here"):
            device(name)

    @pytest.mark.parametrize(
        ("words", "who"),
        [
            (["td3", "Pendulum-v1"], "a small network"),
            (["ppo", "CartPole-v1"], "a small network"),
            (["a3c", NAME, "--workers", "1"], "a3c, whose processes share the CPU's memory"),
        ],
    )
    def test_who_stays_on_the_cpu_cannot_be_sent_elsewhere(self, pretended, words, who, tmp_path, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["train", *words, "--device", "cuda", "--out", str(tmp_path / "run")])
        assert f"--device cuda is not for {who}: leave it out" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_small_network_is_not_moved_unasked(self, pretended, tmp_path):
        small = ["--steps", "64", "--envs", "2", "--rollout", "16", "--evaluation-episodes", "2"]
        main(["train", "ppo", "CartPole-v1", *small, "--out", str(tmp_path)])
        assert next(load(tmp_path).policy.parameters()).device.type == "cpu"


@pytest.mark.gpu
class TestAccelerator:
    @pytest.fixture(autouse=True)
    def really_elsewhere(self, monkeypatch):
        assert device().type != "cpu"
        if device().type == "stand_in":  # PyTorch expects a GRU of its own from such devices, and no RNN
            monkeypatch.setattr(torch.nn, "GRU", torch.nn.RNN)

    @pytest.fixture
    def world(self):
        return Runner("Lamp-v0", 2)

    @pytest.mark.parametrize(
        "words",
        [
            ["ppo", *ROLLOUTS, "--minibatch", "12"],
            ["ppo", *ROLLOUTS, "--minibatch", "1", "--memory", "gru"],
            ["a2c", *ROLLOUTS, "--report-every", "1"],
            ["reinforce", "--steps", "80", "--envs", "2"],
            ["dqn", *REPLAY],
            ["dqn", *REPLAY, "--prioritised", "True", "--double", "True", "--duelling", "True"],
        ],
        ids=["ppo", "ppo with memory", "a2c", "reinforce", "dqn", "dqn with all options"],
    )
    def test_trains_there_resumes_and_is_evaluated(self, words, tmp_path, capsys):
        algorithm, *sizes = words
        whole, cut, figures = tmp_path / "whole", tmp_path / "cut", tmp_path / "figures.json"
        main(["train", algorithm, NAME, *sizes, *SHORT, "--out", str(whole)])
        assert load(whole).policy.device.type == device().type
        shutil.copytree(whole, cut)
        (cut / "summary.json").unlink()
        *_, last = sorted((cut / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
        shutil.rmtree(last)
        main(["train", "--resume", "--out", str(cut)])
        assert len(metrics(whole)) >= 2
        for a, b in zip(metrics(whole), metrics(cut), strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
        main(["evaluate", str(whole), "--episodes", "2", "--stochastic", "True", "--out", str(figures)])
        assert json.loads(figures.read_text())["length"]["mean"] == 10

    @pytest.mark.parametrize("objective", ["clip", "kl"])
    def test_an_update_of_ppo_is_that_of_the_cpu(self, world, objective):
        policy = actor_critic(world.observation_space, world.actions)
        trajectory = world.rollout(policy, 12)
        config = ppo.Config(minibatch=8, epochs=2, objective=objective)
        found = []
        for place in (torch.device("cpu"), device()):
            torch.manual_seed(0)
            state = ppo.init(copy.deepcopy(policy).to(place), world, config)
            shown = ppo.update(state, ppo.prepare(trajectory.to(place), config), config)
            found.append((shown, [p.detach().cpu() for p in state.policy.parameters()]))
        self.assert_close(*found)

    def test_an_update_of_a2c_is_that_of_the_cpu(self, world):
        policy = actor_critic(world.observation_space, world.actions)
        trajectory, config, found = world.rollout(policy, 5), a2c.Config(), []
        for place in (torch.device("cpu"), device()):
            state = a2c.init(copy.deepcopy(policy).to(place), world, config)
            shown = a2c.update(state, trajectory.to(place), config)
            found.append((dict(enumerate(shown.tolist())), [p.detach().cpu() for p in state.policy.parameters()]))
        self.assert_close(*found)

    def test_an_update_of_dqn_is_that_of_the_cpu(self, world):
        policy = q_network(world.observation_space, world.actions)
        config, found = dqn.Config(batch=8, gradient_steps=3), []
        for place in (torch.device("cpu"), device()):
            torch.manual_seed(0)
            state = dqn.init(copy.deepcopy(policy).to(place), Runner("Lamp-v0", 2), config)
            state.world.collect(lambda *_: np.zeros(2, dtype=int), state.replay, 10)
            shown = dqn.update(state, config)[-1]
            means = {i: x.mean().item() for i, x in enumerate(shown)}
            found.append((means, [p.detach().cpu() for p in state.policy.parameters()]))
        self.assert_close(*found)

    def test_what_is_recorded_is_there_too(self, world):
        policy = actor_critic(world.observation_space, world.actions).to(device())
        for trajectory in (world.rollout(policy, 3), world.episodes(policy)):
            kinds = {getattr(trajectory, name).device.type for name in ("observation", "next_value", "reward", "mask")}
            assert kinds == {device().type}

    def assert_close(self, one, other):
        assert one[0] == pytest.approx(other[0], rel=1e-3, abs=1e-5)
        for a, b in zip(one[1], other[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
