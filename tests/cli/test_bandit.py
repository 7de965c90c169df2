"""`operant bandit`: comparisons with figures and a report, resumed to the bit, and bad input in one line."""

import json
import math
import os
import re
import signal
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operant.cli import bandit
from operant.core.errors import Diverged
from operant.experiment import run
from operant.experiment.run import Run

FEW = ["--runs", 20, "--steps", 60, "--arms", 3]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if not name.startswith("time/")} for line in lines]


def test_a_comparison_ends_with_figures_a_table_and_a_report(operant, tmp_path):
    out = tmp_path / "run"
    names = ["greedy", "epsilon_greedy", "decaying", "optimistic", "ucb", "kl_ucb", "thompson", "gradient", "exp3"]
    code, said, _ = operant("bandit", "--out", out, *FEW, "--algorithms", *names)
    assert code == 0
    assert "bernoulli, 3 arms, 60 steps, 20 runs" in said
    assert all(name in said for name in names)
    assert f"{out / 'report.html'} shows the curves" in said
    assert tomllib.loads((out / "config.toml").read_text())["run"]["algorithm"] == "bandit"
    summary = read(out)
    assert list(summary["stages"]) == names
    bound = summary["lai_robbins"]
    assert bound["regret"] == pytest.approx(bound["slope"] * math.log(60))
    for name in names:
        lines = metrics(out / name)
        assert [line["step"] for line in lines] == list(range(1, 61))
        figures = summary["stages"][name]
        assert figures == read(out / name)
        assert figures["regret"]["mean"] == lines[-1]["bandit/regret"]
        assert figures["reward_per_step"]["mean"] == pytest.approx(np.mean([x["bandit/reward"] for x in lines]))
    page = (out / "report.html").read_text()
    assert 'id="regret"' in page
    assert page.count("<polygon") == 3 * len(names)
    assert "Lai and Robbins" in page
    assert not re.search(r"\bnan\b|https?://", page)
    charts = dict(re.findall(r"<h3>([^<]*), stage by stage</h3>(.*?)</figure>", page, re.S))
    assert "%" not in charts["Reward per step"]


WORLDS = {
    "bernoulli": ["--means", 0.2, 0.5, 0.7],
    "gaussian": ["--deviation", 2],
    "random_walk": ["--walk", 0.1],
    "abrupt": ["--changes", 2],
    "adversarial": ["--against", "kl_ucb"],
    "linear": ["--features", 3],
    "disjoint": ["--deviation", 0.5],
}


@pytest.mark.parametrize("world", bandit.WORLDS)
def test_every_world_is_played(operant, tmp_path, world):
    fit = {"linear": ["linucb", "linear_thompson"], "disjoint": ["linucb", "ucb"]}.get(world, ["ucb", "thompson"])
    code, _, _ = operant(
        "bandit", "--out", tmp_path / "a", *FEW, "--world", world, "--algorithms", *fit, *WORLDS[world]
    )
    assert code == 0
    summary = read(tmp_path / "a")
    assert list(summary["stages"]) == fit
    assert ("lai_robbins" in summary) == (world in ("bernoulli", "gaussian"))
    assert ("least that is possible" in (tmp_path / "a" / "report.html").read_text()) == ("lai_robbins" in summary)


def test_all_algorithms_meet_the_same_arms(operant, tmp_path):
    options = bandit.Options(tmp_path, runs=5, arms=4, world="gaussian", seed=7)
    worlds = [bandit.make_world(options) for _ in range(2)]
    assert (worlds[0].mean == worlds[1].mean).all()
    rewards = [world.pull(np.zeros(5, dtype=int))[0] for world in worlds]
    assert (rewards[0] == rewards[1]).all()


def test_the_smallest_comparison_there_is(operant, tmp_path):
    code, said, _ = operant("bandit", "--out", tmp_path / "a", "--arms", 2, "--runs", 2, "--steps", 1)
    assert code == 0
    assert "2 arms, 1 steps, 2 runs" in said
    assert "lai_robbins" not in read(tmp_path / "a")


@pytest.mark.parametrize("name", ["ucb", "kl_ucb", "optimistic"])
def test_the_adversary_pays_the_algorithm_it_is_against_nothing(tmp_path, name):
    options = bandit.Options(tmp_path, (name,), "adversarial", arms=4, steps=200, runs=20, against=name)
    world, module, config = bandit.make_world(options), bandit.ALGORITHMS[name], getattr(options, name)
    state = module.init(world, config, seed=3)
    for _ in module.train(state, config, 200):
        pass
    assert state.totals.reward.max() < 4  # what was paid in the first steps, in which every arm was tried


