"""Chapters 5 to 7, 9, 11 and 12: what a policy is worth, learned from samples.

The book prints curves. The reference values are another program's, rounded to three digits; closed forms have no error
but theirs.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.textbook.common import Row, save
from operant.algorithms.temporal_difference import (
    emphatic_td,
    gradient_td,
    lambda_return,
    least_squares_monte_carlo,
    lstd,
    monte_carlo,
    n_step_td,
    off_policy_monte_carlo,
    off_policy_td,
    td,
    td_lambda,
)
from operant.core.features import aggregation, fourier, of_states, polynomial
from operant.core.linear import Active
from operant.core.traces import KINDS
from operant.mdp import problems
from operant.mdp.chain import policy_reward_process
from operant.mdp.model import MDP
from operant.mdp.simulator import simulator

Array = NDArray[np.float64]
SIGMAS = 3.5
"""Standard errors that are tolerated."""
ROUNDING = 0.0006
"""Of the reference values."""


class World(NamedTuple):
    """A model without choices, where episodes begin in it, and its true values."""

    mdp: MDP
    begin: int
    true: Array
    """[S - 2]: those of the states between the ends."""


def world_of(mdp: MDP, begin: int) -> World:
    return World(mdp, begin, policy_reward_process(mdp, np.ones((mdp.states, 1))).value()[1:-1])


@functools.cache
def short_walk() -> World:
    return world_of(problems.random_walk(), 3)


@functools.cache
def walk_of_19() -> World:
    return world_of(problems.random_walk(19, -1.0, 1.0), 10)


@functools.cache
def long_walk() -> World:
    return world_of(problems.long_random_walk(), 500)


# Runs in compiled loops, looked at after every episode


ARGUMENTS: dict[Any, Callable[[Any, Any], tuple[Any, ...]]] = {
    td: lambda s, c: (s.policy, s.w, 1.0, c.alpha, s.random),
    n_step_td: lambda s, c: (s.policy, s.w, s.latest, 1.0, c.alpha, s.random),
    td_lambda: lambda s, c: (
        s.policy, s.w, s.traces, 1.0, c.lambda_, c.alpha, KINDS.index(c.trace), s.random,
    ),
    lambda_return: lambda s, c: (s.policy, s.w, s.episode, 1.0, c.lambda_, c.alpha, s.random),
    monte_carlo: lambda s, c: (s.policy, s.w, s.total, s.visited, s.episode, 1.0, c.alpha, s.random),
    off_policy_monte_carlo: lambda s, c: (
        s.policy, s.behaviour, s.w, s.total, s.visited, s.episode, 1.0, c.alpha,
        off_policy_monte_carlo.SAMPLINGS.index(c.sampling), s.random,
    ),
}  # fmt: skip
"""What the loop of an algorithm takes between the world and the number of steps, from state and settings; γ = 1."""


@functools.cache
def by_episode(learn: Any) -> Any:
    """A loop that keeps an array's first column [S] after every episode."""

    @numba.njit
    def run(world: Any, arguments: Any, watched: Any, kept: Any) -> None:
        for k in range(len(kept)):
            before = world.place[2]
            while world.place[2] == before:
                learn(world, *arguments, 1)
            kept[k] = watched[:, 0]

    return run


def values(
    where: World, module: Any, config: Any, episodes: int, seed: int, start: float = 0.0, features: Active | None = None
) -> Array:
    """[episodes, X]: the weights after each episode of a run."""
    walk = simulator(where.mdp, where.begin, seed, features=features)
    state = module.init(walk, np.ones((where.mdp.states, 1)), config, seed)
    state.w[:] = start
    if features is None and hasattr(state, "episode"):
        state.episode.make_room(100_000)
    kept = np.empty((episodes, len(state.w)))
    by_episode(module.learn)(walk, ARGUMENTS[module](state, config), state.w, kept)
    return kept


