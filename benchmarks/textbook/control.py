"""Chapters 6, 8 and 10: control from samples. Cliff, windy grid, maximisation bias, Dyna's maze, mountain car.

The book prints curves. The reference values are another program's with the book's settings; how far its own random
errors reach is part of the tolerance.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from benchmarks.textbook.common import Row, save
from operant.algorithms.planning import dyna_q, policy_iteration
from operant.algorithms.temporal_difference import (
    double_q_learning,
    expected_sarsa,
    n_step_sarsa,
    q_learning,
    sarsa,
    sarsa_lambda,
)
from operant.core.features import tiles
from operant.envs.world import World
from operant.mdp.model import MDP, from_transitions
from operant.mdp.problems import cliff, dyna_maze, windy_grid
from operant.mdp.simulator import simulator

ENDLESS = 10**9
"""Steps of a run that is stopped by its episodes."""


class Played(NamedTuple):
    """[runs, episodes]."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]


def play(module: ModuleType, config: Any, world: Any, episodes: int, seed: int) -> tuple[Any, Any]:
    """(returns, lengths) of the first episodes of one run, in a world that keeps all of them and a stretch more."""
    state = module.init(world, config, seed)
    for _ in module.train(state, config):
        if world.place[2] >= episodes:
            break
    return world.returns[:episodes].copy(), world.lengths[:episodes].copy()


def on_model(module: ModuleType, mdp: MDP, begin: int, episodes: int, runs: int, **settings: Any) -> Played:
    """Runs with seeds of their own, compiled."""
    config, stretch = module.Config(**{"steps": ENDLESS, "report_every": 1000, **settings}), 1000
    played = [
        play(module, config, simulator(mdp, begin, seed, episodes=episodes + stretch), episodes, seed)
        for seed in range(runs)
    ]
    return Played(*(np.array(x) for x in zip(*played, strict=True)))


def mean_and_error(x: NDArray[Any]) -> tuple[float, float]:
    """Of one number a run."""
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x)))


# Example 6.6

CLIFF = {"SARSA": (sarsa, -26.9), "Q-learning": (q_learning, -50.3), "expected SARSA": (expected_sarsa, -20.9)}


@functools.cache
def cliff_runs(name: str, runs: int = 2000) -> Played:
    return on_model(CLIFF[name][0], cliff(), 36, 500, runs, alpha=0.5, epsilon=0.1)


# Example 6.5


