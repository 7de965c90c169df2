"""The table and the drawings of what `learning.py` found: results.md and figures/ALGORITHM.svg in docs/algorithms."""

import csv
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from textbook.common import save

HERE = Path(__file__).resolve().parent
ROWS, CURVES = HERE / "results" / "control_learning.csv", HERE / "results" / "control_curves.csv"
RUN = ("side", "algorithm", "environment", "seed", "settings")
"""What a run is; rows and points of curves begin with it. `settings` is a fingerprint of them."""
PAGE, FIGURES = HERE.parent / "docs" / "algorithms" / "results.md", HERE.parent / "docs" / "algorithms" / "figures"
REFERENCES = HERE / "references.toml"
OURS, THEIRS, GREY = "#1c69b0", "#c44f14", "#7a828f"
Points = Sequence[tuple[int, float]]


class Result(NamedTuple):
    """One run: its return in the evaluation at the end, with the interval."""

    value: float
    low: float
    high: float
    steps: int
    curve: Points = ()


class Reference(NamedTuple):
    """A published number, and how far from it the truth may be."""

    convention: str
    value: float
    error: float
    steps: int | None


Results = dict[tuple[str, str, str], list[Result]]
"""(side, algorithm, environment) -> its runs."""


def publish() -> None:
    """Print the table; write the page and the drawings."""
    found, known = results(read(ROWS), read(CURVES)), tomllib.loads(REFERENCES.read_text())
    FIGURES.mkdir(parents=True, exist_ok=True)
    text = page(found, known)
    PAGE.write_text(text)
    for algorithm in sorted({algorithm for _, algorithm, _ in found}):
        save(drawing(algorithm, found, known), FIGURES / f"{algorithm}.svg")
    print(text)


def read(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def results(rows: Sequence[dict[str, str]], points: Sequence[dict[str, str]]) -> Results:
    """The runs with the settings of the newest row of each, by what they are."""
    curves: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    for x in points:
        curves[tuple(x[name] for name in RUN)][int(x["step"])] = float(x["return"])
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["side"], row["algorithm"], row["environment"]].append(row)
    found = {}
    for what, own in groups.items():
        newest = max(own, key=lambda row: row["date"])["settings"]
        current = {row["seed"]: row for row in own if row["settings"] == newest and row["return"]}
        found[what] = [
            Result(
                float(row["return"]), float(row["low"]), float(row["high"]), int(row["steps"]),
                sorted(curves[tuple(row[name] for name in RUN)].items()),
            )
            for row in current.values()
        ]  # fmt: skip
    return {what: runs for what, runs in found.items() if runs}


