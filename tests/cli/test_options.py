"""Defaults, a TOML file, flags: each above the one before; and a run that is resumed keeps its own."""

import dataclasses
import importlib
import math
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operant.cli import dpo, rlhf, sft
from operant.cli.align import Options as Align
from operant.cli.main import COMMANDS
from operant.cli.options import as_dict, build, parse, read_toml
from operant.core.errors import InputError
from operant.experiment.files import to_toml

pytestmark = pytest.mark.usefixtures("unchecked_types")  # what is still to be given is no text

NEEDED = {"rlhf": ["--model", "m", "--prompts", "p", "--reward", "r"], "sft": ["--model", "m", "--data", "d"]}
NEEDED |= {"rloo": NEEDED["rlhf"], "grpo": NEEDED["rlhf"], "dpo": NEEDED["sft"], "reward": NEEDED["sft"]}
NEEDED |= {"align": [], "pretrain": ["--data", "d"], "generate": ["--model", "m"], "evaluate": ["--data", "d"]}
NEEDED |= {"report": ["somewhere"], "solve": [], "mdp": [], "bandit": [], "learn": [], "train": [], "watch": []}


def options_of(command: str) -> Any:
    return importlib.import_module(f"operant.cli.{command}").Options


def given_in(folder: Path, text: str) -> list[str]:
    """--config with a file of this text."""
    file = folder / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return ["--config", str(file)]


def read(command: str, *arguments: str) -> Any:
    return parse(options_of(command), command, [*NEEDED[command], *arguments])[0]


def wrong(folder: Path, command: str, text: str) -> str:
    with pytest.raises(InputError) as error:
        read(command, *given_in(folder, text))
    assert str(folder / "settings.toml") in str(error.value)
    return str(error.value).removeprefix(f"{folder / 'settings.toml'}: ")


# Precedence


@pytest.mark.parametrize("command", COMMANDS)
def test_without_flags_all_are_defaults(command):
    found, resume = parse(options_of(command), command, NEEDED[command])
    assert not resume
    for field in dataclasses.fields(found):
        if field.default is not dataclasses.MISSING:
            assert getattr(found, field.name) == field.default
        elif field.default_factory is not dataclasses.MISSING and field.name != "world":
            assert getattr(found, field.name) == field.default_factory()


def test_a_file_stands_above_defaults_and_flags_above_the_file(tmp_path):
    config = given_in(tmp_path, 'out = "there"\nlora = 3\n[sft]\nepochs = 7\nbatch = 9\n[machine]\nseed = 5\n')
    plain, filed = read("sft"), read("sft", *config)
    flagged = read("sft", *config, "--batch", "11", "--seed", "6")
    assert [(o.out, o.lora, o.sft.epochs, o.sft.batch, o.machine.seed) for o in (plain, filed, flagged)] == [
        (Path("runs/sft"), 0, 2, 32, 0),
        (Path("there"), 3, 7, 9, 5),
        (Path("there"), 3, 7, 11, 6),
    ]
    # All that the file does not name is as it was.
    reset = dataclasses.replace(filed.sft, epochs=2, batch=32)
    assert reset == plain.sft
    assert read("sft", *config, "--out", "elsewhere").out == Path("elsewhere")


def test_the_file_may_stand_anywhere_and_with_an_equals_sign(tmp_path):
    _, file = given_in(tmp_path, "[sft]\nepochs = 7\n")
    assert read("sft", "--batch", "3", f"--config={file}") == read("sft", "--config", file, "--batch", "3")


def test_required_options_may_come_from_the_file(tmp_path):
    text = 'model = "m"\n[world]\nprompts = "p"\nreward = "r"\n'
    found, _ = parse(rlhf.Options, "rlhf", given_in(tmp_path, text))
    assert (found.model, found.world.prompts, found.world.reward) == ("m", "p", "r")
    found, _ = parse(rlhf.Options, "rlhf", [*given_in(tmp_path, text), "--reward", "other"])
    assert (found.model, found.world.reward) == ("m", "other")


def test_a_required_option_in_neither_is_asked_for(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        parse(rlhf.Options, "rlhf", given_in(tmp_path, 'model = "m"\n[world]\nprompts = "p"\n'))
    assert end.value.code == 2
    assert "--reward" in capsys.readouterr().err


def test_nested_settings_of_the_pipeline(tmp_path):
    config = given_in(
        tmp_path,
        'title = "T"\n[ppo_ptx]\niterations = 9\n[almanac]\ntowns = 40\nexposures = [0, 2]\n'
        "exposure_weights = [0.5, 0.5]\n[sampling]\nmissing_stop_score = 1\n",
    )
    found = read("align", *config, "--ppo-ptx.rollout", "5", "--sft.epochs", "4")
    assert found.ppo_ptx == dataclasses.replace(Align().ppo_ptx, iterations=9, rollout=5)
    assert found.almanac == dataclasses.replace(
        Align().almanac, towns=40, exposures=(0, 2), exposure_weights=(0.5, 0.5)
    )
    assert found.sft == dataclasses.replace(Align().sft, epochs=4)
    assert type(found.sampling.missing_stop_score) is float
    assert found.ppo == Align().ppo


@pytest.mark.parametrize("word", ["none", "None"])
def test_none_is_a_word_in_flags(word):
    found = read("rlhf", "--value-clip", word, "--missing-stop-score", word, "--measure", word)
    assert (found.rlhf.value_clip, found.world.missing_stop_score, found.world.measure) == (None, None, None)
    assert rlhf.Options(model="m", world=found.world).rlhf.value_clip == 0.2


def test_none_is_a_word_in_files(tmp_path):
    config = given_in(tmp_path, '[rlhf]\nvalue_clip = "none"\n[world]\nmissing_stop_score = "none"\nmeasure = "none"\n')
    found = read("rlhf", *config)
    assert (found.rlhf.value_clip, found.world.missing_stop_score, found.world.measure) == (None, None, None)
    assert read("rlhf", *config, "--value-clip", "0.5").rlhf.value_clip == 0.5


def test_columns_are_roles_and_names(tmp_path):
    columns = {"prompt": "question", "response": "answer.text"}
    flags = ["--columns", "prompt", "question", "response", "answer.text"]
    config = given_in(tmp_path, '[reading.columns]\nprompt = "question"\nresponse = "answer.text"\n')
    assert read("sft", *flags).reading.columns == read("sft", *config).reading.columns == columns


# What is wrong


def test_an_unknown_key_names_the_nearest(tmp_path):
    assert wrong(tmp_path, "sft", "[sft]\nlearning_rat = 1\n") == (
        "there is no setting sft.learning_rat; did you mean learning_rate?"
    )
    assert wrong(tmp_path, "sft", "loar = 1\n") == "there is no setting loar; did you mean lora?"
    assert wrong(tmp_path, "align", "[ppo_ptxx]\n") == "there is no setting ppo_ptxx; did you mean ppo_ptx?"
    assert wrong(tmp_path, "dpo", "zzz = 1\n").startswith("there is no setting zzz; known are model, data, out")


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("sft", '[sft]\nepochs = "3"\n', "sft.epochs is '3'; it must be a whole number"),
        ("sft", "[sft]\nepochs = 3.0\n", "sft.epochs is 3.0; it must be a whole number"),
        ("sft", "[sft]\nepochs = true\n", "sft.epochs is True; it must be a whole number"),
        ("sft", "held_out = true\n", "held_out is True; it must be a number"),
        ("sft", '[sft]\nschedule = "cosin"\n', "sft.schedule is 'cosin'; it must be one of"),
        ("sft", "model = 3\n", "model is 3; it must be a text in quotes"),
        ("sft", "out = 3\n", "out is 3; it must be a path"),
        ("sft", "sft = 3\n", "sft is 3; it must be a table of settings"),
        ("sft", "[reading]\ncolumns = 3\n", "reading.columns is 3; it must be a table of texts"),
        ("sft", "[reading.columns]\nprompt = 3\n", "reading.columns is {'prompt': 3}; it must be a table of texts"),
        ("rlhf", "[rlhf]\nwhiten_rewards = 1\n", "rlhf.whiten_rewards is 1; it must be true or false"),
        ("rlhf", '[rlhf]\nvalue_clip = "low"\n', "rlhf.value_clip is 'low'; it must be a number or \"none\""),
        ("rlhf", 'ptx_data = "text.jsonl"\n', "ptx_data is 'text.jsonl'; it must be a list: each a text in quotes"),
        ("pretrain", "data = [1]\n", "data is [1]; it must be a list: each a text in quotes"),
        ("align", "[almanac]\nexposures = [1.5]\n", "almanac.exposures is [1.5]; it must be a list"),
        (
            "align",
            "[almanac]\nstyle_shares = [0.5, 0.5]\n",
            "almanac.style_shares is [0.5, 0.5]; it must be a list: 3 values, each a number",
        ),
        ("sft", "run = 3\n", "there is no setting run"),
    ],
)
def test_a_value_of_the_wrong_type(tmp_path, command, text, said):
    assert wrong(tmp_path, command, text).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "--epochs is 0: give a whole number, 1 or more"),
        (["--batch", "-2"], "--batch is -2: give a whole number, 1 or more"),
        (["--threads", "-1"], "--threads is -1: give a whole number, 0 or more"),
        (["--lora", "-1"], "--lora is -1: give a whole number, 0 or more"),
        (["--learning-rate", "-0.1"], "--learning-rate is -0.1: give a number, 0 or more"),
        (["--learning-rate", "nan"], "--learning-rate is nan: give a number, 0 or more"),
        (["--held-out", "1.5"], "--held-out is 1.5: give a number between 0 and 1"),
        (["--warmup", "3"], "--warmup is 3.0: give a number between 0 and 1"),
    ],
)
def test_a_number_that_nothing_can_be_done_with(arguments, said):
    with pytest.raises(InputError, match=f"^{said}$"):
        read("sft", *arguments)


def test_numbers_that_look_odd_and_are_none():
    read("sft", "--threads", "0", "--seed", "0", "--held-out", "0", "--learning-rate", "0", "--micro-batch", "0")
    assert read("rlhf", "--clip", "inf", "--missing-stop-score", "-3").rlhf.clip == math.inf


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the settings file {} does not exist"),
        (b"epochs 3\n", "{} is no TOML: "),
        (b"a = 1\na = 2\n", "{} is no TOML: "),
        (b'title = "\xff"\n', "{} is no TOML: "),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, said):
    file = tmp_path / "settings.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read("sft", "--config", str(file))
    assert str(error.value).startswith(said.format(file))


def test_a_folder_is_no_file_and_a_flag_needs_a_value(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: Is a directory"):
        read("sft", "--config", str(tmp_path))
    with pytest.raises(InputError, match=r"^--config needs a value$"):
        read("sft", "--config")


def test_the_settings_of_another_command(tmp_path):
    with pytest.raises(InputError, match=r"belongs to a run of dpo, not of sft; use operant dpo"):
        read("sft", *given_in(tmp_path, '[run]\nalgorithm = "dpo"\n'))


# Runs


def run_folder(folder: Path, command: str, options: Any) -> Path:
    folder.mkdir(parents=True)
    header = {"algorithm": command, "operant": "0"}
    (folder / "config.toml").write_text(to_toml({**as_dict(options), "run": header}), encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    options = read("dpo", "--epochs", "5", "--seed", "3", "--out", str(tmp_path / "run"))
    return run_folder(tmp_path / "run", "dpo", options)


def test_a_run_that_is_resumed_has_its_own_settings(run):
    found, resume = parse(dpo.Options, "dpo", ["--resume", "--out", str(run)])
    assert resume
    assert found == read("dpo", "--epochs", "5", "--seed", "3", "--out", str(run))
    assert parse(dpo.Options, "dpo", [f"--out={run}", "--resume"])[0] == found


def test_what_is_said_again_may_be_said(run):
    found, _ = parse(dpo.Options, "dpo", ["--resume", "--out", str(run), "--epochs", "5"])
    assert found.dpo.epochs == 5


@pytest.mark.parametrize("other", [["--epochs", "6"], ["--model", "n"], ["--seed", "0"], ["--columns", "label", "x"]])
def test_a_run_that_is_resumed_takes_no_other_settings(run, other):
    with pytest.raises(InputError, match="a resumed run goes on with the settings in its"):
        parse(dpo.Options, "dpo", ["--resume", "--out", str(run), *other])


def test_a_run_that_is_resumed_takes_no_other_file(run, tmp_path):
    with pytest.raises(InputError, match="leave --config out"):
        parse(dpo.Options, "dpo", ["--resume", "--out", str(run), *given_in(tmp_path, "lora = 1\n")])


def test_a_run_can_be_moved_and_resumed(run, tmp_path, monkeypatch):
    run.rename(tmp_path / "moved")
    found, _ = parse(dpo.Options, "dpo", ["--resume", "--out", str(tmp_path / "moved")])
    assert found.out == tmp_path / "moved"
    monkeypatch.chdir(tmp_path)
    assert parse(dpo.Options, "dpo", ["--resume", "--out", "moved/"])[0].out == Path("moved")


def test_which_run_to_resume(run, tmp_path):
    for arguments, said in (
        (["--resume"], "--resume continues the run in --out FOLDER: say which folder"),
        (["--resume", "--out", str(tmp_path / "nowhere")], "there is no run to resume in .*nowhere"),
    ):
        with pytest.raises(InputError, match=said):
            parse(dpo.Options, "dpo", arguments)
    with pytest.raises(InputError, match="belongs to a run of dpo, not of sft; use operant dpo"):
        parse(sft.Options, "sft", ["--resume", "--out", str(run)])


def test_the_settings_of_a_run_make_another_one(run):
    found = parse(dpo.Options, "dpo", ["--config", str(run / "config.toml"), "--out", "new", "--epochs", "1"])[0]
    assert (found.dpo.epochs, found.machine.seed, found.out) == (1, 3, Path("new"))


def test_one_stage_is_a_wish_and_no_setting(tmp_path):
    options = read("align", "--only", "data", "--out", str(tmp_path / "run"))
    folder = run_folder(tmp_path / "run", "align", options)
    assert "only" not in as_dict(options)
    found, resume = parse(Align, "align", ["--resume", "--out", str(folder), "--only", "ppo"])
    assert (found.only, resume) == ("ppo", True)
    assert parse(Align, "align", ["--resume", "--out", str(folder)])[0].only is None


# There and back


def another(value: Any, hint: Any) -> Any:
    """A value of this type that is not `value`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return changed(hint, value)
    if origin in (typing.Union, types.UnionType):
        kind = next(choice for choice in inner if choice is not types.NoneType)
        if value is not None:
            return None
        return typing.get_args(kind)[0] if typing.get_origin(kind) is Literal else another(kind(), kind)
    if origin is Literal:
        return next(choice for choice in inner if choice != value)
    if origin is tuple:
        return {str: ("a b", 'c"d\\', "é"), Path: (Path("a"), Path("b/c")), float: (0.5, -2.0), int: (3, 5)}.get(
            inner[0], value
        )
    if origin is dict:
        return {"prompt": "a.b+c", "label": 'x "y"'}
    if hint is bool:
        return not value
    if hint in (int, float):
        return value + 1
    return hint("some/where é \\")


def changed(kind: Any, options: Any) -> Any:
    hints = typing.get_type_hints(kind)
    if kind.__name__ == "AlmanacConfig":
        return dataclasses.replace(
            options, towns=77, exposures=(0, 5), exposure_weights=(0.25, 0.75), exposure_per="fact", unknown_pages=3
        )
    values = {f.name: another(getattr(options, f.name), hints[f.name]) for f in dataclasses.fields(options)}
    return dataclasses.replace(options, **{name: x for name, x in values.items() if name != "only"})


def there_and_back(options: Any) -> Any:
    return build(type(options), tomllib.loads(to_toml(as_dict(options))), "here")


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_come_back_from_toml_as_they_were(command):
    plain = read(command)
    other = changed(type(plain), plain)
    for field in dataclasses.fields(plain):
        assert field.name == "only" or getattr(plain, field.name) != getattr(other, field.name)
    assert there_and_back(plain) == plain
    assert there_and_back(other) == other


@given(
    value_clip=st.none() | st.floats(0, 1e9),
    score=st.none() | st.floats(-1e9, 1e9),
    words=st.text(st.characters(codec="utf-8"), max_size=8),
    clip=st.sampled_from([0.2, math.inf]),
)
def test_any_value_comes_back(value_clip, score, words, clip):
    options = read("rlhf")
    options = dataclasses.replace(
        options,
        model=words,
        ptx_data=(words,),
        world=dataclasses.replace(options.world, missing_stop_score=score),
        reading=dataclasses.replace(options.reading, columns={words: words}),
        rlhf=dataclasses.replace(options.rlhf, value_clip=value_clip, clip=clip),
    )
    assert there_and_back(options) == options


def test_recipes_are_settings_of_the_pipeline():
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
    assert recipes
    for recipe in recipes:
        found = read("align", "--config", str(recipe))
        assert found.title == read_toml(recipe)["title"]
        assert ":" in found.prepare
