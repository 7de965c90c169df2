"""`operant watch`: a film, characters, or a line a step; and whose policy can be shown."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from operant.cli.main import main

SMALL = [
    "--hidden",
    "8",
    "--envs",
    "8",
    "--rollout",
    "16",
    "--epochs",
    "1",
    "--steps",
    "256",
    "--evaluation-episodes",
    "2",
]


@pytest.fixture(scope="module")
def pole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("watch") / "pole"
    main(["train", "ppo", "CartPole-v1", "--out", str(out), *SMALL])
    return out


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("watch") / "lake"
    main(["train", "ppo", "FrozenLake-v1", "--out", str(out), *SMALL])
    return out


def test_in_the_terminal_a_step_is_a_line(pole, operant):
    code, said, _ = operant("watch", pole, "--episodes", 2, "--seed", 5)
    assert code == 0
    steps = [line for line in said.splitlines() if line.startswith("step ")]
    ends = [int(line.split()[2]) for line in said.splitlines() if line.startswith("terminated")]
    assert len(ends) == 2
    assert len(steps) == sum(ends)
    assert [line.split()[1] for line in steps[: ends[0]]] == [str(i + 1) for i in range(ends[0])]
    assert f"terminated after {ends[0]} steps, return {ends[0]}" in said
    assert all(len(line.partition("sees ")[2].split()) == 4 for line in steps)
    assert operant("watch", pole, "--episodes", 2, "--seed", 5)[1] == said
    assert operant("watch", pole, "--episodes", 2, "--seed", 6)[1] != said


def test_an_environment_that_draws_characters_does(lake, operant):
    code, said, _ = operant("watch", lake, "--steps", 200)
    assert code == 0
    assert "FHFH" in said
    assert "sees" not in said


def test_steps_are_counted_where_nothing_ends(pole, operant):
    assert "no end within 3 steps" in operant("watch", pole, "--steps", 3)[1]


@pytest.mark.skipif(importlib.util.find_spec("pygame") is None, reason="pygame draws CartPole")
def test_a_film_ends_after_the_steps_that_are_asked_for(pole, tmp_path, operant):
    film = tmp_path / "pole.gif"
    code, said, _ = operant("watch", pole, "--video", film, "--steps", 4)
    assert code == 0
    assert said.splitlines() == [f"{film}: no whole episode", "no end within 4 steps: --steps gives more"]
    with Image.open(film) as shown:
        assert shown.n_frames == 5
    assert list(tmp_path.iterdir()) == [film]
    before = film.read_bytes()
    code, _, complained = operant("watch", pole, "--video", film, "--seed", 1)
    assert code == 2
    assert f"{film} exists: give another name, nothing is overwritten" in complained
    assert film.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--video", "/proc/pole.gif"], "cannot write /proc/pole.gif"),
        (["--delay", "inf"], "--delay is inf"),
        (["--delay", "1e30"], "--delay is 1e+30 seconds"),
        (["--seed", "99999999999999999999"], "the seed is 99999999999999999999"),
    ],
)
def test_what_no_machine_can_do_is_refused(words, message, pole, operant):
    code, _, complained = operant("watch", pole, *words)
    assert code == 2
    assert message in complained


def test_a_film_is_as_long_as_its_episodes(pole, tmp_path, operant):
    code, said, _ = operant("watch", pole, "--video", tmp_path / "new" / "pole.gif")
    assert code == 0
    steps = int(said.split()[1])
    with Image.open(tmp_path / "new" / "pole.gif") as film:  # frames that are alike are one, and last longer
        shown = sum(frame.info["duration"] for frame in ImageSequence.Iterator(film))
    assert shown == 20 * (steps + 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is no run in nowhere: give the folder of a run of operant train"),
        (["POLE", "--video", "pole.avi"], "end its name in .gif or .mp4"),
    ],
)
def test_what_cannot_be_shown(words, said, pole, tmp_path, monkeypatch, operant):
    monkeypatch.chdir(tmp_path)
    code, _, complained = operant("watch", *(pole if word == "POLE" else word for word in words))
    assert code == 2
    assert said in complained


def test_a_missing_package_is_named_by_its_extra(pole, tmp_path, monkeypatch, operant):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pygame" else found(name, *more)
    )
    code, _, complained = operant("watch", pole, "--video", tmp_path / "pole.gif")
    assert code == 2
    assert "pip install 'operant[classic]'" in complained


def test_a_damaged_checkpoint_gives_way_to_the_one_before(pole, tmp_path, operant):
    run = shutil.copytree(pole, tmp_path / "run")
    newest = max((run / "checkpoints").glob("step_*"))
    older = shutil.copytree(newest, newest.with_name("step_000001"))
    (newest / "state.json").write_text("{")
    code, _, complained = operant("watch", run)
    assert code == 0
    assert f"the checkpoint {newest} is damaged" in complained
    shutil.rmtree(older)
    code, _, complained = operant("evaluate", run)
    assert code == 2
    assert "every checkpoint in" in complained


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[run]", "run = 1\n[other]", "is no run of operant train: it holds no policy to play"),
        (
            "normalize_observations = false",
            "normalize_observations = true",
            "was trained without --normalize-observations",
        ),
    ],
)
def test_settings_that_were_changed_by_hand(old, new, said, pole, tmp_path, operant):
    run = shutil.copytree(pole, tmp_path / "run")
    text = (run / "config.toml").read_text()
    assert old in text
    (run / "config.toml").write_text("\n".join(x for x in text.replace(old, new).splitlines()))
    code, _, complained = operant("evaluate", run)
    assert code == 2
    assert said in complained


def test_the_folder_of_several_seeds_points_to_one(pole, tmp_path, operant):
    text = (pole / "config.toml").read_text().replace("seeds = 1", "seeds = 3")
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "config.toml").write_text(text)
    code, _, complained = operant("watch", tmp_path / "many")
    assert code == 2
    assert f"name one, such as {tmp_path / 'many'}/seed_0" in complained
