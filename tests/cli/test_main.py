"""The table of commands: quick, complete, and never a traceback."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import operant as package
from operant.cli import main as table
from operant.cli.main import COMMANDS, main
from operant.core.errors import Diverged, InputError

SOURCE = str(Path(package.__file__).parents[1])
HEAVY = {"torch", "transformers", "numpy", "tyro", "tensorboard", "matplotlib", "pyarrow", "datasets", "peft"}


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "operant.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def options_of(command: str) -> Any:
    return importlib.import_module(f"operant.cli.{command}").Options


def test_the_help_table_imports_nothing_heavy():
    code = f"""
import sys
from operant.cli.main import main
main(["--help"])
main(["--version"])
try:
    main(["rlfh"])
except SystemExit as end:
    assert end.code == 2
print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "operant: there is no command 'rlfh'; did you mean rlhf?\n[]\n"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.splitlines()[-1] == package.__version__


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_table_has_a_line_for_every_command(operant, arguments):
    code, said, complained = operant(*arguments)
    assert (code, complained) == (0, "")
    for name, line in COMMANDS.items():
        assert f"  {name:<8}  {line}\n" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_with_options_and_run(name):
    module = importlib.import_module(f"operant.cli.{name}")
    assert dataclasses.is_dataclass(module.Options)
    assert typing.get_type_hints(module.run).keys() >= {"options", "resume"}


@pytest.mark.parametrize(
    ("given", "near"),
    [("rlhff", "rlhf"), ("evalute", "evaluate"), ("pre-train", "pretrain"), ("reports", "report"), ("aling", "align")],
)
def test_an_unknown_command_names_the_nearest(operant, given, near):
    assert operant(given) == (2, "", f"operant: there is no command {given!r}; did you mean {near}?\n")


def test_a_command_like_no_other_points_to_the_list(operant):
    assert operant("zzz") == (2, "", "operant: there is no command 'zzz'; operant --help lists the commands\n")


# Options


def flags(kind: Any, prefix: str = "") -> Iterator[str]:
    """The flag of every field, from the dataclass itself."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        inner, *marks = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        if dataclasses.is_dataclass(inner):
            short = any("OmitArgPrefixes" in str(mark) for mark in marks)
            yield from flags(inner, prefix if short else f"{prefix}{dashed(name)}.")
        elif not any("Positional" in str(mark) for mark in marks):
            yield f"--{prefix}{dashed(next((mark.name for mark in marks if getattr(mark, 'name', None)), name))}"


def dashed(name: str) -> str:
    return re.sub(r"(?<=\w)_(?=\w)", "-", name)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(operant, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "90")  # wider, and the boxes stand side by side
    code, said, complained = operant(command, "--help")
    assert (code, complained) == (0, "")
    assert f"usage: operant {command}" in said
    assert " ".join(options_of(command).__doc__.split()) in " ".join(said.split())
    assert "--config FILE.toml" in said
    assert ("--resume" in said) == (command not in ("generate", "evaluate", "report", "solve", "mdp", "watch"))
    boxes = said.partition(" options ")[2]
    pieces = re.split(r"(?m)^[│ ]{2}(--[a-z][\w.-]*)", re.sub(r" *│?$", "", boxes, flags=re.M))
    explained = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    expected = list(flags(options_of(command)))
    assert len(expected) == len(set(expected)) > 0
    assert set(expected) == set(explained)
    for flag, rest in explained.items():
        words = " ".join(rest.replace("│", " ").split())
        sentence = re.search(r"(\S.*[.)\"]) \((default: .*|required)\)", words)
        assert sentence, f"operant {command} {flag} is not explained: {words}"
        assert len(sentence[1].split()) > 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flag_that_is_none_ends_with_2(operant, command):
    code, said, complained = operant(command, "--no-such-flag", "1")
    assert (code, said) == (2, "")
    assert "no-such-flag" in complained
    assert "Traceback" not in complained


# How a command ends


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("a word, and\nanother line"), 2, "operant: a word, and another line\n"),
        (Diverged("step 3: the loss is nan"), 1, "operant: step 3: the loss is nan\n"),
        (KeyboardInterrupt(), 130, "operant: interrupted; a run goes on with --resume\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(operant, monkeypatch, error, code, message):
    def run(options: object, resume: bool) -> None:
        raise error

    monkeypatch.setattr("operant.cli.report.run", run)
    assert operant("report", "x") == (code, "", message)


def test_an_error_of_operant_itself_keeps_its_traceback(monkeypatch):
    def run(options: object, resume: bool) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("operant.cli.report.run", run)
    with pytest.raises(ZeroDivisionError):
        main(["report", "x"])


def test_the_exit_codes_of_a_process():
    assert process("--version").returncode == 0
    done = process("report", "nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("operant: no run folder at nowhere")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_who_leaves_early_sees_no_complaint():
    """As in `operant rlhf --help | head -1`."""
    code = """
from operant.cli import main, report
report.run = lambda options, resume: print("x" * 100_000)
main.main(["report", "x"])
"""
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_installed_script_is_this_function():
    from importlib.metadata import entry_points

    found = [e for e in entry_points(group="console_scripts") if e.name == "operant"]
    assert found[0].load() is table.main


def test_where_memory_ends_there_is_one_line(operant, monkeypatch):
    module = importlib.import_module("operant.cli.solve")
    monkeypatch.setattr(module, "run", lambda *_: (_ for _ in ()).throw(MemoryError("Unable to allocate 1 TiB")))
    assert operant("solve", "cliff") == (
        2,
        "",
        "operant: there is not enough memory (Unable to allocate 1 TiB): ask for less at once, such as fewer runs, a "
        "shorter horizon, a smaller batch or a smaller model\n",
    )


def test_an_output_that_is_not_unicode(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = process("solve", "corner_grid")
    assert (done.returncode, done.stderr) == (0, "")
    drawn = [line.split() for line in done.stdout.splitlines()]
    assert drawn[drawn.index(["policy"]) + 1] == [".", "<", "<", "v"]
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    assert process("learn", "--help").returncode == 0
