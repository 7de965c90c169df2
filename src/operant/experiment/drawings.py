"""Values and policies of known models: as tables in the terminal, as heat maps and curves in the report.

Both come from `values.csv` of a run folder, whose columns are those of `Answer.lines`.
"""

import csv
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from rich.console import Console, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from operant.core.errors import InputError
from operant.experiment import plots
from operant.experiment.findings import Findings
from operant.experiment.plots import estimate

FILE = "values.csv"
HEADER = ("state", "value", "lower", "upper", "action", "name")
UNPROVEN = ("state", "value", "action", "name")
"""The columns where values have no bounds."""
END, WALL, UNKNOWN = "end", "wall", "?"
"""Names in place of an action's: an episode is over here; nothing ever leads here; nothing was learned of it."""
SHOWN, OPEN = 200, 20
"""States in the report's table, and how many of them are to be seen at once."""
DRAWN = ("bound/error", "bound/largest_change", "policy/changed")
"""Metrics that have their place here and not among the learning curves."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is worth how much, and what to do there."""

    value: Sequence[float]
    """[S]."""
    error: float | None
    """How far a value may be from the optimum; None where nothing proves it."""
    action: Sequence[int]
    """[S]: -1 where there is none."""
    name: Sequence[str]
    """[S]: what the action is called; END, WALL or UNKNOWN."""
    grid: tuple[int, int] | None = None
    """(height, width) where the first states are the cells of a grid, row by row."""

    @property
    def header(self) -> tuple[str, ...]:
        return UNPROVEN if self.error is None else HEADER

    def lines(self) -> Iterator[tuple[int | float | str, ...]]:
        """The rows of `values.csv`: state, value, its bounds if there are any, action and the action's name."""
        for s, (value, action, name) in enumerate(zip(self.value, self.action, self.name, strict=True)):
            around = 0.0 if action < 0 else self.error or 0.0
            bounds = () if self.error is None else (value - around, value + around)
            yield s, value, *bounds, action if action >= 0 else "", name

    def rows(self) -> list[list[tuple[float, str, str]]]:
        """[height][width] of (value, name, kind), where kind is "", "ended" or "wall"."""
        assert self.grid is not None
        height, width = self.grid
        kinds = {END: "ended", WALL: "wall"}
        cells = [(v, n, kinds.get(n, "")) for v, n in zip(self.value, self.name, strict=True)]
        return [cells[i * width : (i + 1) * width] for i in range(height)]


def in_terminal(answer: Answer, most: int, console: Console) -> Iterator[RenderableType]:
    """Two tables, values and policy, if the states are a grid; else one of the first `most` states.

    What does not fit is counted, never dropped in silence.
    """
    if answer.grid is None:
        yield from _state_table(answer, most)
        return
    rows = answer.rows()
    values = [[_blank(kind) if kind else f"{value:.4g}" for value, _, kind in row] for row in rows]
    names = [[_blank(kind) if kind else name for _, name, kind in row] for row in rows]
    yield from _grid_table("values", values, rows, console)
    yield from _grid_table("policy", names, rows, console)


def _blank(kind: str) -> str:
    return "·" if kind == "ended" else "█"