@functools.cache
def errors(where: Callable[[], World], module: Any, config: Any, episodes: int, runs: int, start: float = 0.0) -> Array:
    """[runs, episodes]: the root of the mean squared error over the states, after each episode."""
    true = where().true
    found = (values(where(), module, config, episodes, seed, start)[:, 1:-1] for seed in range(runs))
    with np.errstate(over="ignore", invalid="ignore"):  # too large a step
        return np.stack([np.sqrt(np.mean((v - true) ** 2, 1)) for v in found])


def mean(x: Array) -> tuple[float, float]:
    """(mean, its standard error)."""
    return float(x.mean()), float(x.std(ddof=1)) / math.sqrt(len(x))


# Example 6.2 and figure 6.2: the random walk


def short_walk_rows(runs: int = 1000) -> Iterator[Row]:
    for name, module, alpha, published in (
        ("TD(0)", td, 0.05, (0.175, 0.053, 0.035)),
        ("TD(0)", td, 0.1, (0.128, 0.050, 0.055)),
        ("Monte Carlo", monte_carlo, 0.01, (0.213, 0.145, 0.097)),
        ("Monte Carlo", monte_carlo, 0.03, (0.187, 0.105, 0.093)),
    ):
        found = errors(short_walk, module, module.Config(alpha=alpha), 100, runs, 0.5)
        for n, reference in zip((10, 50, 100), published, strict=True):
            yield against(f"{name}, α = {alpha}: error after {n} episodes", "6.2", reference, found[:, n - 1], 100)


def against(what: str, figure: str, reference: float, ours: Array, runs: int) -> Row:
    """A row whose reference is itself a mean over some runs."""
    average, error = mean(ours)
    spread = error * math.sqrt(len(ours) / runs)
    return Row(figure, what, reference, average, error, SIGMAS * math.hypot(error, spread) + ROUNDING)


@functools.cache
def batch_errors(module: Any, runs: int, episodes: int = 100) -> Array:
    """[runs, episodes]: of the values that all episodes so far, shown again and again, lead to."""
    where, found = short_walk(), []
    config = module.Config(steps=10**6, ridge=1e-9, report_every=1)
    for seed in range(runs):
        state = module.init(simulator(where.mdp, where.begin, seed), np.ones((7, 1)), config, seed)
        state.b[:] = 0.5 * config.ridge  # states that were not visited stay at 0.5
        run: list[float] = []
        for metrics in module.train(state, config):
            if metrics["rollout/episodes"] > len(run):
                run.append(float(np.sqrt(np.mean((state.w[1:-1, 0] - where.true) ** 2))))
            if len(run) == episodes:
                break
        found.append(run)
    return np.array(found)


def batch_rows(runs: int = 300) -> Iterator[Row]:
    for name, module, published in (("TD", lstd, 0.036), ("Monte Carlo", least_squares_monte_carlo, 0.056)):
        yield against(
            f"batch {name}: error after 100 episodes", "6.2", published, batch_errors(module, runs)[:, 99], 100
        )


# Figures 7.2, 12.3, 12.6 and 12.8: the walk of 19 states


class Sweep(NamedTuple):
    """An algorithm at one setting; error of the first ten episodes at its best step size."""

    figure: str
    words: str
    module: Any
    config: Any
    best: float | None = None
    """The best of the step sizes."""
    published: float = math.nan


SWEEPS = [
    *(
        Sweep("7.2", f"n = {n}", n_step_td, n_step_td.Config(n=n), best, published)
        for n, best, published in (
            (1, 0.8, 0.346), (2, 0.6, 0.279), (4, 0.4, 0.266), (8, 0.2, 0.278), (16, 0.15, 0.313),
            *((n, None, math.nan) for n in (32, 64, 128, 256, 512)),
        )
    ),
    *(
        Sweep(figure, f"λ = {lambda_}", module, module.Config(lambda_=lambda_, **more), *known.get(lambda_, ()))
        for figure, module, more, known in (
            ("12.3", lambda_return, {}, {0.8: (0.4, 0.263), 0.9: (0.25, 0.284)}),
            ("12.6", td_lambda, {"trace": "accumulating"}, {0.8: (0.3, 0.263)}),
            ("12.8", td_lambda, {"trace": "dutch"}, {0.8: (0.4, 0.255)}),
        )
        for lambda_ in (0.0, 0.4, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0)
    ),
]  # fmt: skip
STEP_SIZES = [0.01, 0.02, 0.03, *(round(0.05 * k, 2) for k in range(1, 21))]
NAMES = {"7.2": "n-step TD", "12.3": "off-line λ-return", "12.6": "TD(λ)", "12.8": "true online TD(λ)"}


