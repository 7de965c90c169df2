"""Chapters 3 and 4: the grids of examples 3.5, 3.8 and 4.1, Jack's car rental, the gambler; and what the solvers need.

The book prints the grids to one decimal and draws the rest. The exact values of the car rental are those of another
program, from the model without its shortcuts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.textbook.common import Row, save
from operant.algorithms.planning import (
    finite_horizon,
    gauss_seidel,
    modified_policy_iteration,
    policy_evaluation,
    policy_iteration,
    prioritized_sweeping,
    value_iteration,
)
from operant.mdp import problems
from operant.mdp.backup import gauss_seidel_backup
from operant.mdp.chain import as_decision_process, policy_reward_process
from operant.mdp.model import MDP

METHODS = {
    "value iteration": value_iteration,
    "modified policy iteration": modified_policy_iteration,
    "policy iteration": policy_iteration,
    "Gauss-Seidel": gauss_seidel,
    "prioritised sweeping": prioritized_sweeping,
}
SHADES = ("#9db8d2", "#6f97bf", "#3f74a8")
"""Of the gambler's values after one, two and three sweeps."""
TIE = 1e-9
"""Actions whose values differ by less are equally good; of these the smallest is drawn."""


def uniform(mdp: MDP) -> NDArray[np.float64]:
    """[S, A]: every action of a state equally often."""
    policy = np.zeros((mdp.states, mdp.actions))
    policy[mdp.row_states(), mdp.action] = 1
    return policy / np.maximum(policy.sum(1, keepdims=True), 1)


def car_policies() -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """(the policies of policy iteration [21, 21], cars moved from the first place, from none on; the last values)."""
    mdp = problems.car_rental()
    state = policy_iteration.init(mdp)
    state.rows = np.flatnonzero(mdp.action == 5)
    steps = policy_iteration.train(state, policy_iteration.Config())
    found = [(mdp.action[state.rows] - 5).reshape(21, 21).astype(np.int64) for _ in steps]
    assert state.result is not None
    return found, state.result.value.reshape(21, 21)


def gambler(heads: float, smallest: float) -> Iterator[tuple[NDArray[np.float64], float]]:
    """(values, largest change) after every sweep in place over the rising capital, until the change is `smallest`."""
    mdp = problems.gambler(heads)
    value, change = np.zeros(mdp.states), np.inf
    while change > smallest:
        change = gauss_seidel_backup(mdp.rows, 1.0, value, False)
        yield value.copy(), change


def stakes(heads: float) -> NDArray[np.int64]:
    """[101]: the smallest of the best stakes; 0 at both ends."""
    mdp = problems.gambler(heads)
    value = policy_iteration.solve(mdp).value
    worth, owner = mdp.reward + mdp.matrix() @ value, mdp.row_states()
    best = np.flatnonzero(worth > value[owner] - TIE)[::-1]
    found = np.zeros(mdp.states, dtype=np.int64)
    found[owner[best]] = mdp.action[best] + 1
    return found


def rows() -> list[Row]:
    return [*_grids(), *_cars(), *_gambler()]


def _grids() -> Iterator[Row]:
    mdp = problems.jumping_grid()
    random = policy_evaluation.solve(mdp, uniform(mdp)).value
    best = modified_policy_iteration.solve(mdp).value
    for figure, what, value, printed in (
        ("3.2", "random policy", random, (3.3, 8.8, 4.4, 5.3, 1.5)),
        ("3.5", "optimal", best, (22.0, 24.4, 22.0, 19.4, 17.5)),
    ):
        for i, published in enumerate(printed):
            yield Row(figure, f"5 x 5 grid, {what}: value of cell (0, {i})", published, float(value[i]), 0.0, 0.0501)
    mdp = problems.corner_grid()
    process = as_decision_process(policy_reward_process(mdp, uniform(mdp)))
    ten = finite_horizon.solve(process, finite_horizon.Config(10)).value[10]
    always = policy_evaluation.solve(mdp, uniform(mdp)).value
    for s, published in ((1, -6.1), (2, -8.4), (3, -9.0), (5, -7.7)):
        yield Row("4.1", f"4 x 4 grid, random policy, 10 sweeps: state {s}", published, float(ten[s]), 0.0, 0.0501)
    for s, published in ((1, -14.0), (2, -20.0), (3, -22.0), (5, -18.0)):
        yield Row("4.1", f"4 x 4 grid, random policy: state {s}", published, float(always[s]), 0.0, 1e-5)


def _cars() -> Iterator[Row]:
    policies, value = car_policies()
    yield Row("4.2", "car rental: evaluations until the policy is stable", 5, len(policies), 0.0, 0.0)
    for (here, there), published in (((0, 0), 421.414), ((10, 10), 574.948), ((20, 20), 636.990)):
        yield Row(
            "4.2", f"car rental: value of {here} and {there} cars", published, float(value[here, there]), 0.0, 1e-3
        )


def _gambler() -> Iterator[Row]:
    for heads, printed in ((0.4, (0.16, 0.4, 0.64)), (0.25, (0.0625, 0.25, 0.4375))):
        value = policy_iteration.solve(problems.gambler(heads)).value
        for capital, published in zip((25, 50, 75), printed, strict=True):
            ours = float(value[capital])
            yield Row("4.3", f"gambler, heads {heads}: value of {capital}", published, ours, 0.0, 1e-6)
    yield Row("4.3", "gambler, heads 0.4: stake at 50", 50, int(stakes(0.4)[50]), 0.0, 0.0)
    sweeps = list(gambler(0.55, 1e-14))
    yield Row("4.3", "gambler, heads 0.55: value of 1", 0.1818, float(sweeps[-1][0][1]), 0.0, 5e-5)
    yield Row("4.3", "gambler, heads 0.55: sweeps in place until they change 1e-14", 2674, len(sweeps), 0.0, 5)


