"""`operant solve`: what a person sees, what the run folder holds, and every kind of bad input."""

import csv
import json
import re
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from operant.algorithms.planning import policy_iteration
from operant.cli.solve import Method
from operant.mdp import problems
from operant.mdp.chain import policy_reward_process
from operant.mdp.files import write_model

HEADER = "state,action,next_state,probability,reward"


def values(folder: Path) -> list[dict[str, str]]:
    with (folder / "values.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_without_a_problem_it_lists_them(operant):
    code, said, complained = operant("solve")
    assert (code, complained) == (0, "")
    assert all(name in said for name in (*problems.PROBLEMS, "FrozenLake-v1", "Taxi-v4", "state,action,next_state"))


def test_a_grid_is_drawn(operant):
    code, said, complained = operant("solve", "corner_grid")
    assert (code, complained) == (0, "")
    drawn = [line.split() for line in said.splitlines()]
    start = drawn.index(["values"])
    assert drawn[start + 1 : start + 5] == [
        ["·", "-1", "-2", "-3"],
        ["-1", "-2", "-3", "-2"],
        ["-2", "-3", "-2", "-1"],
        ["-3", "-2", "-1", "·"],
    ]
    assert drawn[drawn.index(["policy"]) + 1] == ["·", "←", "←", "↓"]
    assert "no discount" in said
    assert "\npolicy iteration: " in said
    assert re.search(
        r"proven to lie within \S+ of the optimum; the policy loses \S+ at most\. Asked for: 1e-06\.", said
    )


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (
            "dyna_maze",
            ["·: an episode is over there; █: nothing leads there", "the start, state 18, is worth 0.513342"],
        ),
        ("cliff", ["·: an episode is over there", "the start, state 36, is worth -13"]),
        ("random_walk", ["·: an episode is over there; ↔: no choice, a step to either side", "the start, state 3, "]),
        ("baird", ["any: to one of the first six states"]),
        ("jumping_grid", []),
        ("gambler", []),
    ],
)
def test_signs_that_are_drawn_are_explained(operant, problem, said):
    lines = operant("solve", problem)[1].splitlines()
    notes = [line for line in lines if re.match(r"(·|█|↔|any): |the start, ", line)]
    assert len(notes) == len(said)
    assert all(line.startswith(words) for line, words in zip(notes, said, strict=True))


def test_other_states_are_listed_and_what_is_left_out_is_counted(operant):
    said = operant("solve", "gambler", "--rows", "3")[1]
    assert re.findall(r"^ +(\d+) +([\d.]+) +(.+?) *$", said, re.M) == [
        ("0", "0.000000", "end"),
        ("1", "0.002066", "stake 1"),
        ("2", "0.005164", "stake 2"),
    ]
    assert "... and 98 more states; --rows shows more" in said


@pytest.mark.parametrize("method", [m for m in get_args(Method) if m != "auto"])
def test_every_method_gives_the_same_answer(operant, tmp_path, method):
    code, said, _ = operant("solve", "jumping_grid", "--method", method, "--error", "1e-8", "--out", tmp_path / method)
    assert code == 0
    assert re.search(rf"^{method[:8].replace('_', '.')}.*: \d+ sweeps, \S+ s$", said, re.M | re.I)
    found = [float(row["value"]) for row in values(tmp_path / method)]
    exact = policy_iteration.solve(problems.jumping_grid())
    np.testing.assert_allclose(found, exact.value, atol=2e-8)
    summary = json.loads((tmp_path / method / "summary.json").read_text("utf-8"))
    assert summary["method"] == method
    assert summary["reached"] is True
    assert 0 < summary["error"] <= 1e-8


def test_the_run_folder(operant, tmp_path):
    out = tmp_path / "run"
    said = operant("solve", "dyna_maze", "--gamma", "0.9", "--threads", "1", "--out", out)[1]
    assert f"the report is {out / 'report.html'}" in said
    settings = tomllib.loads((out / "config.toml").read_text("utf-8"))
    assert (settings["problem"], settings["gamma"], settings["run"]["algorithm"]) == ("dyna_maze", 0.9, "solve")
    rows = values(out)
    assert [row["name"] for row in rows[:9]] == ["→"] * 6 + ["↓", "wall", "end"]
    for row in rows:
        assert float(row["lower"]) <= float(row["value"]) <= float(row["upper"])
        assert (row["action"] == "") == (row["name"] in ("end", "wall"))
    np.testing.assert_allclose(float(rows[18]["value"]), 0.9**13, atol=1e-6)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert lines[-1]["bound/error"] == summary["error"]
    assert summary["verdict"] in said
    page = (out / "report.html").read_text("utf-8")
    assert page.count('class="cell heat"') == 46
    assert page.count('class="cell wall"') == 7
    assert "The proven bound" in page
    code, _, complained = operant("solve", "dyna_maze", "--out", out)
    assert (code, complained) == (2, f"operant: the run folder {out} exists: another --out starts a new one\n")


def test_a_bound_that_cannot_be_reached_is_said_plainly(operant, tmp_path):
    code, said, _ = operant("solve", "jumping_grid", "--error", "1e-16", "--out", tmp_path / "run")
    assert code == 0
    assert "NOT REACHED: an error of 1e-16 was asked for. Every value is proven to lie within " in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["reached"] is False
    assert "NOT REACHED" in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("method", ["policy_iteration", "gauss_seidel", "prioritized_sweeping"])
def test_methods_that_need_no_discount(operant, method):
    said = operant("solve", "windy_grid", "--method", method)[1]
    assert re.search(r"^ *-15 +-14 +-13 +-12 +-11 +-10 +-9 +· +-5 +-3 *$", said, re.M)


def test_a_finite_horizon(operant):
    """With two steps left only the last two states see the treasure."""
    code, said, _ = operant("solve", "treasure_walk", "--horizon", "2")
    assert code == 0
    drawn = [line.split() for line in said.splitlines()]
    assert drawn[drawn.index(["values"]) + 1] == ["0", "0", "0", "0.9", "1", "·"]
    assert "finite horizon: 2 sweeps" in said
    assert "Asked for" in said
    code, _, complained = operant("solve", "cliff", "--horizon", "2", "--method", "value_iteration")
    assert (code, complained) == (
        2,
        "operant: --horizon is solved backwards, not by value_iteration: leave --method out\n",
    )
    assert "horizon is 0: give a whole number, 1 or more" in operant("solve", "cliff", "--horizon", "0")[2]


def test_gymnasiums_environments(operant):
    code, said, complained = operant("solve", "FrozenLake-v1", "--env-args", "is_slippery", "False", "--gamma", "0.5")
    assert (code, complained) == (0, "")
    drawn = [line.split() for line in said.splitlines()]
    start = drawn.index(["values"])
    assert drawn[start + 1 : start + 5] == [
        ["0.03125", "0.0625", "0.125", "0.0625"],
        ["0.0625", "·", "0.25", "·"],
        ["0.125", "0.25", "0.5", "·"],
        ["·", "0.5", "1", "·"],
    ]
    said = operant("solve", "Taxi-v4", "--rows", "1")[1]
    assert "discount 0.99, as none was given" in said
    assert "pick up" in said


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_a_file_is_solved_as_the_problem_it_was_written_from(operant, tmp_path, suffix):
    write_model(problems.recycling_robot(), tmp_path / f"m{suffix}")
    for name, words in (("recycling_robot", "search"), (tmp_path / f"m{suffix}", "0")):
        said = operant("solve", name, "--gamma", "0.9")[1]
        (shown,) = re.findall(rf"^ +0 +([\d.]+) +{words} *$", said, re.M)
        np.testing.assert_allclose(float(shown), policy_iteration.solve(problems.recycling_robot()).value[0], atol=2e-6)


def test_the_values_of_a_policy_that_is_given(operant, tmp_path):
    """Always to the right, in the book's grid of example 3.5, against its own linear system."""
    (tmp_path / "right.csv").write_text("action,state\n" + "".join(f"1,{s}\n" for s in range(25)))
    given = ["--policy", tmp_path / "right.csv"]
    code, said, _ = operant("solve", "jumping_grid", *given, "--out", tmp_path / "run")
    assert code == 0
    assert re.search(r"proven to lie within \S+ of the policy's\. Asked for", said)
    due = policy_reward_process(problems.jumping_grid(), np.ones(25, dtype=int)).value()
    np.testing.assert_allclose([float(row["value"]) for row in values(tmp_path / "run")], due, atol=2e-6)
    # values.csv of one run is the policy of the next.
    again = operant("solve", "jumping_grid", "--policy", tmp_path / "run" / "values.csv")[1]
    assert again.split("\n")[3:14] == said.split("\n")[3:14]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("0,0,0,0.999,1\n", ": state 0, action 0: the probabilities sum to 0.999, which is -0.001 from 1"),
        ("0,0,0,1.5,1\n0,0,1,-0.5,1\n1,0,0,1,0\n", ": state 0, action 0: a probability is -0.5"),
        ("0,0,0,1,nan\n", ":2: reward is nan; give a finite number"),
        ("0,0,0,1,-inf\n", ":2: reward is -inf; give a finite number"),
        ("0,0,1,1,0\n", ": state 1 has no action and is no end"),
        ("0,0,0,one,0\n", ":2: probability is 'one'; give a number"),
        ("", ": the model has no states"),
    ],
)
def test_a_file_that_is_no_model(operant, tmp_path, lines, said):
    path = tmp_path / "m.csv"
    path.write_text(f"{HEADER}\n{lines}")
    code, out, complained = operant("solve", path, "--gamma", "0.9")
    assert (code, out) == (2, "")
    assert complained.startswith(f"operant: {path}{said}")
    assert complained.count("\n") == 1


BAD = [
    (["clif"], "no problem, no .csv or .npz file and no Gymnasium environment called 'clif'; did you mean cliff?"),
    (["FrozenLake"], "did you mean FrozenLake-v1 or FrozenLake8x8-v1?"),
    (["zzzzz"], "operant solve without arguments lists what there is"),
    (["nowhere.csv"], "nowhere.csv: No such file or directory"),
    (["CartPole-v1"], "CartPole-v1 has no table of transitions (an attribute P): its model is not known. Learn it"),
    (["Blackjack-v1"], "operant learn"),
    (["FrozenLake-v1", "--env-args", "no_such", "1"], "Gymnasium cannot make FrozenLake-v1: "),
    (["cliff", "--env-args", "is_slippery", "1"], "--env-args are for Gymnasium's environments, and cliff is none"),
    (["cliff", "--gamma", "1.5"], "gamma is 1.5: give a number between 0 and 1"),
    (["cliff", "--gamma", "-0.1"], "gamma is -0.1: give a number between 0 and 1"),
    (["cliff", "--gamma", "nan"], "gamma is nan"),
    (["cliff", "--method", "value_iteration"], "gamma is 1, and value_iteration needs a discount below 1: take "),
    (["recycling_robot", "--gamma", "1"], "gamma is 1 and from state 0 no end can be reached, whatever is done"),
    (["cliff", "--error", "-1"], "error is -1.0: give a number, 0 or more"),
    (["cliff", "--error", "inf"], "--error is inf: give a finite number"),
    (["cliff", "--error", "nan"], "error is nan: give a number, 0 or more"),
    (["cliff", "--horizon", "9" * 11], "a horizon of 99,999,999,999 steps in 48 states"),
    (["cliff", "--horizon", "9" * 30], "GB: give a shorter --horizon"),
    (["cliff", "--threads", "4096"], "threads is 4096: this machine has "),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_message(operant, arguments, said):
    code, out, complained = operant("solve", *arguments)
    assert code == 2
    assert "values" not in out
    assert said in complained
    assert complained.startswith("operant: ")
    assert complained.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state,do\n0,1\n", "p.csv:1: there is no column 'action'; a policy has the columns state and action"),
        ("state,action\n0,1\n48,1\n", "p.csv:3: state 48 is none of this model, whose states go from 0 to 47"),
        ("state,action\n0,up\n", "p.csv:2: state and action are whole numbers, not ['0', 'up']"),
        ("state,action\n0,1\n", "p.csv: state 1 has no action; give a line for every state that is no end"),
        ("state,action\n0,1\n0,2\n", "p.csv:3: state 0 is there twice; leave one of its lines out"),
        ("state,action\n" + "".join(f"{s},9\n" for s in range(48)), "p.csv: the policy takes action 9 in state 0"),
        ("state,action\n" + "".join(f"{s},3\n" for s in range(48)), "p.csv: gamma is 1 and from state 0 no end"),
        (None, "this policy cannot be read"),
    ],
)  # fmt: skip
def test_a_policy_of_another_model(operant, tmp_path, text, said):
    if text is not None:
        (tmp_path / "p.csv").write_text(text)
    code, _, complained = operant("solve", "cliff", "--policy", tmp_path / "p.csv")
    assert code == 2
    assert said in complained
    assert "whatever is done" not in complained


def test_a_place_that_holds_no_run_folder_is_found_before_solving(operant, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for out, said in (
        (tmp_path / "file", "is a file: give the name of a folder"),
        (tmp_path / "file" / "run", "cannot be made: Not a directory; give another folder"),
        (tmp_path / "full", "holds something that is no run: another --out starts a new one"),
    ):
        assert operant("solve", "cliff", "--out", out) == (2, "", f"operant: --out {out} {said}\n")
    assert operant("solve", "clif", "--out", tmp_path / "new" / "run")[0] == 2
    assert not (tmp_path / "new").exists()


def test_an_unknown_method_lists_those_there_are(operant):
    code, _, complained = operant("solve", "cliff", "--method", "magic")
    assert code == 2
    assert "value_iteration" in complained
