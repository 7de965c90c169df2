"""EnvPool's environments, where it is installed; what is said where it is not."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.envs.make import make
from operant.envs.runner import Runner
from operant.networks.actor_critic import actor_critic


@pytest.fixture
def pool():
    return pytest.importorskip("envpool")


def rollout(name: str, seed: int, size: int = 600) -> Trajectory:
    torch.manual_seed(0)
    runner = Runner(make(name, 2), seed=seed)
    assert not runner.resumes
    return runner.rollout(actor_critic(runner.observation_space, runner.actions), size)


def test_episodes_are_cut_off_and_the_step_that_begins_the_next_is_no_decision(pool):
    found = rollout("envpool:Acrobot-v1", 3)
    assert found.reward.shape == (2, 600)
    assert found.truncated[:, 499].all()
    assert not found.terminated.any()
    assert (~found.mask).nonzero()[:, 1].tolist() == [500, 500]
    cosine, sine = np.moveaxis(np.asarray(found.observation), -1, 0)[:2]
    np.testing.assert_allclose(cosine**2 + sine**2, 1, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 2**31 + 16])
def test_a_seed_decides_and_another_one_decides_otherwise(pool, seed):
    first, again, other = (rollout("envpool:CartPole-v1", x, 50) for x in (seed, seed, seed + 16))
    for field in dataclasses.fields(Trajectory):
        assert torch.equal(getattr(first, field.name), getattr(again, field.name))
    seen = np.asarray(first.observation)
    assert not np.array_equal(seen, np.asarray(other.observation))
    assert not np.array_equal(seen[0], seen[1])


def test_evaluations_have_other_seeds_than_training(pool):
    ours = {tuple(make("envpool:CartPole-v1", 1).reset(seed=seed)[0][0]) for seed in range(4)}
    assert len(ours) == 4
    assert not ours & {tuple(make("envpool:CartPole-v1", 1).reset(seed=2**31 + seed)[0][0]) for seed in range(4)}


def test_to_be_drawn_it_is_the_environment_of_gymnasium(pool):
    assert make("envpool:CartPole-v1", 1, render_mode="rgb_array").render_mode == "rgb_array"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [("Acrobat-v1", {}, "did you mean Acrobot-v1"), ("Acrobot-v1", {"gravity": 3}, "cannot make Acrobot-v1.*gravity")],
)
def test_names_and_settings_that_it_does_not_know_are_refused(pool, name, settings, words):
    with pytest.raises(InputError, match=words):
        make(f"envpool:{name}", 2, settings)


def test_where_it_is_not_installed_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(InputError, match=r"envpool:Acrobot-v1 needs a package: pip install 'operant\[envpool\]'"):
        make("envpool:Acrobot-v1", 2)