def first_ten(sweep: Sweep, alpha: float, runs: int) -> Array:
    """[runs]: the error, averaged over the first ten episodes."""
    return errors(walk_of_19, sweep.module, dataclasses.replace(sweep.config, alpha=alpha), 10, runs).mean(1)


def walk_of_19_rows(runs: int = 1000) -> Iterator[Row]:
    for sweep in SWEEPS:
        if sweep.best is not None:
            what = f"{NAMES[sweep.figure]}, {sweep.words}, best α = {sweep.best}: error of the first 10 episodes"
            yield against(what, sweep.figure, sweep.published, first_ten(sweep, sweep.best, runs), 100)


# Figures 9.1, 9.2 and 9.5: the walk of 1,000 states


GRADIENT_STEP, SEMI_GRADIENT_STEP = 2e-5, 2e-4


@functools.cache
def ten_groups() -> Active:
    return of_states(lambda s: aggregation(1000, 10)(min(max(s - 1, 0), 999)), range(1002))


@functools.cache
def visits() -> Array:
    """[1000]: the share of steps in each state."""
    where = long_walk()
    p = policy_reward_process(where.mdp, np.ones((1002, 1))).chain.transition.toarray()[1:-1, 1:-1]
    often = np.linalg.solve(np.eye(1000) - p.T, np.eye(1000)[where.begin - 1])
    return often / often.sum()


def value_error(value: Array) -> Array:
    """The root of VE (equation 9.1): of the squared error, weighed by visits; values [..., 1000]."""
    return np.sqrt(((value - long_walk().true) ** 2) @ visits())


@functools.cache
def grouped(module: Any, alpha: float, episodes: int = 100_000) -> Array:
    """[1000]: the values after many episodes."""
    groups = ten_groups()
    return values(long_walk(), module, module.Config(alpha=alpha), episodes, 0, features=groups)[
        -1, groups.index[1:-1, 0]
    ]


def long_walk_rows(episodes: int = 100_000) -> Iterator[Row]:
    for figure, name, module, alpha, published in (
        ("9.1", "gradient Monte Carlo", monte_carlo, GRADIENT_STEP, 0.0544),
        ("9.2", "semi-gradient TD", td, SEMI_GRADIENT_STEP, 0.1167),
    ):
        error = float(value_error(grouped(module, alpha, episodes)))
        yield Row(
            figure, f"{name}, 10 groups, α = {alpha:g}: root of VE, at its fixed point", published, error, 0.0, 0.003
        )


# Section 11.2: Baird's counterexample

START = np.array([1.0, 1, 1, 1, 1, 1, 10, 1])


@functools.cache
def baird_runs(module: Any, config: Any, runs: int, steps: int = 1000, every: int = 10) -> Array:
    """[runs, steps / every, 8]: the weights along runs that begin with `START`."""
    features, (behaviour, target) = problems.baird_features(), problems.baird_policies()
    found = []
    for seed in range(runs):
        world = simulator(problems.baird(), np.full(7, 1 / 7), seed, features=features)
        begun = dataclasses.replace(config, steps=steps, report_every=every)
        state = module.init(world, target, behaviour, begun, seed)
        state.w[:, 0] = START
        found.append([state.w[:, 0].copy() for _ in module.train(state, begun)])
    return np.array(found)


