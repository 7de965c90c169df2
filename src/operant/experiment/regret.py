"""The section of a report about bandits: regret of every algorithm with bands, and the bound of Lai and Robbins."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from operant.experiment import plots
from operant.experiment.findings import STAGES, Findings, within
from operant.experiment.plots import Curve, estimate, number

REGRET = "bandit/regret"
OPTIMAL = "bandit/optimal_action"
DRAWN = {
    REGRET,
    OPTIMAL,
    f"{REGRET}_low",
    f"{REGRET}_high",
    f"{REGRET}_error",
    f"{OPTIMAL}_error",
    "bandit/reward_error",
}
"""Metrics that need no panel among the learning curves."""


class Band(NamedTuple):
    """A curve between two others."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    colour: int


def section(run: Findings) -> str:
    """Markup, empty for a run that is no comparison of bandits."""
    stages = [stage for stage in run.stages if REGRET in stage.metrics]
    if not stages:
        return ""
    stages.sort(key=lambda stage: stage.metrics[REGRET].y[-1])
    names = {stage.name: i for i, stage in enumerate(stages)}
    slope = estimate(within(run.summary, "lai_robbins").get("slope"))
    bound = (lambda t: slope.mean * np.log(t)) if slope else None
    legend = "".join(
        f'<span><i class="f{i % plots.COLOURS}"></i>{escape(_words(name))}</span>' for name, i in names.items()
    )
    dashed = ""
    if slope:
        dashed = (
            f" Dashed: {number(slope.mean)} ln t, the least that is possible in the long run (Lai and Robbins 1985); "
            "early on, regret may lie below it."
        )
    means = [_with_error(stage.metrics, REGRET, i) for i, stage in enumerate(stages)]
    optimal = [_with_error(stage.metrics, OPTIMAL, i) for i, stage in enumerate(stages)]
    overview = [
        plots.figure("Regret", f"Mean over runs, with its 95% interval.{dashed}", chart(means, "Regret", bound)),
        plots.figure(
            "Optimal actions",
            "Share of runs that take an arm which no other is better than, with its 95% interval.",
            chart(optimal, "Share of optimal actions"),
        ),
    ]
    spread = [
        plots.figure(
            _words(stage.name),
            f"{number(stage.metrics[REGRET].y[-1])} at the end; 95% of the runs lie in the band.",
            chart([_of_runs(stage.metrics, i)], f"Regret of {_words(stage.name)}", bound),
        )
        for i, stage in enumerate(stages)
    ]
    return (
        f'<div class="legend">{legend}</div><div class="grid">{"".join(overview)}</div>'
        f'<h3 class="run">How the runs of each differ</h3><div class="grid small">{"".join(spread)}</div>'
    )


def _words(name: str) -> str:
    return STAGES[name][0] if name in STAGES else name.replace("_", " ")


def _with_error(metrics: Mapping[str, Curve], name: str, colour: int) -> Band:
    curve, error = plots.joined([metrics[name], metrics[f"{name}_error"]])
    return Band(curve.x, curve.y, curve.y - 1.96 * error.y, curve.y + 1.96 * error.y, colour)


def _of_runs(metrics: Mapping[str, Curve], colour: int) -> Band:
    curve, low, high = plots.joined([metrics[REGRET], metrics[f"{REGRET}_low"], metrics[f"{REGRET}_high"]])
    return Band(curve.x, curve.y, low.y, high.y, colour)


def chart(
    bands: Sequence[Band],
    label: str,
    reference: Callable[[np.ndarray], np.ndarray] | None = None,
    x_label: str = "step",
    single: Sequence[Curve] = (),
) -> str:
    """Curves in their bands, over the steps; `reference` is a dashed function of the step, `single` are pale lines."""
    width, height, left, right, top, bottom = 420, 240, 46, 14, 10, 36
    x = np.concatenate([band.x for band in bands])
    y = np.concatenate([*(part for band in bands for part in (band.low, band.high)), *(curve.y for curve in single)])
    line = np.linspace(1.0, x.max(), 100)
    ends = [y, reference(line)] if reference else [y]
    low, high = min(0.0, *(end.min() for end in ends)), max(end.max() for end in ends)

    def across(t: Any) -> Any:
        return left + t / x.max() * (width - left - right)

    def up(value: Any) -> Any:
        return height - bottom - (value - low) / ((high - low) or 1) * (height - top - bottom)

    body = []
    for tick in plots._ticks(low, high, 4):
        body.append(plots._line("grid", left, width - right, up(tick), up(tick)))
        body.append(plots._text(left - 6, up(tick) + 4, plots._tick(tick), "end", "dim"))
    body += [
        plots._text(across(tick), height - bottom + 16, plots._tick(tick), "middle", "dim")
        for tick in plots._ticks(0, x.max(), 4)
    ]
    body.append(plots._text((left + width - right) / 2, height - 4, x_label, "middle", "dim"))
    body += [plots._path(across(curve.x), up(curve.y), "raw s0") for curve in single]
    for band in bands:
        edge = [*zip(across(band.x), up(band.low), strict=True)]
        edge += reversed([*zip(across(band.x), up(band.high), strict=True)])
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
        body.append(f'<polygon class="f{band.colour % plots.COLOURS}" opacity=".2" points="{points}"/>')
    body += [plots._path(across(b.x), up(b.y), f"line s{b.colour % plots.COLOURS}") for b in bands]
    if reference:
        body.append(f'<g fill="none">{plots._path(across(line), up(reference(line)), "reference")}</g>')
    return plots._svg(width, height, label, body)
