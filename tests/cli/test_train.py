"""`operant train` as a person meets it: lists, presets below flags, refusals, exact resume, seeds, evaluation."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import VectorEnv

import operant as package
from operant.cli import algorithms
from operant.cli.algorithms import ALGORITHMS, preset, presets
from operant.cli.main import main
from operant.cli.options import flag, parse
from operant.cli.train import Options, config_of, grouped, make_world, options, options_of, watched
from operant.cli.trained import figures
from operant.core.errors import InputError
from operant.envs.make import make
from operant.experiment import checkpoint

SOURCE = str(Path(package.__file__).parents[1])
SMALL = ["--hidden", 8, "--envs", 8, "--rollout", 16, "--epochs", 1, "--evaluation-episodes", 4]


def run(*words: object) -> None:
    main(["train", *map(str, words)])


def read(*words: object) -> Options:
    arguments = [str(word) for word in words]
    kind, below = options(arguments)
    return parse(kind, "train", arguments, below)[0]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if not name.startswith("time/")} for line in lines]


def final(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of the last checkpoint, by name."""
    newest = max((folder / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    return {name: x.numpy() for name, x in checkpoint.read(newest).tensors.items()}


def assert_equal_runs(a: Path, b: Path) -> None:
    x, y = final(a), final(b)
    assert x.keys() == y.keys()
    assert all(np.array_equal(x[name], y[name], equal_nan=x[name].dtype.kind == "f") for name in x)
    assert metrics(a) == metrics(b)
    assert summary(a)["return"] == summary(b)["return"]


# Lists and options


def test_without_arguments_it_lists_algorithms_and_presets(capsys):
    run()
    said = capsys.readouterr().out
    for name, algorithm in ALGORITHMS.items():
        assert algorithm.words in said
        assert all(environment in said for environment in presets(name))
    assert "Start with: operant train ppo CartPole-v1" in said
    run("ppo")
    said = capsys.readouterr().out
    assert "CartPole-v1" in said
    assert "rollout" in said
    assert "a2c" not in said


@pytest.mark.parametrize("name", ALGORITHMS)
def test_presets_are_settings_that_the_algorithm_has(name):
    for environment in presets(name):
        found = read(name, environment)
        for key, value in preset(name, environment).items():
            assert getattr(found, key) == (tuple(value) if isinstance(value, list) else value)
        config_of(found)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_options_are_those_of_all_and_those_of_the_algorithm(name, capsys):
    with pytest.raises(SystemExit):
        run(name, "--help")
    said = capsys.readouterr().out
    own = {f.name for f in dataclasses.fields(ALGORITHMS[name].load().Config)}
    hidden = {"iterations"} if {"iterations", "rollout"} <= own else set()
    for field in {f.name for f in dataclasses.fields(Options)} - {"algorithm", "environment"} | own - hidden:
        assert flag(options_of(name), field) in said
    assert not hidden or "--iterations" not in said


def test_a_flag_stands_above_a_file_above_the_preset_above_the_default(tmp_path):
    given = preset("ppo", "CartPole-v1")
    assert given["gamma"] != options_of("ppo")().gamma
    (tmp_path / "s.toml").write_text("gamma = 0.5\nlearning_rate = 0.25\n")
    plain = read("ppo", "CartPole-v1")
    filed = read("ppo", "CartPole-v1", "--config", tmp_path / "s.toml")
    flagged = read("ppo", "CartPole-v1", "--config", tmp_path / "s.toml", "--gamma", 0.75)
    assert [x.gamma for x in (plain, filed, flagged)] == [given["gamma"], 0.5, 0.75]
    assert [x.learning_rate for x in (plain, filed, flagged)] == [given["learning_rate"], 0.25, 0.25]
    assert filed.rollout == given["rollout"]
    assert read("ppo", "Taxi-v4").gamma == options_of("ppo")().gamma


@pytest.mark.parametrize("name", ["a2c", "a3c", "ppo"])
def test_the_example_under_the_presets_is_an_environment(name, capsys):
    run(name)
    example = re.search(rf"operant train {name} ([^ ]+)\. ", capsys.readouterr().out)
    assert example is not None
    assert gymnasium.spec(example[1].rpartition(":")[2]).id == example[1]


def test_options_of_networks_are_refused_where_there_is_none(tmp_path, operant):
    code, _, complained = operant("train", "dpg", "Pendulum-v1", "--hidden", 32, "--out", tmp_path / "run")
    assert code == 2
    assert "--hidden is for networks, and dpg is linear in tiles" in complained


def test_a_preset_may_stand_for_several_environments(tmp_path, monkeypatch):
    file = tmp_path / "ppo.toml"
    file.write_text('["ALE/*"]\nenvs = 2\n["ALE/Pong-v5"]\nenvs = 3\n["*"]\nenvs = 4\n')
    monkeypatch.setattr(algorithms, "preset_file", lambda name: file)
    found = [preset("ppo", name)["envs"] for name in ("ALE/Breakout-v5", "ALE/Pong-v5", "CartPole-v1")]
    assert found == [2, 3, 4]


def test_steps_are_those_of_all_environments():
    config = config_of(read("ppo", "CartPole-v1", "--steps", 1000, "--envs", 4, "--rollout", 100))
    assert (config.iterations, config.rollout) == (3, 100)  # 3 x 400 is the first whole number of rollouts
    assert "iterations" not in {f.name for f in dataclasses.fields(options_of("ppo")) if f.init}


def test_the_folder_is_named_after_algorithm_and_environment():
    assert read("ppo", "CartPole-v1").out == Path("runs/ppo-cartpole-v1")
    assert read("ppo", "ALE/Pong-v5").out == Path("runs/ppo-ale-pong-v5")
    assert read("ppo", "my_module:My_World-v0", "--out", "x").out == Path("x")


# Runs


def test_a_run_writes_what_every_run_does(tmp_path, capsys):
    out = tmp_path / "run"
    run("ppo", "CartPole-v1", "--steps", 1000, *SMALL, "--out", out)
    lines = metrics(out)
    assert [line["rollout/steps"] for line in lines] == [128 * (i + 1) for i in range(8)]
    assert {"rollout/episode_return", "rollout/episode_length", "loss/policy"} <= lines[0].keys()
    found = summary(out)
    assert found["steps"] == 1024
    assert found["episodes"] == 4
    assert found["return"]["low"] <= found["return"]["mean"] <= found["return"]["high"]
    assert tomllib.loads((out / "config.toml").read_text())["environment"] == "CartPole-v1"
    assert found["verdict"] in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "Mean return" in page
    assert "rollout/episode_return" in page


def test_it_learns_and_one_that_does_not_is_told_apart(tmp_path):
    """A step size of next to nothing leaves the policy as it began. A random one stays up for about 22 steps."""
    words = ["ppo", "CartPole-v1", "--steps", 50_000, "--evaluation-episodes", 10]
    run(*words, "--out", tmp_path / "run")
    run(*words, "--learning-rate", 1e-9, "--out", tmp_path / "broken")
    good, broken = (summary(tmp_path / x)["return"]["mean"] for x in ("run", "broken"))
    assert broken < 100 < 400 < good


def test_a_run_that_was_killed_and_resumed_is_the_uninterrupted_one(tmp_path):
    scale = ["--normalize-observations", True, "--normalize-rewards", True]
    words = ["ppo", "Pendulum-v1", "--steps", 6400, *SMALL, *scale, "--checkpoint-every", 640]
    run(*words, "--out", tmp_path / "whole")
    started = subprocess.Popen(
        [sys.executable, "-m", "operant.cli.main", "train", *map(str, words), "--out", str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    patience = time.monotonic() + 100
    while not list((tmp_path / "run" / "checkpoints").glob("step_*/state.json")):
        assert time.monotonic() < patience
        time.sleep(0.005)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, "it was over before it could be killed"
    run("--out", tmp_path / "run", "--resume")
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


def test_seeds_are_single_runs_side_by_side(tmp_path, capsys):
    words = ["ppo", "CartPole-v1", "--steps", 600, *SMALL]
    run(*words, "--seeds", 2, "--seed", 3, "--out", tmp_path / "all")
    run(*words, "--seed", 4, "--out", tmp_path / "one")
    assert_equal_runs(tmp_path / "all" / "seed_4", tmp_path / "one")
    found = summary(tmp_path / "all")
    each = [summary(tmp_path / "all" / f"seed_{seed}")["return"]["mean"] for seed in (3, 4)]
    assert found["returns"] == each
    assert found["return"]["mean"] == pytest.approx(np.mean(each))
    assert found["episodes"] == 8
    page = (tmp_path / "all" / "report.html").read_text()
    assert "interquartile mean" in page
    assert "environment steps" in page
    # A seed that is missing is trained again when the whole is resumed; one that is finished is left alone.
    before = (tmp_path / "all" / "seed_4" / "metrics.jsonl").stat().st_mtime_ns
    (tmp_path / "all" / "summary.json").unlink()
    (tmp_path / "all" / "seed_3" / "summary.json").unlink()
    run("--out", tmp_path / "all", "--resume")
    again = summary(tmp_path / "all")
    assert {name: again[name] for name in ("return", "returns")} == {
        name: found[name] for name in ("return", "returns")
    }
    assert (tmp_path / "all" / "seed_4" / "metrics.jsonl").stat().st_mtime_ns == before
    assert "Mean return over 2 seeds" in capsys.readouterr().out


def test_evaluation_needs_the_run_alone_and_agrees_with_it(tmp_path, operant):
    out = tmp_path / "run"
    run("ppo", "CartPole-v1", "--steps", 1000, *SMALL, "--normalize-observations", True, "--out", out)
    code, said, _ = operant("evaluate", out, "--episodes", 4, "--out", tmp_path / "new" / "figures.json")
    assert code == 0
    found = json.loads(said)
    assert found == json.loads((tmp_path / "new" / "figures.json").read_text())
    assert found["return"] == summary(out)["return"]
    drawn = json.loads(operant("evaluate", out, "--episodes", 4, "--stochastic", "True")[1])
    assert drawn["return"] != found["return"]


def test_evaluation_adds_nothing_to_the_scale_of_observations():
    given = read("ppo", "CartPole-v1", *SMALL, "--normalize-observations", True)
    world = make_world(given, 8, 0)
    before = world.observations.state_dict()
    figures(algorithms.make_policy(world, given), world.observations, given, 2, greedy=True, seed=0)
    after = world.observations.state_dict()
    assert before["count"] == after["count"] == 8
    assert before["mean"].tolist() == after["mean"].tolist()
    assert before["variance"].tolist() == after["variance"].tolist()


def test_what_only_training_does_to_an_environment_is_off_in_evaluation(monkeypatch):
    """Such as the end of an Atari game's episode with a life."""
    asked = []

    def made(name: str, envs: int, settings: dict, training: bool, render_mode: str | None) -> VectorEnv:
        asked.append((envs, training))
        return make(name, envs, settings, training, render_mode)

    monkeypatch.setattr("operant.envs.make.make", made)
    given = read("ppo", "CartPole-v1", *SMALL)
    policy = algorithms.make_policy(make_world(given, 8, 0), given)
    figures(policy, None, given, 2, greedy=True, seed=0)
    assert asked == [(8, True), (2, False)]


@pytest.mark.parametrize(
    ("file", "words"),
    [("", "is a folder"), ("config.toml/figures.json", "cannot write"), ("summary.json", "nothing is overwritten")],
)
def test_evaluation_plays_nothing_where_its_figures_could_not_be_written(tmp_path, operant, monkeypatch, file, words):
    out = tmp_path / "run"
    run("ppo", "CartPole-v1", "--steps", 1000, *SMALL, "--out", out)
    monkeypatch.setattr("operant.cli.trained.figures", lambda *_: pytest.fail("episodes were played"))
    code, _, complained = operant("evaluate", out, "--out", out / file)
    assert code == 2
    assert words in complained


# Environments of one's own, and what is refused

WORLDS = """
import gymnasium
import numpy as np

class Corridor(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, trouble="none", at=40):
        assert trouble != "birth"
        self.trouble, self.when = trouble, at
        if trouble.startswith("state"):
            self.state_dict, self.load_state_dict = self.told, print
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        if self.trouble == "reset" and self.steps:
            raise RuntimeError("the door is stuck")
        if self.trouble == "old":
            return np.zeros(1, np.float32)
        if self.trouble == "number":
            return 0.0, {}
        return np.zeros(1, np.float32), {}

    def told(self):
        if self.trouble == "state raises":
            raise RuntimeError("nobody knows")
        return {"seen": {1, 2}}

    def step(self, action):
        self.steps += 1
        if self.steps >= self.when and self.trouble == "thin":
            return 0.0, 0.0, False, False, {}
        if self.steps >= self.when and self.trouble == "step":
            raise RuntimeError("the floor gave way")
        if self.steps >= self.when and self.trouble == "exit":
            raise SystemExit("the lights went out")
        self.at = max(0, self.at + (1 if action else -1))
        reward = np.nan if self.steps >= self.when and self.trouble == "reward" else float(self.at == 3)
        return np.full(1, self.at, np.float32), reward, self.at == 3, False, {}

gymnasium.register("Passage-v0", Corridor, max_episode_steps=30)
"""


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    (tmp_path / "my_worlds.py").write_text(WORLDS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    gymnasium.registry.pop("Passage-v0", None)
    sys.modules.pop("my_worlds", None)


def test_an_environment_of_ones_own_is_learned_and_said_not_to_be_saved(worlds, tmp_path, capsys):
    words = ["my_worlds:Passage-v0", "--steps", 4000, "--learning-rate", 0.01, *SMALL]
    run("ppo", *words, "--out", tmp_path / "run")
    assert summary(tmp_path / "run")["return"]["mean"] == 1.0
    (tmp_path / "run" / "summary.json").unlink()
    run("--out", tmp_path / "run", "--resume")
    assert "cannot be saved: the run goes on with new episodes" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium has seen it too
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("step", r"environment 0 raised RuntimeError: the floor gave way in step 40 \(.*my_worlds.py:\d+\)"),
        ("exit", "environment 0 raised SystemExit: the lights went out in step 40"),
        ("old", r"reset\(\) gives no pair of an observation and a dict"),
        ("number", r"an observation of the shape \(\), and its space says \(1,\)"),
        ("reset", r"environment \d+ raised RuntimeError: the door is stuck"),
        ("reward", "environment 0 gave the reward nan at step 40, which is no finite number"),
        ("thin", r"an observation of the shape \(\), and its space says \(1,\) in step 40"),
        ("birth", r"cannot make my_worlds:Passage-v0: AssertionError\(\)"),
        ("state", r"state_dict\(\)\['seen'\] of Corridor is of type set, which a checkpoint cannot hold"),
        ("state raises", r"state_dict\(\) of Corridor raised RuntimeError: nobody knows"),
    ],
)
def test_an_environment_that_fails_is_named(worlds, tmp_path, operant, trouble, said):
    words = ["ppo", "my_worlds:Passage-v0", "--env-args", "trouble", trouble, "--steps", 4000, *SMALL]
    code, _, complained = operant("train", *words, "--out", tmp_path / "run")
    assert code == 2
    assert len([line for line in complained.splitlines() if line.startswith("operant:")]) == 1
    with pytest.raises(InputError, match=said):
        raise InputError(complained.replace("\n", " "))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ppo", "CartPole-v1", "--device", "nowhere"], "--device is nowhere"),
        (["dqn", "CartPole-v1", "--memory", "lstm"], "dqn learns without memory"),
        (["ppo", "CartPole-v1", "--old-policy-target", 0.01], "old_policy_target 0.01 steers the KL penalty"),
        (["ppo", "CartPole-v1", "--seed", 2**20], f"the seed is {2**20 + 1}"),
    ],
)
def test_several_seeds_leave_no_folder_where_one_would_not(words, said, tmp_path, operant):
    code, _, complained = operant("train", *words, "--seeds", 2, "--out", tmp_path / "run")
    assert code == 2
    assert said in complained
    assert len(complained.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_bytes_that_are_no_image_are_numbers(tmp_path, monkeypatch):
    class Board(gymnasium.Env):
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self, shape):
            self.observation_space = gymnasium.spaces.Box(0, 2, shape, np.uint8)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 1.0, False, True, {}

    gymnasium.register("Board-v0", Board)
    try:
        for shape in ("(9,)", "(3, 3)"):
            words = ["Board-v0", "--env-args", "shape", shape, "--steps", 256]
            for name, sizes in (("ppo", SMALL), ("dqn", ["--hidden", 8, "--evaluation-episodes", 4])):
                run(name, *words, *sizes, "--out", tmp_path / f"{name}{len(shape)}")
                assert summary(tmp_path / f"{name}{len(shape)}")["return"]["mean"] == 1.0
    finally:
        gymnasium.registry.pop("Board-v0")


def test_memory_that_pytorch_does_not_get_is_told_of(tmp_path, operant, monkeypatch):
    words = ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes", "a bug"]

    def fail(*_: object) -> None:
        raise RuntimeError(words[0])

    monkeypatch.setattr("operant.cli.train.make_policy", fail)
    code, _, complained = operant("train", "ppo", "CartPole-v1", "--out", tmp_path / "run")
    assert code == 2
    assert "there is not enough memory" in complained
    assert not (tmp_path / "run").exists()
    del words[0]
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "ppo", "CartPole-v1", "--out", str(tmp_path / "run")])


