"""The section about bandits: curves in bands that say what was measured, nothing where there is nothing to say."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operant.experiment import regret
from operant.experiment.findings import read_run
from operant.experiment.report import write_report

STEPS = 50


def write(folder: Path, summary: dict[str, Any], **slopes: float) -> Path:
    """A comparison in which each algorithm's regret grows along a line."""
    for name, slope in slopes.items():
        (folder / name).mkdir(parents=True)
        lines = []
        for step in range(1, STEPS + 1):
            mean = slope * step
            lines.append({
                "step": step, "bandit/regret": mean, "bandit/regret_error": 0.1, "bandit/regret_low": mean / 2,
                "bandit/regret_high": 2 * mean, "bandit/optimal_action": 0.5, "bandit/optimal_action_error": 0.01,
            })  # fmt: skip
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def section(folder: Path) -> str:
    return regret.section(read_run(folder, "run"))


def test_best_first_with_a_panel_for_each_and_the_bound(tmp_path):
    page = section(write(tmp_path, {"lai_robbins": {"slope": 3.0, "regret": 11.7}}, greedy=2.0, ucb=0.5))
    assert page.index("UCB") < page.index("Greedy")
    assert page.count("<polygon") == 2 + 2 + 2
    assert page.count('class="reference"') == 1 + 2
    assert "3 ln t" in page
    assert "25 at the end" in page


def test_without_a_bound_there_is_no_dashed_line(tmp_path):
    page = section(write(tmp_path, {}, ucb=1.0))
    assert "reference" not in page
    assert "Robbins" not in page


def test_bands_have_their_edges():
    x = np.array([1.0, 2.0, 4.0])
    svg = regret.chart([regret.Band(x, x, x - 1, x + 1, 0)], "words")
    points = re.search(r'<polygon[^>]* points="([^"]*)"', svg)[1].split()
    assert len(points) == 6
    across, up = np.array([[float(n) for n in p.split(",")] for p in points]).T
    assert across[:3].tolist() == across[3:][::-1].tolist()
    assert (up[:3] > up[3:][::-1]).all()  # down the page is lower
    scale = np.diff(up[:3]) / np.diff(across[:3])
    assert scale[0] == pytest.approx(scale[1], abs=0.02)  # a line stays one


def test_a_run_that_has_just_begun_is_drawn(tmp_path):
    (tmp_path / "ucb").mkdir()
    line = {"step": 1, "bandit/regret": 0.0, "bandit/regret_error": 0.0, "bandit/regret_low": 0.0,
            "bandit/regret_high": 0.0, "bandit/optimal_action": 1.0, "bandit/optimal_action_error": 0.0}  # fmt: skip
    (tmp_path / "ucb" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    page = section(tmp_path)
    assert page
    assert "nan" not in page


def test_other_runs_have_no_such_section(tmp_path):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "metrics.jsonl").write_text('{"step": 1, "loss/sft": 1.0}\n')
    assert section(tmp_path) == ""


def test_names_are_escaped_and_two_runs_stand_side_by_side(tmp_path):
    runs = [write(tmp_path / name, {}, **{"<b>": 1.0, "ucb": 2.0}) for name in ("a", "b")]
    write_report(runs, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<b></h3>" not in page
    assert "&lt;b&gt;" in page
    assert page.count("How the runs of each differ") == 2