def draw(folder: Path) -> None:
    _draw_cars(folder / "planning_4_2.svg")
    _draw_gambler(folder / "planning_4_3.svg")
    _draw_bounds(folder / "planning_bounds.svg")
    _draw_sweeps(folder / "planning_sweeps.svg")


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _draw_cars(file: Path) -> None:
    policies, value = car_policies()
    figure = Figure((10, 6.4), layout="constrained")
    panels: Any = figure.subplots(2, 3)
    for i, (axes, policy) in enumerate(zip(panels.flat, policies, strict=False)):
        shown = axes.imshow(policy, origin="lower", cmap=colormaps["RdBu_r"].resampled(11), vmin=-5.5, vmax=5.5)
        axes.set_title(f"$\\pi_{i}$" + (", the best" if i == len(policies) - 1 else ""), size=10)
        axes.set_xlabel("cars at the second place", size=8)
        axes.set_ylabel("cars at the first", size=8)
        figure.colorbar(shown, ax=axes, ticks=range(-5, 6), shrink=0.7).ax.tick_params(labelsize=6)
    last = panels.flat[5]
    lines = last.contour(value, levels=range(420, 640, 20), cmap="viridis")
    last.clabel(lines, fontsize=7)
    last.set_title("its values", size=10)
    last.set_aspect("equal")
    for axes in panels.flat:
        axes.set_xticks(range(0, 21, 5))
        axes.set_yticks(range(0, 21, 5))
        axes.tick_params(labelsize=7)
    save(figure, file)


def _draw_gambler(file: Path) -> None:
    figure = Figure((9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sweeps = [value for value, _ in gambler(0.4, 1e-14)]
    for i, shade in enumerate(SHADES):
        left.plot(range(1, 100), sweeps[i][1:100], color=shade, lw=1.3, label=f"sweep {i + 1}")
    left.plot(range(1, 100), sweeps[-1][1:100], color="#12304f", lw=1.3, label=f"sweep {len(sweeps)}, the last")
    left.plot([25, 50, 75], [0.16, 0.4, 0.64], "o", mfc="none", mec="#c44f14", label="exact")
    left.set(xlabel="capital", ylabel="value: the chance to reach 100")
    left.legend(fontsize=8, frameon=False)
    right.step(range(1, 100), stakes(0.4)[1:100], where="mid", color="#12304f", lw=1.3)
    right.set(xlabel="capital", ylabel="the smallest of the best stakes")
    for axes in (left, right):
        _bare(axes)
    save(figure, file)


def value_iteration_errors(mdp: MDP, sweeps: int) -> dict[str, NDArray[np.float64]]:
    """After each sweep: the largest change, how far the values are from V*, how far the middle of the bounds is, and
    how far it can be by the bounds.
    """
    exact = policy_iteration.solve(mdp).value
    state = value_iteration.init(mdp)
    names = (
        "largest change",
        "true error of the values",
        "true error of the middle of the bounds",
        "proven error of it",
    )
    found: dict[str, list[float]] = {name: [] for name in names}
    before = state.value.copy()
    for metrics in value_iteration.train(state, value_iteration.Config(error=0.0, max_sweeps=sweeps + 1)):
        change = state.value - before
        middle = state.value + mdp.gamma / (1 - mdp.gamma) * (change.min() + change.max()) / 2
        figures = (abs(change).max(), abs(state.value - exact).max(), abs(middle - exact).max(), metrics["bound/error"])
        for name, x in zip(names, figures, strict=True):
            found[name].append(float(x))
        before = state.value.copy()
    return {name: np.array(x[:sweeps]) for name, x in found.items()}


def _draw_bounds(file: Path) -> None:
    figure = Figure((7, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = ("#9aa3b2", "#c44f14", "#14866d", "#1c69b0")
    errors = value_iteration_errors(problems.car_rental(gamma=0.99), 70)
    for colour, (name, x) in zip(colours, errors.items(), strict=True):
        axes.semilogy(range(1, len(x) + 1), x, color=colour, lw=1.6, label=name)
    axes.set(xlabel="sweeps of value iteration: car rental, γ = 0.99")
    axes.legend(fontsize=8, frameon=False)
    _bare(axes)
    save(figure, file)


def sweeps_needed() -> dict[str, dict[str, int]]:
    """Problem to method to sweeps for a proven error of 1e-6."""
    worlds = {
        "corridor of 50": problems.treasure_walk(50, 0.95),
        "Dyna maze": problems.dyna_maze(),
        "5 x 5 grid": problems.jumping_grid(),
        "car rental": problems.car_rental(),
    }
    return {
        name: {words: method.solve(mdp).sweeps for words, method in METHODS.items()} for name, mdp in worlds.items()
    }


def _draw_sweeps(file: Path) -> None:
    needed = sweeps_needed()
    figure = Figure((9, 3.4), layout="constrained")
    axes = figure.subplots()
    colours = ("#1c69b0", "#c44f14", "#14866d", "#8c4fb0", "#a67c00")
    for i, (method, colour) in enumerate(zip(METHODS, colours, strict=True)):
        places = np.arange(len(needed)) + (i - 2) * 0.16
        counts = [needed[world][method] for world in needed]
        bars = axes.bar(places, counts, 0.15, color=colour, label=method)
        axes.bar_label(bars, fontsize=6)
    axes.set_yscale("log")
    axes.set_xticks(range(len(needed)), list(needed))
    axes.set_ylabel("sweeps over the model")
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.22))
    _bare(axes)
    save(figure, file)
