"""The section of a report about trained policies: how good they are, and how return grew, over one seed or several."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from operant.core.statistics import Estimate
from operant.experiment import plots, regret
from operant.experiment.findings import Findings
from operant.experiment.plots import Curve, duration, estimate, number

RETURN = "rollout/episode_return"
STEPS = "rollout/steps"
POINTS = 200
"""Steps at which curves of several seeds are compared."""


def section(runs: Sequence[Findings]) -> str:
    """Markup, empty where no run is one of a trained policy."""
    trained = [run for run in runs if is_trained(run)]
    if not trained:
        return ""
    html = "".join(_tiles(run) for run in trained) if len(trained) == 1 else ""
    drawn = [(i, run) for i, run in enumerate(runs) if run in trained]
    cards = _curves(drawn, len(runs) > 1) if any(len(run.seeds) > 1 for run in trained) else ""
    rows = [row for run in trained for row in _rows(run, len(runs) > 1)]
    if any(run.seeds for run in trained):  # single runs stand side by side elsewhere
        caption = "Small: 95% bootstrap interval; of a single seed over its episodes, of all over the seeds."
        cards += plots.figure("Evaluation of the trained policies", caption, _table(rows))
    return html + (f'<div class="grid">{cards}</div>' if cards else "")


def is_trained(run: Findings) -> bool:
    return any(STEPS in part.metrics for part in [run, *run.seeds])


def band(curves: Sequence[Curve], colour: int) -> regret.Band:
    """The mean of several curves at common steps, with its 95% interval by Student's t where curves are; or one."""
    from scipy.stats import t

    if len(curves) == 1:
        y = plots.smooth(curves[0].y)
        return regret.Band(curves[0].x, y, y, y, colour)
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    x = np.linspace(first, last, POINTS)
    y = np.array([np.interp(x, curve.x, plots.smooth(curve.y)) for curve in curves])
    half = t.ppf(0.975, len(y) - 1) * y.std(0, ddof=1) / np.sqrt(len(y))
    low, high = np.maximum(y.mean(0) - half, y.min()), np.minimum(y.mean(0) + half, y.max())
    return regret.Band(x, y.mean(0), low, high, colour)


def _tiles(run: Findings) -> str:
    found = {name: estimate(run.summary.get(name)) for name in ("return", "interquartile_mean", "steps", "seconds")}
    tiles = []
    if (mean := found["return"]) is not None:
        over = f"{len(run.seeds)} seeds" if run.seeds else f"{run.summary.get('episodes')} episodes of evaluation"
        spread = f"{number(mean.low)} to {number(mean.high)} (95% interval); " if mean.high > mean.low else ""
        tiles.append(
            _tile("Mean return", number(mean.mean), f"{spread}{over}, played {run.summary.get('played', 'greedily')}")
        )
    if (middle := found["interquartile_mean"]) is not None:
        words = (
            f"{number(middle.low)} to {number(middle.high)} (95% interval); the mean of the middle half of the seeds"
        )
        tiles.append(_tile("Interquartile mean", number(middle.mean), words))
    if (steps := found["steps"]) is not None and (seconds := found["seconds"]) is not None:
        words = f"of all environments, in {duration(seconds.mean)}: {number(steps.mean / seconds.mean)} a second"
        tiles.append(_tile("Steps", number(steps.mean), words))
    return f'<div class="grid small tiles">{"".join(tiles)}</div>' if tiles else ""


def _tile(name: str, value: str, words: str) -> str:
    return (
        f'<div><p class="name">{escape(name)}</p><p class="flow"><b>{escape(value)}</b></p>'
        f'<p class="note">{escape(words)}</p></div>'
    )


def _curves(runs: Sequence[tuple[int, Findings]], named: bool) -> str:
    bands, single = [], []
    for i, run in runs:
        curves = [part.metrics[RETURN] for part in run.seeds or [run] if RETURN in part.metrics]
        if curves:
            bands.append(band(curves, i))
            single += [] if named else [Curve(curve.x, plots.smooth(curve.y)) for curve in curves]
    if not bands:
        return ""
    keys = "".join(f'<span><i class="f{i % plots.COLOURS}"></i>{escape(run.name)}</span>' for i, run in runs)
    legend = f'<div class="legend">{keys}</div>' if named else ""
    pale = "" if named else " Pale: each seed, its running mean."
    alone = " A run of one seed has none." if any(len(run.seeds) < 2 for _, run in runs) else ""
    words = f"While learning: mean over seeds of their running means, in its 95% interval (Student's t).{alone}{pale}"
    return plots.figure(
        "Return of an episode",
        words,
        legend + regret.chart(bands, "Return", x_label="environment steps", single=single),
    )


def _rows(run: Findings, named: bool) -> list[tuple[str, dict[str, Any]]]:
    """(what it is called, its figures): every seed, and all of them."""
    before = f"{run.name}, " if named else ""
    if not run.seeds:
        return [(run.name, run.summary)]
    rows = [(f"{before}{seed.name}", seed.summary) for seed in run.seeds]
    middle = {"return": run.summary.get("interquartile_mean")}
    return [*rows, (f"{before}mean", run.summary), (f"{before}interquartile mean", middle)]


def _table(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    def cell(value: Estimate | None) -> str:
        if value is None:
            return "<td></td>"
        spread = f"<small>{number(value.low)} to {number(value.high)}</small>" if value.high > value.low else ""
        return f"<td><b>{number(value.mean)}</b>{spread}</td>"

    names = {"return": "return", "length": "steps of an episode", "episodes": "episodes", "steps_per_second": "steps/s"}
    shown = [name for name in names if any(name in figures for _, figures in rows)]
    head = "".join(f"<th>{names[name]}</th>" for name in shown)
    body = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th>"
        + "".join(cell(estimate(figures.get(key))) for key in shown)
        + "</tr>"
        for name, figures in rows
    )
    return f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
