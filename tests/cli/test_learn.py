"""`operant learn` as a person meets it: it learns, says how well, resumes to the bit, and refuses clearly."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from operant.cli.learn import Method, overview
from operant.cli.main import main
from operant.experiment import checkpoint


def run(*words: object) -> None:
    main(["learn", *map(str, words)])


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if not name.startswith("time/")} for line in lines]


def final(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of the last checkpoint, by name."""
    newest = max((folder / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    return {name: x.numpy() for name, x in checkpoint.read(newest).tensors.items()}


def equal(a: Path, b: Path) -> bool:
    x, y = final(a), final(b)
    return x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x) and metrics(a) == metrics(b)


def test_without_arguments_it_lists_methods_and_problems_and_says_how_to_begin(capsys):
    run()
    shown = capsys.readouterr().out
    assert all(method in shown for method in get_args(Method))
    assert "cliff" in shown
    assert "MountainCar-v0" in shown
    assert "Start with: operant learn cliff" in shown
    assert overview() in shown


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_learns_the_lectures_walk(method, tmp_path, capsys):
    out = tmp_path / "run"
    run("treasure_walk", "--method", method, "--steps", 5000, "--out", out)
    found = summary(out)
    assert found["optimal_value"] == pytest.approx(0.9**4)
    assert found["greedy_value"] == pytest.approx(0.9**4)
    assert found["greedy_return"]["mean"] == 1.0
    assert found["return_while_learning"]["mean"] == 1.0
    assert found["start_value_error"] < 0.25
    assert "the best there is: 0.6561" in capsys.readouterr().out
    assert metrics(out)[-1]["step"] == 5000
    assert "Values and policy" in (out / "report.html").read_text()


def test_it_has_not_learned_before_it_began(tmp_path):
    """What the tests of learning would see of a learner that does nothing: one step, and values of 0."""
    run("FrozenLake-v1", "--steps", 1, "--out", tmp_path / "one", "--env-args", "is_slippery", "False")
    run("FrozenLake-v1", "--steps", 50_000, "--out", tmp_path / "run", "--env-args", "is_slippery", "False")
    one, found = summary(tmp_path / "one"), summary(tmp_path / "run")
    assert found["greedy_value"] == pytest.approx(found["optimal_value"]) == pytest.approx(0.99**5)
    assert one["greedy_value"] < 0.5


def test_the_environment_and_its_model_teach_the_same(tmp_path):
    for on in ("model", "environment"):
        run("FrozenLake-v1", "--on", on, "--steps", 20_000, "--epsilon", 0.4, "--gamma", 0.95, "--out", tmp_path / on)
        found = summary(tmp_path / on)
        assert found["optimal_value"] - found["greedy_value"] < 0.03
        assert found["optimal_value"] == pytest.approx(0.18047, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MountainCar-v0", ["--method", "sarsa", "--epsilon", 0, "--alpha", 0.5, "--gamma", 1, "--steps", 20_000]),
        ("CartPole-v1", ["--method", "sarsa_lambda", "--steps", 15_000, "--tilings", 4, "--tiles", 6]),
    ],
)
def test_tiles_learn_what_no_table_can_hold(name, arguments, tmp_path):
    """A random agent stays at -200 in the one and near 22 in the other; so does one whose α is next to nothing."""
    run(name, *arguments, "--trials", 10, "--out", tmp_path / "run")
    run(name, *arguments, "--trials", 10, "--out", tmp_path / "broken", "--alpha", 1e-9)
    good, broken = (summary(tmp_path / x)["greedy_return"]["mean"] for x in ("run", "broken"))
    threshold = {"MountainCar-v0": -180, "CartPole-v1": 80}[name]
    assert broken < threshold < good


