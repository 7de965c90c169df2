"""A3C: one process is A2C, several learn together, and a killed one is missed but not waited for."""

import dataclasses
import functools
import os
import signal
from multiprocessing import active_children
from typing import Any

import pytest
import torch

from operant.algorithms.policy_gradient import a2c, a3c
from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.envs.runner import Runner
from operant.experiment import checkpoint
from operant.networks.actor_critic import ActorCritic

POLE = functools.partial(Runner, "CartPole-v1", 16)
CONFIG = a3c.Config(iterations=350, rollout=8, learning_rate=4e-3, lambda_=0.95, report_every=5)


def alone(config: a3c.Config, change: Any = None, seed: int = 0) -> tuple[list[Any], torch.Tensor]:
    """(what one worker reports, the shared weights), in this process."""
    torch.manual_seed(seed)
    state = a3c.init(ActorCritic(4, 2), a3c.Worlds(POLE), config)
    shared = a3c.Shared(state.weights.detach().clone(), state.mean_square, torch.zeros(3, dtype=torch.int64))
    reports: list[Any] = []
    a3c.work(reports.append, 0, change or POLE, seed, state.policy, shared, config)
    return reports, shared.weights


def returns(reports: list[Any]) -> list[float]:
    return [x for report in reports for x in report[2]]


def test_a_single_worker_is_a2c(unchecked_types):
    config = dataclasses.replace(CONFIG, iterations=7, report_every=7)
    reports, weights = alone(config)
    torch.manual_seed(0)
    policy = ActorCritic(4, 2)
    torch.manual_seed(0)
    plain = a2c.Config(**{f.name: getattr(config, f.name) for f in dataclasses.fields(a2c.Config)})
    state = a2c.init(policy, POLE(0), plain)
    metrics = list(a2c.train(state, plain))
    assert [dict(zip(a2c.SHOWN, report[0], strict=True)) for report in reports] == metrics
    assert torch.equal(weights, state.weights)


def test_the_end_is_reported_once():
    config = dataclasses.replace(CONFIG, workers=2, iterations=30, report_every=7)
    state = a3c.init(ActorCritic(4, 2), a3c.Worlds(POLE, 0, POLE(0).env), config)
    steps = [state.step for _ in a3c.train(state, config)]
    assert steps.count(30) == 1
    assert steps[-1] == 30
    assert state.mean_square.any()


def test_each_process_goes_on_with_the_mean_square_that_the_others_left(unchecked_types):
    state = a3c.init(ActorCritic(4, 2), a3c.Worlds(POLE), CONFIG)
    shared = a3c.Shared(state.weights.detach().clone(), state.mean_square, torch.zeros(4, dtype=torch.int64))
    for rank in range(2):
        before = shared.mean_square.clone()
        config = dataclasses.replace(CONFIG, iterations=rank + 1)
        a3c.work(lambda _: None, rank, POLE, rank, state.policy, shared, config)
        added = shared.mean_square - CONFIG.rmsprop_decay * before
        assert added.amax() > 1e-8
        assert added.amin() > -1e-8


CHANGED = {
    "iterations": 8,
    "rollout": 5,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "gamma": 0.7,
    "lambda_": 0.5,
    "value_coefficient": 0.9,
    "entropy_coefficient": 0.2,
    "standardize_advantages": True,
    "max_gradient_norm": 0.01,
    "rmsprop_decay": 0.8,
    "rmsprop_epsilon": 0.01,
    "report_every": 2,
}


def test_every_setting_changes_the_result(unchecked_types):
    config = dataclasses.replace(CONFIG, iterations=6, report_every=3)
    assert CHANGED.keys() == {f.name for f in dataclasses.fields(config)} - {"workers"}
    reports, weights = alone(config)
    for name, value in CHANGED.items():
        other, others = alone(dataclasses.replace(config, **{name: value}))
        assert (other, others.tolist()) != (reports, weights.tolist()), name


@pytest.mark.parametrize("name", ["workers", "report_every"])
def test_numbers_below_1_are_refused(name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        a3c.init(ActorCritic(4, 2), a3c.Worlds(POLE), dataclasses.replace(CONFIG, **{name: 0}))


class Flipped:
    """The advantages of a world with the other sign."""

    def __init__(self, seed: int) -> None:
        self.world = POLE(seed)
        self.pop_returns, self.pop_lengths = self.world.pop_returns, self.world.pop_lengths

    def rollout(self, policy: Any, size: int) -> Trajectory:
        t = self.world.rollout(policy, size)
        return dataclasses.replace(t, reward=-t.reward, value=-t.value, next_value=-t.next_value)


def test_it_learns_cartpole_in_two_processes_of_which_one_is_killed_and_broken_twins_do_not(tmp_path, unchecked_types):
    """The killed one is missed but not waited for, no process stays, and what was saved goes on."""
    torch.manual_seed(0)
    state, threshold = a3c.init(ActorCritic(4, 2), a3c.Worlds(POLE), CONFIG), 100.0
    run = a3c.train(state, CONFIG)
    next(run)
    os.kill(active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.warns(UserWarning, match="killed by signal 9; 1 of 2 are left"):
        assert list(run)
    assert state.step == CONFIG.iterations
    assert not active_children()
    found = state.world.pop_returns()[-30:]
    assert sum(found) / len(found) > threshold
    checkpoint.save(tmp_path, state)
    resumed = a3c.init(ActorCritic(4, 2), a3c.Worlds(POLE), CONFIG)
    checkpoint.load(tmp_path, resumed)
    assert torch.equal(resumed.weights, state.weights)
    assert torch.equal(resumed.mean_square, state.mean_square)
    longer = dataclasses.replace(CONFIG, iterations=CONFIG.iterations + 2, workers=1)
    next(a3c.train(resumed, longer))
    assert resumed.step == longer.iterations
    assert not torch.equal(resumed.weights, state.weights)

    for reports in (alone(dataclasses.replace(CONFIG, learning_rate=0.0)), alone(CONFIG, Flipped)):
        broken = returns(reports[0])[-30:]
        assert sum(broken) / len(broken) < 0.5 * threshold


def nowhere(seed: int) -> Runner:
    raise InputError("there is no such world")


def test_a_world_that_cannot_be_made_is_told_here():
    state = a3c.init(ActorCritic(4, 2), a3c.Worlds(nowhere), CONFIG)
    with pytest.raises(InputError, match="there is no such world"):
        next(a3c.train(state, dataclasses.replace(CONFIG, workers=1)))