def median(runs: Sequence[Result]) -> Result:
    """The middle run; of an even number, the lower one of the two."""
    return sorted(runs)[(len(runs) - 1) // 2]


def references(known: dict[str, Any], algorithm: str, name: str) -> list[Reference]:
    """What is published, or else what counts as solved."""
    listed = known.get(algorithm, {}).get(name) or known["any"].get(name, [])
    return [
        Reference(x["from"], x["value"], 1.96 * x["spread"] / x.get("episodes", 3) ** 0.5, x.get("steps"))
        for x in listed
    ]


def verdict(runs: Sequence[Result], reference: Reference) -> str:
    """Whether the middle run is at least the reference: "yes", "within" their intervals, or "no"."""
    middle = median(runs)
    if middle.value >= reference.value:
        return "yes"
    return "within" if middle.high >= reference.value - reference.error else "no"


def beside(ours: Sequence[Result], theirs: Sequence[Result]) -> str:
    """The same against another library's runs; the intervals are the ranges over seeds, "" where one has one seed."""
    if min(len(ours), len(theirs)) == 1:
        return ""
    if median(ours).value >= median(theirs).value:
        return "yes"
    return "within" if max(x.value for x in ours) >= min(x.value for x in theirs) else "no"


def page(found: Results, known: dict[str, Any]) -> str:
    conventions = [f"- **{x['name']}**: {x['says']} ([source]({x['source']}))" for x in known["conventions"].values()]
    lines = [
        "# What the algorithms learn",
        "",
        "Each number is from our own runs with the presets of `operant train`, on a CPU: the median over seeds of the",
        "mean return of 100 greedy episodes after training, with the range over seeds. `benchmarks/learning.py` makes",
        "the runs, this page and the curves; `benchmarks/results/control_learning.csv` has every run.",
        "",
        "*At least* compares the median run with the published number: **yes** where it is as good or better,",
        "**within** where it is lower but their 95% intervals meet, **no** otherwise. Conventions differ, so look at",
        "what each number is:",
        "",
        *conventions,
        "- **Stable-Baselines3, here**: version 2.9.2 with its zoo's settings; medians, and ranges over seeds in",
        "  place of intervals",
        "",
        "## Classic control and Box2D",
        "",
        *table(
            ("algorithm", "environment", "steps", "seeds", "return", "range", "published", "by", "steps", "at least"),
            classic_rows(found, known),
        ),
        "",
        "## MuJoCo v5",
        "",
        "Beside Stable-Baselines3 2.9.2 with the same settings, run here: medians, and ranges over seeds. *At least*",
        "compares the medians: **yes** where ours is as good or better, **within** where it is lower but the ranges",
        "meet, **no** otherwise, and nothing where either side has a single seed.",
        "",
        *table(
            ("algorithm", "environment", "steps", "seeds", "Operant", "Stable-Baselines3", "at least", "published"),
            mujoco_rows(found, known),
        ),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    lines = [list(row) for row in rows]
    if not lines:
        return ["No run has ended yet."]
    return ["| " + " | ".join(line) + " |" for line in [list(header), ["---"] * len(header), *lines]]


def classic_rows(found: Results, known: dict[str, Any]) -> Iterator[Sequence[str]]:
    for (side, algorithm, name), runs in sorted(found.items(), key=lambda item: (item[0][2], item[0][1])):
        if side != "operant" or is_mujoco(name):
            continue
        own = (algorithm, name, steps(median(runs).steps), str(len(runs)), number(median(runs).value), spread(runs))
        for r in references(known, algorithm, name) or [None]:
            if r is None:
                yield (*own, "", "", "", "")
            else:
                by = known["conventions"][r.convention]["name"]
                yield (*own, number(r.value), by, steps(r.steps) if r.steps else "", verdict(runs, r))
            own = ("",) * len(own)
        if theirs := found.get(("sb3", algorithm, name)):
            yield (*own, middle(theirs), "Stable-Baselines3, here", steps(median(theirs).steps), beside(runs, theirs))


def mujoco_rows(found: Results, known: dict[str, Any]) -> Iterator[Sequence[str]]:
    for side, algorithm, name in sorted(found):
        if side != "operant" or not is_mujoco(name):
            continue
        ours, theirs = found[side, algorithm, name], found.get(("sb3", algorithm, name), [])
        shown = [middle(runs) if runs else "" for runs in (ours, theirs)]
        published = [
            f"{number(r.value)} ({known['conventions'][r.convention]['name']}: {verdict(ours, r)})"
            for r in references(known, algorithm, name)
        ]
        count = f"{len(ours)} / {len(theirs)}"
        judged = beside(ours, theirs) if theirs else ""
        yield (algorithm, name, steps(median(ours).steps), count, *shown, judged, ", ".join(published))


def is_mujoco(name: str) -> bool:
    return str(gymnasium.spec(name).entry_point).startswith("gymnasium.envs.mujoco")


def middle(runs: Sequence[Result]) -> str:
    """The median, and the range where there is one."""
    return number(median(runs).value) + (f" ({spread(runs)})" if len(runs) > 1 else "")


def spread(runs: Sequence[Result]) -> str:
    return f"{number(min(x.value for x in runs))} to {number(max(x.value for x in runs))}"


def number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.1f}"


def steps(x: int) -> str:
    """To three digits: a run ends with a whole rollout."""
    return EngFormatter(places=None, sep="")(float(f"{x:.2g}"))


def drawing(algorithm: str, found: Results, known: dict[str, Any]) -> Figure:
    """A panel for each environment: mean and range over seeds, evaluation at the end, published numbers dotted."""
    names = sorted({name for _, own, name in found if own == algorithm})
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    style: dict[Any, Any] = {
        "font.size": 8, "text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
        "axes.edgecolor": GREY, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(2.9 * columns, 2.2 * rows), layout="constrained", facecolor="none")
        for i, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, i + 1, facecolor="none", title=name, ylabel="return")
            axes.title.set_color(GREY)
            for side, colour in (("sb3", THEIRS), ("operant", OURS)):
                if runs := found.get((side, algorithm, name)):
                    draw(axes, runs, colour, "Operant" if side == "operant" else "Stable-Baselines3")
            for r in references(known, algorithm, name):
                axes.axhline(r.value, color=GREY, linestyle=":", linewidth=1, gid=r.convention)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            if ("sb3", algorithm, name) in found:
                axes.legend(frameon=False, fontsize=7)
            if i >= len(names) - columns:
                axes.set_xlabel("environment steps")
    return figure


def draw(axes: Axes, runs: Sequence[Result], colour: str, label: str) -> None:
    step, low, mean, high = band([run.curve for run in runs])
    axes.fill_between(step, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(step, mean, color=colour, linewidth=1.4, label=label)
    axes.plot([median(runs).steps], [median(runs).value], "o", color=colour, markersize=3.5, clip_on=False)


def band(curves: Sequence[Points]) -> tuple[np.ndarray, ...]:
    """(step, least, mean, largest) at every step that any curve has, from where all of them have begun."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return (np.zeros(0),) * 4
    begun = max(curve[0][0] for curve in curves)
    step = np.array(sorted({at for curve in curves for at, _ in curve if at >= begun}))
    y = np.array([np.interp(step, [at for at, _ in curve], [value for _, value in curve]) for curve in curves])
    return step, y.min(0), y.mean(0), y.max(0)
