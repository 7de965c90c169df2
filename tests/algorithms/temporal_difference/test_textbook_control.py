"""Chapters 6, 8 and 10 with few runs: within standard errors of the reference, where broken learners are not."""

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.textbook import control
from operant.algorithms.planning import dyna_q
from operant.algorithms.temporal_difference import double_q_learning, q_learning, sarsa
from operant.core.compiled import njit_loop
from operant.core.control import Rule, explore, rate
from operant.core.linear import epsilon_greedy
from operant.mdp.problems import cliff, dyna_maze, treasure_walk
from operant.mdp.simulator import actions, current, reset, simulator, step

PAGE = Path(__file__).parents[3] / "docs" / "textbook" / "control.md"


def near(x: np.ndarray, reference: float, slack: float = 0.01) -> bool:
    """Within four standard errors; `slack` is the reference's own error, as a share of it."""
    mean, error = control.mean_and_error(x.astype(float))
    return abs(mean - reference) < 4 * error + slack * abs(reference)


def late(played: Any) -> np.ndarray:
    """[runs]: the mean return of the episodes 401 to 500."""
    return played.returns[:, 400:].mean(1)


@njit_loop
def from_a_wrong_action(world: Any, w: np.ndarray, rule: Rule, action: np.ndarray, steps: int) -> None:
    """SARSA, but for the action that it bootstraps from: the next in number to the one that it takes."""
    x, a = current(world), int(action[0])
    for _ in range(steps):
        reward, after, terminated, truncated = step(world, a)
        epsilon, n = explore(rule), actions(world)
        b = epsilon_greedy(w, after, n, epsilon, rule.random)
        wrong = (b + 1) % max(n, 1)
        sarsa.update(w, x, a, reward, 0.0 if terminated else rule.gamma, after, wrong, rate(rule, x, a))
        x, a = after, b
        if terminated or truncated:
            x = reset(world)
            a = epsilon_greedy(w, x, actions(world), epsilon, rule.random)
    action[0] = a


@pytest.mark.parametrize("name", control.CLIFF)
def test_cliff_walking(name):
    """Figure 6.4 and expected SARSA: on-policy methods walk away from the cliff, Q-learning along it."""
    assert near(late(control.cliff_runs(name, 200)), control.CLIFF[name][1])
    others = [reference for other, (_, reference) in control.CLIFF.items() if other != name]
    assert not any(near(late(control.cliff_runs(name, 200)), reference) for reference in others)


def test_broken_learners_walk_another_way(monkeypatch):
    random = control.on_model(sarsa, cliff(), 36, 500, 3, alpha=0.5, epsilon=1.0)
    assert not any(near(late(random), reference) for _, reference in control.CLIFF.values())
    monkeypatch.setattr(sarsa, "learn", from_a_wrong_action)
    twin = control.on_model(sarsa, cliff(), 36, 500, 20, alpha=0.5, epsilon=0.1)
    assert not near(late(twin), control.CLIFF["SARSA"][1])


def test_windy_grid(monkeypatch):
    """Example 6.5: about 160 episodes in 8,000 steps, the last of 26 steps."""
    counts, lengths = control.windy_runs(200)
    assert near(counts[:, -1], 160)
    assert near(lengths, 26)
    monkeypatch.setattr(sarsa, "learn", from_a_wrong_action)
    broken, _ = control.windy_runs.__wrapped__(20)
    assert not near(broken[:, -1], 160)


def test_maximisation_bias():
    """Figure 6.5: Q-learning goes left far more than it should, double Q-learning hardly."""
    single, double = (control.bias_runs(name, 1000) for name in control.BIAS)
    for runs, (_, reference) in ((single, control.BIAS["Q-learning"]), (double, control.BIAS["double Q-learning"])):
        assert near(runs[:, 299], reference, 0.05)
    assert single[:, :50].mean() > 2 * double[:, :50].mean()
    assert not near(double[:, 280:].mean(1), control.BIAS["Q-learning"][1])


@pytest.mark.parametrize("planning_steps", control.MAZE)
def test_dyna_maze(planning_steps):
    """Figure 8.2: steps of the episodes 2, 3 and 10."""
    lengths = control.maze_runs(planning_steps, 100).lengths
    for episode, reference in zip((2, 3, 10), control.MAZE[planning_steps], strict=True):
        assert near(lengths[:, episode - 1], reference, 0.05)


@pytest.mark.parametrize("broken", [{"epsilon": 1.0}, {"gamma": 0.0}], ids=["random", "short-sighted"])
def test_broken_learners_do_not_find_the_way_through_the_maze(broken):
    settings = {"alpha": 0.1, "epsilon": 0.1, "planning_steps": 5, "report_every": 20, **broken}
    lengths = control.on_model(dyna_q, dyna_maze(), 18, 10, 60, **settings).lengths
    assert not any(near(lengths[:, 9], references[2], 0.05) for references in control.MAZE.values())


def test_mountain_car():
    """Example 10.1: two runs begin with more than 600 steps an episode, and come below 300 within 20."""
    learning = control.car_runs(4, episodes=20, runs=2)
    assert learning[:, :2].mean() > 600
    assert learning[:, 15:].mean() < 300


class Endless:
    """A world whose ends pass for cuts: a learner goes on with the value of where they are."""

    features, gamma, shape = None, 0.9, (6, 2)

    def __init__(self) -> None:
        self.inner = simulator(treasure_walk(), 0)
        self.place, self.returns, self.lengths = self.inner.place, self.inner.returns, self.inner.lengths

    def current(self) -> int:
        return current(self.inner)

    def actions(self) -> int:
        return 2

    def step(self, action: int) -> tuple[float, int, bool, bool]:
        reward, after, terminated, truncated = step(self.inner, action)
        return reward, after, False, terminated or truncated

    def reset(self) -> int:
        return reset(self.inner)


@pytest.mark.parametrize("module", [q_learning, sarsa, double_q_learning])
def test_values_are_wrong_where_ends_are_bootstrapped(module):
    """The lectures' walk with optimistic values: 0.9^k is learned, unless the end is taken to go on."""
    config, found = module.Config(steps=20_000, initial=1.0, alpha=0.5, epsilon=0.01), []
    for world in (simulator(treasure_walk(), 0), Endless()):
        state = module.init(world, config)
        list(module.train(state, config))
        found.append(state.w[:5, 1])
    right, wrong = found
    assert right[4] == pytest.approx(1.0, abs=1e-6)
    assert abs(wrong[4] - 1.9) < 1e-6


def test_the_examples_on_the_page_are_true():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert tried > 4
    assert failed == 0