def test_long_runs_still_report_often():
    """They stop and save between reports."""
    state = SimpleNamespace(step=0, world=SimpleNamespace(steps=0, env=SimpleNamespace(num_envs=8)))
    state.world.pop_returns = state.world.pop_lengths = list

    def steps(settings):
        for state.step in range(1, 10_000):
            state.world.steps += settings.rollout
            yield {"x": 1.0}

    for total, unit, due in ((10**9, 256, 39), (10**6, 256, 9), (256, 256, 1)):
        state.step = state.world.steps = 0
        next(watched(state, steps(SimpleNamespace(rollout=32)), grouped(total // unit, unit), total // unit))
        assert state.step == due


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ppoo", "CartPole-v1"], "there is no algorithm 'ppoo' to train; did you mean ppo?"),
        (["ppo", "CartPool-v1"], "there is no Gymnasium environment called 'CartPool-v1'; did you mean CartPole-v1"),
        (["ppo", "CartPole"], "there is no Gymnasium environment called 'CartPole'; did you mean CartPole-v1?"),
        (["ppo", "no_such_module:World-v0"], "the module no_such_module cannot be imported"),
        (["ppo", "CartPole-v1", "--steps", 0], "--steps is 0: give a whole number, 1 or more"),
        (["ppo", "CartPole-v1", "--steps", -8], "--steps is -8: give a whole number, 1 or more"),
        (["ppo", "CartPole-v1", "--seed", 2**40], "the seed is"),
        (["ppo", "CartPole-v1", "--env-args", "gravitas", 9], "unexpected keyword argument 'gravitas'"),
        (["--steps", 10, "ppo", "CartPole-v1"], "name the algorithm and the environment first"),
        (["dqn", "Pendulum-v1"], "dqn learns to choose from Discrete actions, and those of Pendulum-v1 are Box"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words, said, tmp_path, operant):
    code, _, complained = operant("train", *words, *(["--out", tmp_path / "run"] if len(words) > 1 else []))
    assert code == 2
    assert said in complained
    assert len(complained.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_wrong_space_names_the_algorithms_that_fit():
    for space in (
        gymnasium.spaces.Discrete(3),
        gymnasium.spaces.Box(-1, 1, (2,)),
        gymnasium.spaces.MultiDiscrete([2, 2]),
    ):
        fit = {name for name, algorithm in ALGORITHMS.items() if type(space).__name__ in algorithm.actions}
        for name in ALGORITHMS.keys() - fit:
            with pytest.raises(InputError) as error:
                algorithms.require_fit(name, "Some-v0", space)
            assert fit == set(str(error.value).partition("): ")[2].removesuffix(" fit").split(", ")) or fit <= set(
                str(error.value).replace(",", " ").split()
            )
        for name in fit:
            algorithms.require_fit(name, "Some-v0", space)


@pytest.mark.parametrize(("name", "extra"), [("HalfCheetah-v5", "mujoco"), ("LunarLander-v3", "box2d")])
def test_a_missing_package_is_named_by_its_extra(name, extra, tmp_path, operant, monkeypatch):
    def missing(*_: object, **__: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("not installed")

    monkeypatch.setattr(gymnasium, "make", missing)
    code, _, complained = operant("train", "ppo", name, "--out", tmp_path / "run")
    assert code == 2
    assert complained == f"operant: {name} needs a package that is not installed: pip install 'operant[{extra}]'\n"


def test_a_run_of_another_environment_is_not_resumed(tmp_path, operant):
    out = tmp_path / "run"
    run("ppo", "CartPole-v1", "--steps", 300, *SMALL, "--out", out)
    (out / "summary.json").unlink()
    code, _, complained = operant("train", "ppo", "Acrobot-v1", "--out", out, "--resume")
    assert code == 2
    assert "a resumed run goes on with the settings in its config.toml" in complained
    code, _, complained = operant("train", "dqn", "--out", out, "--resume")
    assert code == 2
    assert f"{out} is a run of ppo and not of dqn" in complained
    (out / "config.toml").write_text((out / "config.toml").read_text().replace("CartPole-v1", "Acrobot-v1"))
    for words in (["train", "--out", out, "--resume"], ["evaluate", out]):
        code, _, complained = operant(*words)
        assert code == 2
        assert "does not fit" in complained


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hidden", -5], "--hidden is -5: give a whole number, 1 or more"),
        (["--hidden", 16, 0], "--hidden is 0"),
        (["--memory", "lstm", "--hidden"], "--hidden is empty"),
        (["--envs", 10**8], "100,000,000 environments would take 200 GB of memory"),
        (["--rollout", 10**9], "a rollout of 16 x 1,000,000,000 steps would take 768 GB of memory"),
        (["--max-gradient-norm", 0], "--max-gradient-norm is 0.0: give a number above 0"),
        (["--gamma", "nan"], "--gamma is nan: give a number between 0 and 1"),
        (["--learning-rate", "inf"], "--learning-rate is inf: give a finite number"),
        (["--value-coefficient", "inf"], "--value-coefficient is inf"),
        (["--old-policy-beta", "inf"], "--old-policy-beta is inf: give a finite number"),
        (
            ["--objective", "kl", "--old-policy-target", 0.01, "--old-policy-beta", 0],
            "old_policy_beta is 0, which stays 0",
        ),
    ],
)
def test_widths_and_sizes_that_cannot_be_are_refused(flags, message, tmp_path, operant):
    code, _, errors = operant("train", "ppo", "CartPole-v1", "--steps", 2048, "--out", tmp_path / "r", *flags)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "r").exists()