@functools.cache
def windy_runs(runs: int = 2000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(episodes ended after 100, 200 ... 8,000 steps [runs, 80], mean length of those that end in the last 2,000)."""
    counts, lengths = [], []
    for seed in range(runs):
        world = simulator(windy_grid(), 30, seed)
        config = sarsa.Config(steps=8000, alpha=0.5, epsilon=0.1, report_every=100)
        state = sarsa.init(world, config, seed)
        counts.append([metrics["rollout/episodes"] for metrics in sarsa.train(state, config)])
        early, all_ended = int(counts[-1][59]), int(counts[-1][79])
        lengths.append(world.lengths[early:all_ended].mean())
    return np.array(counts), np.array(lengths)


# Figure 6.5


def bias(actions: int = 10, outcomes: int = 400) -> MDP:
    """From state 0 action 0 (left) leads to 1 and 1 (right) to an end; every action in 1 pays N(-0.1, 1) and ends.

    The normal distribution is cut into pieces of one chance, each with its own end and its mean as the reward.
    """
    edges = stats.norm.ppf(np.linspace(0, 1, outcomes + 1))
    paid = -0.1 + outcomes * (stats.norm.pdf(edges[:-1]) - stats.norm.pdf(edges[1:]))
    rows = [(0, 0, 1, 1.0, 0.0), (0, 1, 2, 1.0, 0.0)]
    rows += [(1, a, 2 + k, 1 / outcomes, paid[k]) for a in range(actions) for k in range(outcomes)]
    return from_transitions(*zip(*rows, strict=True), 1.0, ends=range(2, 2 + outcomes))  # pyright: ignore


BIAS = {"Q-learning": (q_learning, 11.9), "double Q-learning": (double_q_learning, 7.1)}


@functools.cache
def bias_runs(name: str, runs: int = 10_000) -> NDArray[np.float64]:
    """[runs, 300]: 100 where the first action was left, else 0."""
    played = on_model(BIAS[name][0], bias(), 0, 300, runs, alpha=0.1, epsilon=0.1, report_every=600)
    return 100.0 * (played.lengths == 2)


# Example 8.1

MAZE = {0: (672, 520, 139), 5: (154, 62, 17), 50: (40, 17.5, 17)}
"""Mean steps of the episodes 2, 3 and 10, by the number of planning steps."""


@functools.cache
def maze_runs(planning_steps: int, runs: int = 1000) -> Played:
    settings = {"alpha": 0.1, "epsilon": 0.1, "planning_steps": planning_steps, "report_every": 20}
    return on_model(dyna_q, dyna_maze(), 18, 50, runs, **settings)


# Example 10.1

CAR = {1: (sarsa, 0.5, 284), 4: (n_step_sarsa, 0.5, 230), 8: (n_step_sarsa, 0.3, 240)}
"""By n: the algorithm, α times the 8 tilings, and the mean steps of the first 50 episodes."""


@functools.cache
def car_runs(n: int, episodes: int = 50, runs: int = 10, lambda_: float | None = None) -> NDArray[np.int64]:
    """[runs, episodes]: their steps, with tiles over position and velocity; Gymnasium's mountain car without limit."""
    module, alpha, _ = CAR[n]
    settings = {"steps": ENDLESS, "report_every": 500, "alpha": alpha / 8, "epsilon": 0.0, "gamma": 1.0}
    if lambda_ is not None:
        module, settings = sarsa_lambda, {**settings, "lambda_": lambda_}
    elif n > 1:
        settings["n"] = n
    found = []
    for seed in range(runs):
        env = gymnasium.make("MountainCar-v0", max_episode_steps=100_000).unwrapped
        world = World(env, seed, tiles([-1.2, -0.07], [0.6, 0.07], 8, 8), episodes + 500)
        found.append(play(module, module.Config(**settings), world, episodes, seed)[1])
    return np.array(found)


def rows() -> list[Row]:
    found = []
    for name, (_, published) in CLIFF.items():
        ours = mean_and_error(cliff_runs(name).returns[:, 400:].mean(1))
        found.append(Row("6.4", f"cliff, {name}: return of episodes 401-500", published, *ours, 1.0))
    best = policy_iteration.solve(windy_grid()).value[30]
    found.append(Row("6.5 (example)", "windy grid: optimal return", -15, float(best), 0.0, 1e-6))
    counts, lengths = windy_runs()
    words = "windy grid, SARSA: "
    found.append(Row("6.5 (example)", words + "episodes in 8,000 steps", 160, *mean_and_error(counts[:, -1]), 10))
    found.append(Row("6.5 (example)", words + "their length at the end", 26, *mean_and_error(lengths), 2))
    for name, (_, published) in BIAS.items():
        ours = mean_and_error(bias_runs(name)[:, 299])
        found.append(Row("6.5", f"{name}: % left at episode 300", published, *ours, 1.5))
    for n, steps in MAZE.items():
        for episode, published in zip((2, 3, 10), steps, strict=True):
            ours = mean_and_error(maze_runs(n).lengths[:, episode - 1].astype(float))
            what = f"maze, {n} planning steps: steps of episode {episode}"
            found.append(Row("8.2", what, published, *ours, max(1.5, 0.12 * published)))
    for n, (_, alpha, published) in CAR.items():
        ours = mean_and_error(car_runs(n).mean(1))
        what = f"mountain car, n = {n}, α = {alpha}/8: steps of episodes 1-50"
        found.append(Row("10.4", what, published, *ours, 15))
    return found


def draw(folder: Path) -> None:
    for name, figure in (
        ("6_4", _cliff()), ("example_6_5", _windy()), ("6_5", _bias()), ("8_2", _maze()), ("10_3", _car()),
    ):  # fmt: skip
        save(figure, folder / f"control_{name}.svg")


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curve(axes: Axes, x: Sequence[float] | NDArray[Any], y: NDArray[Any], words: str) -> None:
    """The mean over runs, with two standard errors on either side."""
    mean, error = y.mean(0), 2 * y.std(0, ddof=1) / np.sqrt(len(y))
    (line,) = axes.plot(x, mean, label=words, linewidth=1.2)
    axes.fill_between(x, mean - error, mean + error, color=line.get_color(), alpha=0.25, linewidth=0)


def _cliff() -> Figure:
    figure, axes = _axes("episode", "return")
    for name, (_, published) in CLIFF.items():
        _curve(axes, np.arange(1, 501), cliff_runs(name).returns, name)
        axes.plot([401, 500], [published] * 2, color="black", linewidth=2)
    axes.plot([], [], color="black", linewidth=2, label="reference, episodes 401-500")
    axes.set_ylim(-100, 0)
    axes.legend(frameon=False)
    return figure


def _windy() -> Figure:
    figure, axes = _axes("steps", "episodes")
    _curve(axes, np.arange(100, 8100, 100), windy_runs()[0], "SARSA, α = 0.5, ε = 0.1")
    axes.plot([8000], [160], "o", color="black", label="reference")
    axes.legend(frameon=False)
    return figure


def _bias() -> Figure:
    figure, axes = _axes("episode", "% left from A")
    for name, (_, published) in BIAS.items():
        _curve(axes, np.arange(1, 301), bias_runs(name), name)
        axes.plot([300], [published], "o", color="black")
    axes.plot([], [], "o", color="black", label="reference, episode 300")
    axes.axhline(5, linestyle="--", color="grey", linewidth=1, label="best there is: 5%")
    axes.legend(frameon=False)
    return figure


def _maze() -> Figure:
    figure, axes = _axes("episode", "steps")
    for n, published in MAZE.items():
        _curve(axes, np.arange(2, 51), maze_runs(n).lengths[:, 1:], f"{n} planning steps")
        axes.plot([2, 3, 10], published, "o", color="black", markersize=4)
    axes.plot([], [], "o", color="black", markersize=4, label="reference")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def _car() -> Figure:
    figure, axes = _axes("episode", "steps")
    for n, (_, alpha, _) in CAR.items():
        _curve(axes, np.arange(1, 51), car_runs(n), f"n = {n}, α = {alpha}/8")
    _curve(axes, np.arange(1, 51), car_runs(1, lambda_=0.9), "λ = 0.9, α = 0.5/8")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure
