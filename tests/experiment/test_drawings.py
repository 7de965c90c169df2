"""Values and policies drawn in the terminal and in the report."""

import io
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from operant.core.errors import InputError
from operant.experiment import plots
from operant.experiment.drawings import END, FILE, HEADER, WALL, Answer, in_terminal, read_answer, section
from operant.experiment.findings import read_run
from operant.experiment.plots import Curve

GRID = Answer([1.5, -2.0, 0.25, 0.0, 0.0, 3.0], 1e-3, [0, 1, 2, -1, -1, 3], ["↑", "→", "↓", END, WALL, "←"], (2, 3))


def shown(answer: Answer, most: int = 20, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    for part in in_terminal(answer, most, console):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def written(folder: Path, answer: Answer) -> Path:
    rows = [HEADER, *answer.lines()]
    (folder / FILE).write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return folder / FILE


def test_a_grid_in_the_terminal():
    assert shown(GRID) == ["values", " 1.5    -2  0.25", "   ·     █     3", "", "policy", "↑  →  ↓", "·  █  ←", ""]


def test_columns_that_do_not_fit_are_counted():
    wide = Answer([-100.0] * 30, 0.0, [1] * 30, ["→"] * 30, (1, 30))
    lines = shown(wide, width=40)
    assert lines[1].split() == ["-100"] * 6
    assert " ".join(lines[2:4]) == "(columns 0 to 5 of 30; a wider terminal shows more)"
    assert "columns 0 to 11 of 30" in " ".join(lines)


def test_a_list_shows_as_many_digits_as_are_proven():
    lines = shown(Answer([1 / 3, 2 / 3], 1e-4, [0, 1], ["left", "right"]))
    assert [line.split() for line in lines[:3]] == [
        ["state", "value", "action"],
        ["0", "0.333", "left"],
        ["1", "0.667", "right"],
    ]
    assert "0.333333" in shown(Answer([1 / 3], 0.0, [0], ["left"]))[1]
    assert shown(Answer([1 / 3], math.inf, [0], ["left"]))[1].split() == ["0", "0.333333", "left"]
    lines = shown(Answer([0.0] * 1000, 0.0, [0] * 1000, ["x"] * 1000), most=5)
    assert "... and 995 more states; --rows shows more, --out writes all to values.csv" in " ".join(lines)


def test_there_and_back(tmp_path):
    found = read_answer(written(tmp_path, GRID), (2, 3))
    assert (found.value, found.action, found.name, found.grid) == (GRID.value, GRID.action, GRID.name, GRID.grid)
    assert abs(found.error - GRID.error) < 1e-12
    assert read_answer(tmp_path / FILE, (9, 9)).grid is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state,value\n", r"values.csv:1: the columns are not state,value,lower"),
        (",".join(HEADER) + "\n0,x,0,0,0,a\n", r"values.csv:2: '0,x,0,0,0,a' is no line of"),
        (",".join(HEADER) + "\n0,1,0,0,0,a\n1,2\n", r"values.csv:3: '1,2' is no line of"),
    ],
)
def test_values_that_were_changed_by_hand(tmp_path, text, said):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=said):
        read_answer(tmp_path / FILE, None)


def tree(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_a_heat_map_is_deeper_where_more_is_worth():
    cells = list(tree(plots.heat_map(GRID.rows(), "a <b>")).iter("rect"))
    assert [c.get("class") for c in cells] == ["cell heat"] * 3 + ["cell ended", "cell wall", "cell heat"]
    depth = [float(c.get("fill-opacity", "nan")) for c in cells]
    assert depth[1] < depth[2] < depth[0] < depth[5]
    words = [t.text for t in tree(plots.heat_map(GRID.rows(), "")).iter("text")]
    assert words == ["1.5", "↑", "−2", "→", "0.25", "↓", "end", "3", "←"]
    narrow = plots.heat_map([[(1234.5, "→", "")] * 100], "")
    assert "1.23e+03" not in [t.text for t in tree(narrow).iter("text")]
    assert "value 1234.5" in narrow
    assert "nan" not in plots.heat_map([[(1.0, "a", "")]], "")


def test_a_log_chart_goes_down_in_even_steps_where_the_bound_falls_by_a_factor():
    steps = np.arange(1.0, 8.0)
    svg = plots.log_chart(Curve(steps, 10.0**-steps), "bound", "steps", 1e-3)
    points = next(iter(re.findall(r'<polyline class="line s0" points="([^"]+)"', svg))).split()
    x, y = np.array([p.split(",") for p in points], dtype=float).T
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.11)
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0], atol=0.11)
    assert np.diff(y)[0] > 0
    (aim,) = re.findall(r'class="reference".*?y1="([\d.]+)"', svg)
    assert abs(float(aim) - y[2]) < 0.11
    for y_ in ([1.0, 0.0], [1e-300, 1e300], [5.0, 5.0]):
        assert "nan" not in plots.log_chart(Curve(np.arange(2.0), np.array(y_)), "any")


def test_the_section_of_a_report(tmp_path):
    (tmp_path / "summary.json").write_text('{"verdict": "<proven>", "grid": [2, 3], "error_asked_for": 0.01}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "bound/error": 2}\n{"step": 2, "bound/error": 0.001}\n')
    assert section(read_run(tmp_path, "run")) == ""
    written(tmp_path, GRID)
    html = section(read_run(tmp_path, "run"))
    assert "&lt;proven&gt;" in html
    assert html.count('class="cell heat"') == 4
    assert "asked for" in html
    (tmp_path / "summary.json").write_text("{}")
    many = Answer([0.5] * 300, 1e-6, [0] * 300, ["<stay>"] * 300)
    written(tmp_path, many)
    html = section(read_run(tmp_path, "run"))
    assert html.count("&lt;stay&gt;") == 200
    assert "The first 200 of 300 states; values.csv has all." in html