def _grid_table(
    title: str, words: list[list[str]], rows: list[list[tuple[float, str, str]]], console: Console
) -> Iterator[RenderableType]:
    widest = max(len(word) for row in words for word in row)
    room = max(1, (console.width - 2) // (widest + 2))
    cells = [value for row in rows for value, _, kind in row if not kind]
    low, high = min(cells, default=0.0), max(cells, default=0.0)
    table = Table.grid(padding=(0, 2, 0, 0))
    for row, shown in zip(rows, words, strict=True):
        styled = zip(row[:room], shown[:room], strict=True)
        table.add_row(*(Text(word.rjust(widest), _shade(cell, low, high)) for cell, word in styled))
    yield Text(title, "bold")
    yield table
    if (columns := len(rows[0])) > room:
        yield f"(columns 0 to {room - 1} of {columns}; a wider terminal shows more)"
    yield ""


def _shade(cell: tuple[float, str, str], low: float, high: float) -> Style:
    """Grey where it is over; from red through yellow to green, the higher the better."""
    if cell[2]:
        return Style(dim=True)
    share = (cell[0] - low) / ((high - low) or 1)
    return Style(color=("red", "bright_red", "yellow", "bright_green", "green")[min(4, int(5 * share))])


def _state_table(answer: Answer, most: int) -> Iterator[RenderableType]:
    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("state", justify="right")
    table.add_column("value", justify="right")
    table.add_column("action")
    for s, value, name in zip(range(most), answer.value, answer.name, strict=False):
        table.add_row(str(s), _worth(value, answer.error), name)
    yield table
    if (rest := len(answer.value) - most) > 0:
        yield f"... and {rest:,} more states; --rows shows more, --out writes all to {FILE}"
    yield ""


def _worth(value: float, error: float | None) -> str:
    """With the decimals that are proven; with four digits where nothing is."""
    return f"{value:.4g}" if error is None else f"{value:.{_digits(error)}f}"


def _digits(error: float) -> int:
    """Decimals that an answer this exact deserves, 6 at most."""
    return max(0, min(6, math.floor(-math.log10(2 * error)))) if 0 < error < math.inf else 6


def read_answer(path: Path, grid: tuple[int, int] | None) -> Answer:
    """What `Answer.lines` wrote. Raises `InputError` with file and line for anything else."""
    value, action, name, error = [], [], [], None
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        header = tuple(next(lines, ()))
        if header not in (HEADER, UNPROVEN):
            raise InputError(f"{path}:1: the columns are not {','.join(HEADER)}; remove the file, or solve anew")
        for cells in lines:
            try:
                _, v, *bounds, a, n = cells
                value.append(float(v))
                if header == HEADER:
                    low, high = map(float, bounds)
                    error = max(error or 0.0, (high - low) / 2)
                action.append(int(a) if a else -1)
                name.append(n)
            except ValueError:
                raise InputError(
                    f"{path}:{lines.line_num}: {','.join(cells)[:60]!r} is no line of {','.join(header)}; remove the "
                    "file, or solve anew"
                ) from None
    fits = grid is not None and grid[0] * grid[1] <= len(value)
    return Answer(value, error, action, name, grid if fits else None)


def section(run: Findings) -> str:
    """The report's part on a run of `operant solve`: the bound over the sweeps, the values, the policy."""
    if not (run.folder / FILE).is_file():
        return ""
    shape = run.summary.get("grid")
    grid = (int(shape[0]), int(shape[1])) if isinstance(shape, list) and len(shape) == 2 else None
    answer = read_answer(run.folder / FILE, grid)
    return "".join(_cards(run, answer))


def _cards(run: Findings, answer: Answer) -> Iterable[str]:
    yield f'<p class="note">{escape(str(run.summary.get("verdict", "")))}</p>'
    shown = _heat_map(answer) if answer.grid else _table(answer)
    parts = [shown, *_curve(run)]
    if answer.grid and answer.grid[1] > 8:  # too wide for half the page
        yield parts.pop(0)
    yield f'<div class="grid">{"".join(parts)}</div>'


def _heat_map(answer: Answer) -> str:
    title = "Values and policy"
    caption = (
        "The deeper the colour, the more a state is worth under the policy; below the value, what the policy does. "
        "Pale grey: an episode is over there. Dark grey: nothing leads there."
        + " ?: all values are still as they began."
        * (UNKNOWN in answer.name)
    )
    return plots.figure(title, caption, plots.heat_map(answer.rows(), title))


def _curve(run: Findings) -> list[str]:
    """The bound over the steps or, of a method that only knows it at its end, the largest change."""
    wanted = estimate(run.summary.get("error_asked_for"))
    titles = {
        "bound/error": ("The proven bound", "How far any value can be from the optimum, over the steps of the method."),
        "bound/largest_change": (
            "The largest change",
            "By how much a step changed a value. This alone proves nothing.",
        ),
    }
    for name, (title, caption) in titles.items():
        curve = run.metrics.get(name)
        if curve is not None and (curve.y > 0).sum() > 1:
            aim = wanted.mean if wanted and name == "bound/error" and wanted.mean > 0 else None
            return [plots.figure(title, caption, plots.log_chart(curve, title, "steps", aim))]
    return []


def _table(answer: Answer) -> str:
    rows = [
        f"<tr><th>{s}</th><td>{_worth(value, answer.error)}</td><td>{escape(name)}</td></tr>"
        for s, value, name in zip(range(SHOWN), answer.value, answer.name, strict=False)
    ]
    head = "<thead><tr><th>State</th><th>Value</th><th>Action</th></tr></thead>"
    first, rest = (
        f'<div class="scroll"><table>{head}<tbody>{"".join(part)}</tbody></table></div>'
        for part in (rows[:OPEN], rows[OPEN:])
    )
    more = f"<details><summary>{len(rows[OPEN:])} more states</summary>{rest}</details>" if rows[OPEN:] else ""
    left_out = len(answer.value) - SHOWN
    caption = f"The first {SHOWN} of {len(answer.value):,} states; {FILE} has all." if left_out > 0 else "All states."
    return plots.figure("Values and policy", caption, first + more)