@pytest.mark.parametrize(
    "arguments",
    [
        ["windy_grid", "--method", "sarsa_lambda", "--seeds", 2],
        ["FrozenLake-v1", "--on", "environment", "--method", "n_step_sarsa", "--n", 3],
        ["CartPole-v1", "--method", "double_q_learning", "--tilings", 2, "--tiles", 3],
        ["cliff", "--method", "prioritized_dyna"],
        ["cliff", "--method", "monte_carlo_control", "--epsilon", 0.5, "--glie", "False"],
    ],
    ids=lambda x: x[0],
)
def test_an_interrupted_run_ends_like_a_whole_one(arguments, tmp_path, monkeypatch):
    words = [*arguments, "--steps", 2000, "--report-every", 250, "--checkpoint-every", 1, "--trials", 3]
    run(*words, "--out", tmp_path / "whole")
    from operant.cli import learn

    original = learn.train

    def stopped(*given):
        for n, values in enumerate(original(*given)):
            if n == 3:
                raise KeyboardInterrupt
            yield values

    monkeypatch.setattr(learn, "train", stopped)
    with pytest.raises(SystemExit, match="130"):
        run(*words, "--out", tmp_path / "run")
    monkeypatch.setattr(learn, "train", original)
    run("--out", tmp_path / "run", "--resume")
    assert equal(tmp_path / "run", tmp_path / "whole")
    assert summary(tmp_path / "run") == summary(tmp_path / "whole")


def test_an_environment_of_ones_own_is_learned_and_said_not_to_be_saved(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_corridor.py").write_text(
        "import gymnasium\n\n"
        "class Corridor(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Discrete(4)\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed)\n"
        "        self.at = 0\n"
        "        return 0, {}\n\n"
        "    def step(self, action):\n"
        "        self.at = max(0, self.at + (1 if action else -1))\n"
        "        return self.at, float(self.at == 3), self.at == 3, False, {}\n\n"
        "gymnasium.register('Corridor-v0', Corridor)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["my_corridor:Corridor-v0", "--steps", 2000, "--report-every", 500, "--checkpoint-every", 1]
    run(*words, "--out", tmp_path / "run")
    found = summary(tmp_path / "run")
    assert found["greedy_return"]["mean"] == 1.0
    assert "optimal_value" not in found
    (tmp_path / "run" / "summary.json").unlink()
    run("--out", tmp_path / "run", "--resume")
    assert "goes on with a new episode" in capsys.readouterr().out


def test_actions_may_be_counted_from_1(tmp_path, monkeypatch):
    (tmp_path / "my_slope.py").write_text(
        "import gymnasium\n"
        "import numpy as np\n\n"
        "class Slope(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(0, 3, (1,), np.float32)\n"
        "    action_space = gymnasium.spaces.Discrete(2, start=1)\n\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed)\n"
        "        self.at = 0\n"
        "        return np.zeros(1, np.float32), {}\n\n"
        "    def step(self, action):\n"
        "        assert self.action_space.contains(action), action\n"
        "        self.at = max(0, self.at + (1 if action == 2 else -1))\n"
        "        return np.full(1, self.at, np.float32), float(self.at == 3), self.at == 3, False, {}\n\n"
        "gymnasium.register('Slope-v0', Slope)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run("my_slope:Slope-v0", "--steps", 2000, "--out", tmp_path / "run")
    assert summary(tmp_path / "run")["greedy_return"]["mean"] == 1.0


def test_a_model_in_a_file_is_learned(tmp_path):
    lines = ["state,action,next_state,probability,reward,end", "0,0,0,1,0,0", "0,1,1,1,1,1"]
    (tmp_path / "model.csv").write_text("\n".join(lines) + "\n")
    run(tmp_path / "model.csv", "--gamma", 0.9, "--steps", 1000, "--out", tmp_path / "run")
    assert summary(tmp_path / "run")["greedy_value"] == summary(tmp_path / "run")["optimal_value"] == 1.0


def test_seeds_give_intervals_and_are_single_runs_side_by_side(tmp_path):
    words = ["cliff", "--steps", 20_000, "--method", "sarsa"]
    run(*words, "--seeds", 3, "--seed", 5, "--out", tmp_path / "all")
    run(*words, "--seed", 6, "--out", tmp_path / "second")
    several, one = final(tmp_path / "all"), final(tmp_path / "second")
    np.testing.assert_array_equal(several["state.states.1.w"], one["state.states.0.w"])
    figure = summary(tmp_path / "all")["return_while_learning"]
    assert figure["low"] < figure["mean"] < figure["high"]


def test_cells_that_cannot_be_reached_are_drawn_as_such(tmp_path, capsys):
    run("cliff", "--steps", 20_000, "--out", tmp_path / "run")
    assert "█" in capsys.readouterr().out
    lines = (tmp_path / "run" / "values.csv").read_text().splitlines()
    assert [n for n, line in enumerate(lines[1:]) if line.endswith(",wall")] == [*range(37, 47)]


def test_goals_and_holes_of_gymnasium_are_drawn_as_ends(tmp_path):
    for name, ends in {"FrozenLake-v1": [5, 7, 11, 12, 15], "CliffWalking-v1": [47]}.items():
        run(name, "--steps", 2000, "--out", tmp_path / name)
        names = [line.split(",")[-1] for line in (tmp_path / name / "values.csv").read_text().splitlines()[1:]]
        assert [s for s, words in enumerate(names) if words == "end"][: len(ends)] == ends
        assert [s for s, words in enumerate(names) if words == "wall"] == ([] if "Lake" in name else [*range(37, 47)])


def test_values_that_were_learned_have_no_bounds_and_say_where_nothing_was_learned(tmp_path, capsys):
    run("Taxi-v4", "--steps", 2000, "--seeds", 2, "--seed", 3, "--out", tmp_path / "run")
    lines = [line.split(",") for line in (tmp_path / "run" / "values.csv").read_text().splitlines()]
    assert lines[0] == ["state", "value", "action", "name"]
    unknown = [float(value) for _, value, _, name in lines[1:] if name == "?"]
    assert 0 < len(unknown) < 400
    assert set(unknown) == {0.0}
    assert any(float(value) % 1 for _, value, _, name in lines[1:] if name not in ("?", "end"))
    assert "What the learner with the seed 3 found, the first of 2" in capsys.readouterr().out
    assert "<td>?</td>" in (tmp_path / "run" / "report.html").read_text()


def test_blackjack_is_learned_in_a_table(tmp_path):
    """Any action with the same chance loses 0.4 of the stake, always sticking 0.16; the best there is loses 0.05."""
    run("Blackjack-v1", "--steps", 100_000, "--alpha", 0.02, "--gamma", 1, "--trials", 4000, "--out", tmp_path / "run")
    run("Blackjack-v1", "--steps", 1000, "--alpha", 1e-9, "--epsilon", 1, "--trials", 4000, "--out", tmp_path / "none")
    good, none = (summary(tmp_path / x)["greedy_return"]["mean"] for x in ("run", "none"))
    assert none < -0.13 < good


@pytest.mark.parametrize("name", ["cliff", "MountainCar-v0"])
def test_values_that_grow_without_bound_are_said_to_diverge(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(name, "--steps", 2000, "--alpha", 1e300, "--out", tmp_path / "run")
    assert stopped.value.code == 1
    assert "a value is no longer finite; give a smaller --alpha" in capsys.readouterr().err


def test_few_episodes_are_counted_and_long_ones_cut_off(tmp_path, capsys, monkeypatch):
    """Without exploration or a step to speak of, the greedy policy is a random walk that now and then ends."""
    monkeypatch.setattr("operant.cli.learned.MODEL_STEPS", 20_000)
    run("cliff", "--steps", 10_000, "--alpha", 1e-300, "--limit", 10**8, "--epsilon", 1, "--out", tmp_path / "run")
    found, said = summary(tmp_path / "run"), capsys.readouterr().out
    assert found["last_episodes"] == [found["episodes"]] * 2
    assert f"Mean return of the last {found['episodes']:.0f} episodes" in said
    assert f"{found['greedy_episodes']} of 100 episodes (the others were not finished in 20,000 steps)" in said or (
        found["greedy_episodes"] == 0 and "the greedy policy finished no episode in 20,000 steps" in said.lower()
    )


def test_the_clock_starts_when_all_is_compiled(tmp_path, monkeypatch):
    """The learner that is compiled for leaves no trace, and its step is done before the run folder is there."""
    from operant.cli import learn

    steps, original = [], learn.train

    def watched(learners, module, config):
        steps.append((config.report_every, (tmp_path / "run").exists()))
        return original(learners, module, config)

    monkeypatch.setattr(learn, "train", watched)
    run("cliff", "--steps", 1000, "--out", tmp_path / "run")
    assert steps == [(1, False), (0, True)]


def test_a_policy_that_never_ends_is_said_to_have_no_value(tmp_path, capsys):
    """After three steps the walker still runs against a wall, which without a discount has no finite value."""
    run("corner_grid", "--steps", 3, "--out", tmp_path / "run", "--initial", 5)
    found = summary(tmp_path / "run")
    assert found["endless_greedy_policies"] == 1
    assert "greedy_value" not in found
    said = capsys.readouterr().out
    assert "The greedy policy can go round for ever, and without a discount that has no value: learn longer" in said


def test_what_was_left_open_is_written_down(tmp_path):
    run("CartPole-v1", "--steps", 100, "--trials", 1, "--tiles", 2, "--out", tmp_path / "run")
    settings = (tmp_path / "run" / "config.toml").read_text()
    assert 'features = "tiles"' in settings
    assert 'on = "environment"' in settings
    assert "gamma = 0.99" in settings
    assert "limit = 500" in settings
    assert settings.count("low = [") == 1


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cliffs"], "did you mean cliff"),
        (["cartpole"], "did you mean CartPole-v1 or CartPole-v0"),
        (["walk"], "operant learn without arguments says what there is"),
        (["cliff", "--lambda", "0.5"], "--lambda is no setting of q_learning"),
        (["cliff", "--on", "environment"], "cliff is no environment of Gymnasium"),
        (["CartPole-v1", "--on", "model"], "CartPole-v1 does not tell its model"),
        (["CartPole-v1", "--features", "none"], "a table cannot hold it; take --features tiles"),
        (["Taxi-v4", "--features", "tiles"], "Taxi-v4 has numbers of states: a table is exact"),
        (["CartPole-v1", "--low", "0", "1"], "low and high have 2 and 4 numbers"),
        (["Pendulum-v1"], "needs a Discrete space"),
        (["Blackjack-v1", "--features", "tiles"], "Blackjack-v1 has numbers of states: a table is exact"),
        (["CartPole-v1", "--alpha-power", "1"], "--alpha-power is 1.0, which counts visits to single states"),
        (["MountainCar-v0", "--method", "dyna_q"], "Dyna-Q takes a table, no features"),
        (["CartPole-v1", "--tiles", "300"], "more than 20,000,000: give a smaller --tiles"),
        (["cliff", "--epsilon", "2"], "epsilon is 2.0"),
        (["cliff", "--alpha", "0"], "--alpha is 0.0: give a finite number above 0"),
        (["cliff", "--alpha", "-1"], "--alpha is -1.0: give a finite number above 0"),
        (["cliff", "--alpha", "inf"], "--alpha is inf: give a finite number"),
        (["CartPole-v1", "--low", "nan", "0", "0", "0"], "--low is nan: give a finite number"),
        (["cliff", "--epsilon-end", "0.5"], "--epsilon-end is 0.5: give a number from 0 to epsilon"),
        (["cliff", "--method", "n_step_sarsa", "--n", "1000000000000"], "--n is 1000000000000: give at most 1000, the"),
        (
            ["cliff", "--method", "n_step_sarsa", "--n", "200", "--steps", "99"],
            "at most 99, the steps that the run has",
        ),
        (["cliff", "--steps", "0"], "--steps is 0"),
        (["FrozenLake-v1", "--env-args", "no_such", "1"], "Gymnasium cannot make FrozenLake-v1"),
        (["cliff", "--resume"], "say which folder|no run to resume"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_refused_before_anything_is_written(arguments, words, tmp_path, capsys):
    out = [] if "--resume" in arguments else ["--out", tmp_path / "run"]
    with pytest.raises(SystemExit) as stopped:
        run(*arguments, *out)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert any(option in message for option in words.split("|")), message
    assert not (tmp_path / "run").exists()
