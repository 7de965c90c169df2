"""Chapter 2: the 10-armed testbed, 2,000 runs of 1,000 steps (figures 2.2 to 2.6); and drawings of what it leaves out.

The book prints curves. The reference values are another program's, with standard errors like ours: 0.014 of a reward
and 1 of a percentage, over steps 901 to 1,000.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.textbook.common import Row, save
from operant.algorithms.bandit import (
    epsilon_greedy,
    exp3,
    gradient,
    kl_ucb,
    linear_thompson,
    linucb,
    thompson,
    ucb,
)  # fmt: skip
from operant.bandits import problems
from operant.bandits.bounds import lai_robbins
from operant.bandits.worlds import Bernoulli, World

RUNS, STEPS = 2000, 1000
REWARD_ERROR, OPTIMAL_ERROR, SPIKE_ERROR = 0.014, 1.0, 0.03
"""Standard errors of the reference values."""
SIGMAS = 3.5
"""Standard errors of the difference that are tolerated; there are 20 values."""


class Learner(NamedTuple):
    """An algorithm with its settings, and what is known of it at steps 901 to 1,000."""

    words: str
    module: Any
    config: Any
    reward: float | None = None
    optimal: float | None = None
    centre: float = 0.0
    """Mean of the arms' means: 4 in figure 2.5."""


Greedy = epsilon_greedy.Config
Gradient = gradient.Config
FIGURES: dict[str, list[Learner]] = {
    "2.2": [
        Learner("greedy", epsilon_greedy, Greedy(epsilon=0.0), 1.057, 37.4),
        Learner("ε = 0.01", epsilon_greedy, Greedy(epsilon=0.01), 1.318, 59.5),
        Learner("ε = 0.1", epsilon_greedy, Greedy(epsilon=0.1), 1.384, 80.2),
    ],
    "2.3": [
        Learner(
            "optimistic, Q₁ = 5, ε = 0, α = 0.1", epsilon_greedy, Greedy(0.0, initial=5.0, step_size=0.1), 1.505, 86.2
        ),
        Learner("realistic, Q₁ = 0, ε = 0.1, α = 0.1", epsilon_greedy, Greedy(0.1, step_size=0.1), 1.326, 75.5),
    ],
    "2.4": [
        Learner("UCB, c = 2", ucb, ucb.Config(2.0), 1.497, 85.2),
        Learner("UCB, c = 1", ucb, ucb.Config(1.0), 1.534, 91.9),
        Learner("ε-greedy, ε = 0.1", epsilon_greedy, Greedy(epsilon=0.1)),
    ],
    "2.5": [
        Learner("α = 0.1, baseline", gradient, Gradient(0.1, "before"), None, 83.5, 4.0),
        Learner("α = 0.4, baseline", gradient, Gradient(0.4, "before"), None, 66.3, 4.0),
        Learner("α = 0.1, none", gradient, Gradient(0.1, "none"), None, 47.5, 4.0),
        Learner("α = 0.4, none", gradient, Gradient(0.4, "none"), None, 29.1, 4.0),
        Learner("α = 0.1, baseline with Rₜ", gradient, Gradient(0.1, "including"), centre=4.0),
        Learner("α = 0.4, baseline with Rₜ", gradient, Gradient(0.4, "including"), centre=4.0),
    ],
}
SPIKE = 1.09
"""Mean reward of UCB with c = 2 at step 11, when every arm was tried once."""
BEST = 1.5388
"""Expected largest of ten draws from N(0, 1)."""


def study() -> dict[str, tuple[list[float], Callable[[float], Learner]]]:
    """Figure 2.6: the parameters of each algorithm, and the learner that a parameter makes."""

    def powers(low: int, high: int) -> list[float]:
        return [2.0**i for i in range(low, high + 1)]

    return {
        "ε-greedy (ε)": (powers(-7, -2), lambda x: Learner("", epsilon_greedy, Greedy(x))),
        "gradient (α)": (powers(-5, 2), lambda x: Learner("", gradient, Gradient(x))),
        "UCB (c)": (powers(-4, 2), lambda x: Learner("", ucb, ucb.Config(x))),
        "optimistic greedy (Q₁), α = 0.1": (
            powers(-2, 2),
            lambda x: Learner("", epsilon_greedy, Greedy(0.0, initial=x, step_size=0.1)),
        ),
    }