def expected_emphatic(alpha: float, steps: int) -> Array:
    """[steps, 8]: the weights of emphatic TD if each step were its mean over all steps."""
    x, (behaviour, target) = problems.baird_features(), problems.baird_policies()
    p = policy_reward_process(problems.baird(), target).chain.transition.toarray()
    often = policy_reward_process(problems.baird(), behaviour).chain.stationary()
    emphasis = np.linalg.solve(np.eye(7) - 0.99 * p.T, often)
    a = x.T @ np.diag(emphasis) @ (x - 0.99 * p @ x)
    return np.array(list(itertools.accumulate(range(steps), lambda w, _: w - alpha * a @ w, initial=START)))[1:]


def baird_error(w: Array) -> Array:
    """The root of the mean squared value; all true values are 0. Weights [..., 8]."""
    return np.sqrt(np.mean((w @ problems.baird_features().T) ** 2, -1))


def projected_bellman_error(w: Array) -> Array:
    """The root of PBE (section 11.4) under the behaviour policy, which visits all states alike."""
    x, (_, target) = problems.baird_features(), problems.baird_policies()
    p = policy_reward_process(problems.baird(), target).chain.transition.toarray()
    projection = x @ np.linalg.pinv(x)
    return np.sqrt(np.mean((w @ (projection @ (0.99 * p @ x - x)).T) ** 2, -1))


SEMI_GRADIENT = off_policy_td.Config(alpha=0.01)
CORRECTED = gradient_td.Config(alpha=0.005, beta=0.05)


def baird_rows(runs: int = 200) -> Iterator[Row]:
    yield Row("11.2", "Baird: root of VE at the start", 5.318, float(baird_error(START)), 0.0, 0.0005)
    ours, error = mean(baird_error(baird_runs(off_policy_td, SEMI_GRADIENT, runs)[:, -1]))
    what = "semi-gradient off-policy TD, α = 0.01: root of VE after 1,000 steps"
    yield Row("11.2", what, 615, ours, error, SIGMAS * error * math.sqrt(runs))  # the reference is one run
    last = baird_runs(gradient_td, CORRECTED, runs)[:, -1]
    for what, found, published, rounding in (
        ("root of VE", baird_error(last), 1.94, 0.005),
        ("root of PBE", projected_bellman_error(last), 0.07, 0.01),
    ):
        ours, error = mean(found)
        what = f"TDC, α = 0.005, β = 0.05: {what} after 1,000 steps"
        yield Row("11.5", what, published, ours, error, SIGMAS * error + rounding)
    ours = float(baird_error(expected_emphatic(0.03, 1000)[-1]))
    yield Row("11.6", "expected emphatic TD, α = 0.03: root of VE after 1,000 steps", 0.0, ours, 0.0, 1e-9)


# Example 5.4 and figure 5.3: a state of blackjack from episodes of another policy

STATE = (10 + 2 - 1) * 10 + 13 - 12
"""Usable ace, dealer shows 2, sum 13."""
STATE_VALUE = -0.2773


@functools.cache
def blackjack_policies() -> tuple[MDP, Array, Array]:
    """(the game, stick on 20 and 21, each action as often)."""
    game = problems.blackjack()
    sticks = (np.arange(203) % 10 + 12 >= 20).astype(float)
    return game, np.stack([sticks, 1 - sticks], 1), np.full((203, 2), 0.5)


@functools.cache
def blackjack_values(sampling: str, runs: int, episodes: int = 10_000) -> Array:
    """[runs, episodes]: the value of the state after each episode that begins there."""
    (game, target, behaviour), config = blackjack_policies(), off_policy_monte_carlo.Config(sampling=sampling)
    found = []
    for seed in range(runs):
        world = simulator(game, STATE, seed)
        state = off_policy_monte_carlo.init(world, target, behaviour, config, seed)
        kept = np.empty((episodes, 1))
        arguments = ARGUMENTS[off_policy_monte_carlo](state, config)
        by_episode(off_policy_monte_carlo.learn)(world, arguments, state.w[STATE : STATE + 1].T, kept)
        found.append(kept[:, 0])
    return np.array(found)