def test_a_table_of_rewards_is_read(operant, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("1,0\n" * 10 + "0,0.5\n" * 10)
    options = ["--world", "adversarial", "--table", table, "--steps", 20, "--arms", 2, "--runs", 5]
    code, _, _ = operant("bandit", "--out", tmp_path / "a", *options, "--algorithms", "exp3", "greedy")
    assert code == 0
    # greedy stays with the arm that pays in the first half, which is the best in hindsight, or finds it late
    assert 0 <= read(tmp_path / "a")["stages"]["greedy"]["regret"]["mean"] < 5


def test_interrupted_anywhere_and_resumed_it_ends_as_if_uninterrupted(operant, tmp_path, monkeypatch):
    options = [*FEW, "--world", "random_walk", "--algorithms", "ucb", "thompson", "--checkpoint-every", 10]
    assert operant("bandit", "--out", tmp_path / "whole", *options)[0] == 0
    out = tmp_path / "cut"
    save = Run._save
    saved = []

    def interrupted(self: Run, *rest: Any) -> None:
        save(self, *rest)
        saved.append(self.folder.name)
        if len(saved) in (3, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_save", interrupted)
    assert operant("bandit", "--out", out, *options)[0] == 130
    assert saved == ["ucb"] * 3
    assert operant("bandit", "--out", out, "--resume")[0] == 130
    assert saved[-1] == "thompson"
    assert operant("bandit", "--out", out, "--resume")[0] == 0
    for name in ("ucb", "thompson"):
        assert metrics(out / name) == metrics(tmp_path / "whole" / name)
    assert read(out) == read(tmp_path / "whole")
    code, said, _ = operant("bandit", "--out", out, "--resume")
    assert (code, said) == (0, f"{out} is finished; nothing to resume\n")


def test_ctrl_c_names_the_folder_to_resume(operant, tmp_path, monkeypatch):
    save, out = Run._save, tmp_path / "a"

    def interrupted(self: Run, *rest: Any) -> None:
        save(self, *rest)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_save", interrupted)
        options = [*FEW, "--algorithms", "ucb", "--checkpoint-every", 10]
        code, _, complained = operant("bandit", "--out", out, *options)
    assert code == 130
    assert complained.endswith(f"stopped after step 10; --resume continues {out}\n")
    assert operant("bandit", "--out", out, "--resume")[0] == 0


def test_numbers_that_leave_their_range_are_not_cured_by_a_learning_rate():
    for name, cure in (("bandit/reward", "smaller numbers in the world"), ("loss/value", "a smaller learning rate")):
        with pytest.raises(Diverged, match=f"step 3: the {name} is nan; {cure}"):
            run._require_finite_metrics({name: math.nan}, 3)


def test_a_table_that_has_changed_is_not_resumed(operant, tmp_path, monkeypatch):
    table = tmp_path / "t.csv"
    table.write_text("1,0\n" * 20)
    options = ["--world", "adversarial", "--table", table, "--steps", 20, "--arms", 2, "--runs", 5]
    monkeypatch.setattr(bandit, "show", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(bandit, "play", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert operant("bandit", "--out", tmp_path / "a", *options, "--algorithms", "exp3")[0] == 130
    table.write_text("0,1\n" * 20)
    code, _, complained = operant("bandit", "--out", tmp_path / "a", "--resume")
    assert code == 2
    assert "has changed since it began" in complained


BAD = {
    "there is no algorithm 'thomson'; did you mean thompson?": ["--algorithms", "thomson"],
    "there is no algorithm 'zzz'; there are greedy, epsilon_greedy": ["--algorithms", "zzz"],
    "there is no world 'gausian'; did you mean gaussian?": ["--world", "gausian"],
    "algorithms names one twice (ucb ucb)": ["--algorithms", "ucb", "ucb"],
    "algorithms is empty: name some of greedy": ["--algorithms"],
    "arms is 1: a bandit has at least 2": ["--arms", 1],
    "runs is 1: an error is estimated from how runs differ": ["--runs", 1],
    "--steps is 0: give a whole number, 1 or more": ["--steps", 0],
    "the seed is 4294967296": ["--seed", 2**32],
    "linucb chooses by contexts, and this world has none: take a world with contexts. Those that fit --world "
    "bernoulli: greedy, epsilon_greedy, decaying, optimistic, ucb, kl_ucb, thompson, gradient, exp3": [
        "--algorithms", "ucb", "linucb",
    ],
    "kl_ucb is for rewards of numbers from 0 to 1, and this world pays any number: take another algorithm or another "
    "world. Those that fit --world linear: greedy, epsilon_greedy, decaying, optimistic, ucb, thompson, gradient, "
    "linucb, linear_thompson": ["--world", "linear"],
    "thompson with model beta is for rewards of 0 or 1": [
        "--world", "gaussian", "--algorithms", "thompson", "--thompson.model", "beta",
    ],
    "means has 2 numbers and arms is 10: give one for each arm": ["--means", 0.5, 0.6],
    "the probability at [0, 1] is 1.5: give numbers from 0 to 1": ["--means", 0.5, 1.5, "--arms", 2],
    "means is for the world bernoulli or gaussian, and the world is linear": ["--world", "linear", "--means", 1, 2],
    "deviation is for the world gaussian or random_walk or linear or disjoint, and the world is bernoulli": [
        "--deviation", 0,
    ],
    "table is for the world adversarial, and the world is bernoulli": ["--table", "t.csv"],
    "the table nowhere.csv cannot be read": ["--world", "adversarial", "--table", "nowhere.csv"],
    "there is no algorithm without chance 'thompson'": ["--world", "adversarial", "--against", "thompson"],
    "changes is 60: give a whole number from 0 to 59": ["--world", "abrupt", "--steps", 60, "--changes", 60],
    "--exp3.gamma is 1.5: give a number between 0 and 1": ["--exp3.gamma", 1.5],
    "c is 0.0: give a number above 0": ["--ucb.c", 0],
    "--ucb.c is -1.0: give a number, 0 or more": ["--ucb.c", -1],
    "--arms x --runs, 100,000,000 x 2,000, would take 12,800 GB of memory": ["--arms", 10**8],
    "--arms x --runs, 10 x 100,000,000,000, would take 64,000 GB of memory": ["--runs", 10**11],
    "--deviation is 1e+308: give 0, or a number whose size is from 1e-50 to 1e+50": [
        "--world", "gaussian", "--deviation", 1e308,
    ],
    "--means is -1e+308: give 0, or": ["--world", "gaussian", "--arms", 2, "--means", 1, -1e308],
    "--gradient.step-size is inf: give 0, or a number whose size is": ["--gradient.step-size", "inf"],
    "--epsilon-greedy.initial is inf: give 0, or a number whose size is": ["--epsilon-greedy.initial", "inf"],
    "--linucb.alpha is inf: give 0, or a number whose size is": ["--linucb.alpha", "inf"],
    "--linucb.ridge is 1e-320: give 0, or a number": ["--world", "linear", "--linucb.ridge", 1e-320],
    "ridge is 1e-12: give a number above 0, 1e-10 at least": ["--world", "linear", "--linucb.ridge", 1e-12],
}  # fmt: skip


@pytest.mark.parametrize("message", BAD, ids=[message[:40] for message in BAD])
def test_bad_input_is_said_in_one_line_before_anything_is_written(operant, tmp_path, message):
    code, said, complained = operant("bandit", "--out", tmp_path / "a", *BAD[message])
    assert (code, said) == (2, "")
    assert complained.startswith(f"operant: {message}")
    assert len(complained.splitlines()) == 1
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: give numbers with commas between them, a line a step"),
        ("1,0\n0,\udcff\n", "cannot be read (it is no text): give numbers"),
        ("1,0\n0,x\n", "could not convert string 'x'"),
        ("1,0\n0,1.5\n", "the reward at [1, 1] is 1.5: give numbers from 0 to 1"),
        ("1,0\n0,nan\n", "table[1, 1] is nan: give finite numbers"),
        ("1,0\n0,1\n0,1\n", "has 3 lines of 2 numbers, and the run 2 steps of 2 arms"),
    ],
)
def test_a_bad_table_is_refused(operant, tmp_path, text, message):
    table = tmp_path / "t.csv"
    table.write_text(text, encoding="utf-8", errors="surrogateescape")
    options = ["--world", "adversarial", "--table", table, "--steps", 2, "--arms", 2, "--algorithms", "exp3"]
    code, _, complained = operant("bandit", "--out", tmp_path / "a", *options)
    assert code == 2
    assert message in complained
    assert not (tmp_path / "a").exists()