def rare(rng: np.random.Generator) -> World:
    """Ten arms that seldom pay; the first is the best."""
    return Bernoulli(np.tile([0.1] + [0.05] * 3 + [0.02] * 3 + [0.01] * 3, (300, 1)), rng)


def against_ucb(rng: np.random.Generator) -> World:
    config = ucb.Config()
    return problems.adversarial(300, 3, rng, lambda world: ucb.train(ucb.init(world, config), config, 5000))


BEYOND: dict[str, tuple[Callable[[np.random.Generator], World], list[Learner], int]] = {
    "regret": (
        rare,
        [
            Learner("UCB1", ucb, ucb.Config()),
            Learner("ε-greedy, ε = 0.1", epsilon_greedy, Greedy(0.1)),
            Learner("KL-UCB", kl_ucb, kl_ucb.Config()),
            Learner("Thompson", thompson, thompson.Config()),
        ],
        20_000,
    ),
    "changing": (
        lambda rng: problems.random_walk(1000, 10, rng),
        [
            Learner("ε-greedy, mean of all", epsilon_greedy, Greedy(0.1)),
            Learner("ε-greedy, α = 0.1", epsilon_greedy, Greedy(0.1, step_size=0.1)),
        ],
        10_000,
    ),
    "adversarial": (
        against_ucb,
        [Learner("UCB1", ucb, ucb.Config()), Learner("EXP3", exp3, exp3.Config())],
        5000,
    ),
    "contexts": (
        lambda rng: problems.linear(300, 10, rng),
        [
            Learner("UCB1, blind to features", ucb, ucb.Config()),
            Learner("linear Thompson", linear_thompson, linear_thompson.Config()),
            Learner("LinUCB", linucb, linucb.Config()),
        ],
        1000,
    ),
}
"""Regret in other worlds: (what makes the world, who plays in it, for how many steps)."""


def played(learner: Learner, runs: int, every: int) -> Iterator[dict[str, float]]:
    """The metrics of every `every` steps on the testbed: the same arms for all learners."""
    world = problems.gaussian(runs, 10, np.random.default_rng([0, 1]), learner.centre)
    return learner.module.train(learner.module.init(world, learner.config, 2), learner.config, STEPS, every)


@functools.cache
def curve(learner: Learner, runs: int) -> list[dict[str, float]]:
    return list(played(learner, runs, 1))


@functools.cache
def settled(learner: Learner, runs: int) -> dict[str, float]:
    """Means over steps 901 to 1,000, with their errors."""
    return list(played(learner, runs, 100))[-1]


def parameter_study(runs: int = RUNS) -> dict[str, tuple[list[float], list[float]]]:
    """Of each algorithm its parameters, and the mean reward over the first 1,000 steps that each gives."""
    found = {}
    for name, (parameters, learner) in study().items():
        found[name] = parameters, [next(played(learner(x), runs, STEPS))["bandit/reward"] for x in parameters]
    return found


def rows(runs: int = RUNS) -> list[Row]:
    table = []
    best = problems.gaussian(runs, 10, np.random.default_rng([0, 1])).best
    error = float(best.std(ddof=1)) / math.sqrt(runs)
    table.append(Row("2.2", "mean of the best arm", BEST, float(best.mean()), error, SIGMAS * error))
    for figure, learners in FIGURES.items():
        for learner in learners:
            last = settled(learner, runs)
            for known, name, scale, words, reference in (
                (learner.reward, "bandit/reward", 1, "reward", REWARD_ERROR),
                (learner.optimal, "bandit/optimal_action", 100, "% optimal", OPTIMAL_ERROR),
            ):
                if known is not None:
                    ours, error = scale * last[name], scale * last[f"{name}_error"]
                    tolerance = SIGMAS * math.hypot(error, reference)
                    table.append(Row(figure, f"{learner.words}: {words}", known, ours, error, tolerance))
    eleventh = curve(FIGURES["2.4"][0], runs)[10]
    ours, error = eleventh["bandit/reward"], eleventh["bandit/reward_error"]
    tolerance = SIGMAS * math.hypot(error, SPIKE_ERROR)
    table.append(Row("2.4", "UCB, c = 2: reward at step 11", SPIKE, ours, error, tolerance))
    return table


