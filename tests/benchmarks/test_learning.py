"""What the learning table computes of its runs, and that both sides of a comparison have the same settings."""

import importlib
import math
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str) -> Any:
    """A module of benchmarks/, whose files import one another by their plain names."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


side, table = script("side"), script("learning_table")


def test_a_curve_is_the_mean_of_what_ended_in_each_stretch() -> None:
    episodes = [(1, 1.0), (10, 3.0), (11, 5.0), (95, 7.0), (100, 9.0), (104, 11.0)]
    assert side.curve(episodes, steps=100, points=10) == [(10, 2.0), (20, 5.0), (100, 9.0)]
    assert side.curve([], steps=100) == []


def test_a_band_goes_from_where_all_seeds_have_begun() -> None:
    step, low, mean, high = table.band([[(10, 0.0), (30, 2.0)], [(20, 5.0), (30, 3.0)], []])
    np.testing.assert_allclose([step, low, mean, high], [[20, 30], [1, 2], [3, 2.5], [5, 3]])


@pytest.mark.parametrize(("value", "expected"), [(110.0, "yes"), (96.0, "within"), (92.0, "no")])
def test_the_middle_run_is_held_against_the_published_interval(value: float, expected: str) -> None:
    known = {"ppo": {"Task-v0": [{"from": "zoo", "value": 100.0, "spread": 10.0, "episodes": 100}]}, "any": {}}
    (reference,) = table.references(known, "ppo", "Task-v0")
    assert math.isclose(reference.error, 1.96)
    runs = [table.Result(x, x - 3, x + 3, 1000) for x in (value, value + 50, value - 50)]
    assert table.median(runs).value == value
    assert table.verdict(runs, reference) == expected


@pytest.mark.parametrize(
    ("theirs", "expected"), [([2.0], ""), ([1.0, 4.0], "yes"), ([6.0, 9.0], "within"), ([8.0, 9.0], "no")]
)
def test_runs_of_another_library_are_held_against_ours_where_each_has_seeds(theirs: list[float], expected: str) -> None:
    ours, others = ([table.Result(x, x, x, 1000) for x in values] for values in ([3.0, 5.0, 7.0], theirs))
    assert table.beside(ours, others) == expected


def test_an_algorithm_without_a_published_number_is_held_against_what_counts_as_solved() -> None:
    known = {"ppo": {}, "any": {"Task-v0": [{"from": "solved", "value": 1.0, "spread": 0.0}]}}
    assert [x.convention for x in table.references(known, "a3c", "Task-v0")] == ["solved"]
    assert table.references(known, "ppo", "Other-v0") == []


def test_only_runs_with_the_newest_settings_count() -> None:
    common = {"side": "operant", "algorithm": "ppo", "environment": "Task-v0", "low": "0", "high": "2", "steps": "8"}
    rows = [
        common | {"seed": "0", "settings": "old", "return": "9", "date": "2026-01-01"},
        common | {"seed": "0", "settings": "new", "return": "1", "date": "2026-01-02"},
        common | {"seed": "1", "settings": "new", "return": "2", "date": "2026-01-03"},
    ]
    points = [{**rows[0], "step": "8", "return": "9"}, {**rows[1], "step": "8", "return": "1"}]
    (runs,) = table.results(rows, points).values()
    assert [(run.value, run.curve) for run in runs] == [(1.0, [(8, 1.0)]), (2.0, [])]


def test_every_setting_of_a_task_has_a_name_here() -> None:
    ours = script("operant_control")
    for name in tomllib.loads(side.TASKS.read_text()):
        asked = side.task(name)
        if asked.clip_schedule != "constant":  # Stable-Baselines3's alone
            continue
        algorithm, _ = ours.ALGORITHMS[asked.algorithm]
        algorithm.Config(**ours.settings(asked, asked.steps))
    ppo = ours.settings(side.task("ppo_walker2d"), 1_000_000)
    assert ppo == ours.settings(side.task("ppo_halfcheetah"), 1_000_000)
    assert (ppo["rollout"], ppo["minibatch"], ppo["value_coefficient"]) == (2048, 64, 1.0)
    assert ours.settings(side.task("dqn_cartpole"), 50_000)["epsilon_steps"] == 8_000
    assert ours.settings(side.task("td3_halfcheetah"), 200_000)["noise"] == 0.1


def test_what_is_timed_differs_from_the_task_only_where_it_says_so() -> None:
    whole, timed = side.task("sac_halfcheetah"), side.task("sac_halfcheetah", timed=True)
    assert (whole.steps, timed.steps) == (200_000, 3_000)
    assert timed.settings == whole.settings | {"learning_starts": 100}
    assert whole.settings["learning_rate"] == 3e-4 != side.task("sac_pendulum").settings["learning_rate"]


def test_the_clock_stands_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([[0.0, 0.0], [3.0, 1.0], [13.0, 9.0], [14.0, 9.5]])
    monkeypatch.setattr(side, "_now", lambda: np.array(next(times)))
    clock = side.Clock()
    clock.start()
    with clock.pause():
        pass
    clock.stop()
    assert (clock.seconds, clock.cpu_seconds) == (4.0, 1.5)