def blackjack_rows(runs: int = 100) -> Iterator[Row]:
    game, target, _ = blackjack_policies()
    exact = float(policy_reward_process(game, target).value()[STATE])
    yield Row("5.3", "blackjack, state of example 5.4: exact value of the model", STATE_VALUE, exact, 0.0, 0.0003)
    for sampling in ("ordinary", "weighted"):
        ours, error = mean(blackjack_values(sampling, runs)[:, -1])
        what = f"{sampling} importance sampling: its value after 10,000 episodes"
        yield Row("5.3", what, STATE_VALUE, ours, error, SIGMAS * error + 0.0001)


def rows() -> list[Row]:
    parts = (blackjack_rows, short_walk_rows, batch_rows, walk_of_19_rows, long_walk_rows, baird_rows)
    return [row for part in parts for row in part()]


# Drawings


def draw(folder: Path) -> None:
    for name, picture in {
        "5_3": draw_blackjack,
        "6_2": draw_short_walk,
        "9_1": draw_long_walk,
        "9_5": draw_bases,
        "11_2": draw_baird,
    }.items():
        page = picture()
        save(page, folder / f"prediction_{name}.svg")
    for figure in NAMES:
        save(draw_sweeps(figure), folder / f"prediction_{figure.replace('.', '_')}.svg")


def draw_blackjack(runs: int = 100) -> Figure:
    page, (axes,) = _panels(1)
    for sampling in ("ordinary", "weighted"):
        error = ((blackjack_values(sampling, runs) - STATE_VALUE) ** 2).mean(0)
        axes.plot(np.arange(1, len(error) + 1), error, linewidth=1.3, label=f"{sampling} importance sampling")
    axes.set_xscale("log")
    axes.set_ylim(0, 5)
    _finish(axes, "episodes", f"mean squared error, {runs} runs")
    return page


def draw_short_walk(runs: int = 1000) -> Figure:
    page, (left, middle, right) = _panels(3)
    found = values(short_walk(), td, td.Config(alpha=0.1), 100, 1, 0.5)
    for n in (1, 10, 100):
        left.plot(range(1, 6), found[n - 1, 1:-1], marker="o", markersize=3, linewidth=1, label=f"after {n} episodes")
    left.plot(range(1, 6), short_walk().true, "k--", linewidth=1, label="true")
    left.set_xticks(range(1, 6), "ABCDE")
    _finish(left, "state", "value, one run of TD(0), α = 0.1")
    for module, name, alphas, style in (
        (td, "TD", (0.05, 0.1, 0.15), "-"),
        (monte_carlo, "MC", (0.01, 0.02, 0.03, 0.04), ":"),
    ):
        for i, alpha in enumerate(alphas):
            error = errors(short_walk, module, module.Config(alpha=alpha), 100, runs, 0.5).mean(0)
            middle.plot(range(1, 101), error, style, color=f"C{i}", linewidth=1.3, label=f"{name}, α = {alpha}")
    middle.set_ylim(0, 0.25)
    _finish(middle, "episodes", f"root of squared error, {runs} runs")
    for module, name, style in ((lstd, "batch TD", "-"), (least_squares_monte_carlo, "batch MC", ":")):
        right.plot(range(1, 101), batch_errors(module, 300).mean(0), style, color="C0", linewidth=1.3, label=name)
    right.set_ylim(0, 0.25)
    _finish(right, "episodes", "root of squared error, 300 runs")
    return page