def draw(folder: Path) -> None:
    reward, optimal = "bandit/reward", "bandit/optimal_action"
    shown = {"2.2": [reward, optimal], "2.3": [optimal], "2.4": [reward], "2.5": [optimal]}
    for figure, names in shown.items():
        page = Figure(figsize=(7.2, 3.4 * len(names)))
        for place, name in enumerate(names):
            panel(page.add_subplot(len(names), 1, place + 1), FIGURES[figure], name)
        save(page, folder / f"bandits_{figure.replace('.', '_')}.svg")
    page = Figure(figsize=(7.2, 3.8))
    axes = page.add_subplot()
    for name, (parameters, rewards) in parameter_study().items():
        axes.plot(parameters, rewards, marker="o", markersize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("parameter")
    axes.set_ylabel("mean reward of steps 1 to 1,000")
    _finish(axes)
    save(page, folder / "bandits_2_6.svg")
    for name, (make, learners, steps) in BEYOND.items():
        page = Figure(figsize=(7.2, 3.8))
        regrets(page.add_subplot(), make, learners, steps)
        save(page, folder / f"bandits_{name}.svg")


def panel(axes: Axes, learners: list[Learner], name: str) -> None:
    """Curves, and behind steps 901 to 1,000 a bar where the reference value is."""
    for i, learner in enumerate(learners):
        y = np.array([step[name] for step in curve(learner, RUNS)])
        y = 100 * y if name == "bandit/optimal_action" else y
        first, rest = y[:50], y[50:].reshape(-1, 5).mean(1)
        x = np.concatenate([np.arange(1, 51), np.arange(53, STEPS, 5)])
        axes.plot(x, np.concatenate([first, rest]), color=f"C{i}", linewidth=1, label=learner.words)
        known = learner.optimal if name == "bandit/optimal_action" else learner.reward
        if known is not None:
            axes.plot([901, 1000], [known, known], color=f"C{i}", linewidth=6, alpha=0.35, solid_capstyle="butt")
    axes.set_xlabel("step")
    axes.set_ylabel("mean reward" if name == "bandit/reward" else "% optimal action")
    _finish(axes)


def regrets(axes: Axes, make: Callable[[np.random.Generator], World], learners: list[Learner], steps: int) -> None:
    """Mean regret over the steps, in bands that hold 95% of the runs; dashed: the bound of Lai and Robbins."""
    every = steps // 200
    x = np.arange(every, steps + 1, every)
    for i, learner in enumerate(learners):
        world = make(np.random.default_rng([0, 1]))
        state = learner.module.init(world, learner.config, 2)
        metrics = list(learner.module.train(state, learner.config, steps, every))
        mean, low, high = (np.array([m[f"bandit/regret{end}"] for m in metrics]) for end in ("", "_low", "_high"))
        axes.fill_between(x, low, high, color=f"C{i}", alpha=0.15, linewidth=0)
        axes.plot(x, mean, color=f"C{i}", linewidth=1.3, label=learner.words)
    if slope := lai_robbins(make(np.random.default_rng([0, 1]))):
        axes.plot(x, slope * np.log(x), "k--", linewidth=1, label=f"Lai and Robbins: {slope:.1f} ln t")
        axes.set_xscale("log")
        axes.set_ylim(0, 2.5 * slope * math.log(steps))
    axes.set_xlabel("step")
    axes.set_ylabel("regret")
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