def draw_sweeps(figure: str, runs: int = 100) -> Figure:
    page, (axes,) = _panels(1)
    drawn = [sweep for sweep in SWEEPS if sweep.figure == figure]
    for i, sweep in enumerate(drawn):
        error = np.array([first_ten(sweep, alpha, runs).mean() for alpha in STEP_SIZES])
        start = np.sqrt(np.mean(walk_of_19().true ** 2))
        shown = np.concatenate([[start], error])
        shown[~(shown < 1)] = np.nan
        axes.plot([0, *STEP_SIZES], shown, color=f"C{i}", linewidth=1.3, label=sweep.words)
        if sweep.best is not None:
            axes.plot(sweep.best, sweep.published, "o", color=f"C{i}", markersize=5, markerfacecolor="none")
    axes.set_ylim(0.25, 0.55)
    _finish(axes, "α", f"root of squared error, first 10 episodes, {runs} runs")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return page


def draw_long_walk() -> Figure:
    page, panels = _panels(2)
    for axes, name, module, alpha in zip(
        panels,
        ("gradient Monte Carlo", "semi-gradient TD"),
        (monte_carlo, td),
        (GRADIENT_STEP, SEMI_GRADIENT_STEP),
        strict=True,
    ):
        axes.plot(range(1, 1001), long_walk().true, "k--", linewidth=1, label="true")
        axes.step(range(1, 1001), grouped(module, alpha), linewidth=1.3, label=name)
        _finish(axes, "state", "value after 100,000 episodes")
    return page


def draw_bases(runs: int = 10, episodes: int = 5000) -> Figure:
    page, (axes,) = _panels(1)
    for make, name, alpha, style in ((polynomial, "polynomial", 1e-4, ":"), (fourier, "Fourier", 5e-5, "-")):
        for i, order in enumerate((5, 10, 20)):
            options = {} if make is polynomial else {"scaled": False}
            features = of_states(make(1, 1000, order, **options), range(1002))
            table = features.weight[1:-1]
            error = np.zeros(episodes)
            for seed in range(runs):
                w = values(long_walk(), monte_carlo, monte_carlo.Config(alpha=alpha), episodes, seed, features=features)
                error += value_error(w @ table.T) / runs
            shown = slice(None, None, 25)
            axes.plot(
                np.arange(episodes)[shown] + 1, error[shown], style, color=f"C{i}", label=f"{name}, order {order}"
            )
    axes.set_ylim(0, 0.4)
    _finish(axes, "episodes", f"root of VE, {runs} runs")
    return page


def draw_baird(runs: int = 200) -> Figure:
    page, (left, middle, right) = _panels(3)
    steps = np.arange(10, 1001, 10)
    for axes, module, config, name in (
        (left, off_policy_td, SEMI_GRADIENT, "semi-gradient off-policy TD"),
        (middle, gradient_td, CORRECTED, "TDC"),
    ):
        w = baird_runs(module, config, runs)[0]
        for i in range(8):
            axes.plot(steps, w[:, i], linewidth=1, color="0.6" if i < 6 else f"C{i - 6}", label=LABELS.get(i))
        axes.set_title(name, fontsize=9)
        _finish(axes, "steps", "weights, one run")
    for module, config, name in (
        (off_policy_td, SEMI_GRADIENT, "semi-gradient TD"),
        (gradient_td, CORRECTED, "TDC"),
        (gradient_td, dataclasses.replace(CORRECTED, rule="gtd2"), "GTD2"),
        (emphatic_td, emphatic_td.Config(alpha=0.002), "emphatic TD, α = 0.002"),
    ):
        right.plot(steps, np.median(baird_error(baird_runs(module, config, runs)), 0), linewidth=1.3, label=name)
    right.plot(
        range(1, 1001), baird_error(expected_emphatic(0.03, 1000)), "k--", linewidth=1, label="its mean, α = 0.03"
    )
    right.set_yscale("log")
    right.set_ylim(1e-2, 1e3)
    _finish(right, "steps", f"root of VE, median of {runs} runs")
    return page


LABELS = {0: "w of states 0 to 5", 6: "w of state 6", 7: "w of all"}


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    page = Figure(figsize=(7.2, 3.8) if count == 1 else (4.2 * count, 3.6), layout="constrained")
    return page, [page.add_subplot(1, count, i + 1) for i in range(count)]


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
