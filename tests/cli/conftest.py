"""A world small enough to go through the whole command line in seconds."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from operant.cli.main import main

THINGS = ["sky", "sea", "grass", "snow", "coal", "rust", "sand", "plum", "rose", "moss", "clay", "milk"]
COLOURS = ["blue", "green", "white", "black", "red", "brown"]
FACTS = {thing: COLOURS[i % len(COLOURS)] for i, thing in enumerate(THINGS)}
PROMPTS = [f"The {thing} is" for thing in THINGS] + [f"Now the {thing} is" for thing in THINGS]

MACHINE = ["--threads", "1", "--dtype", "float32"]
SHAPE = ["--width", "16", "--layers", "1", "--heads", "2", "--context", "48", "--vocabulary", "300"]


def answer(prompt: str) -> str:
    return f" {FACTS[prompt.split()[-2]]}."


def other(prompt: str, by: int = 1) -> str:
    return f" {COLOURS[(COLOURS.index(FACTS[prompt.split()[-2]]) + by) % len(COLOURS)]}."


def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data in every form that the commands read."""
    folder = tmp_path_factory.mktemp("world")
    write(folder / "text.jsonl", [{"text": p + answer(p)} for p in PROMPTS * 3])
    write(folder / "demonstrations.jsonl", [{"prompt": p, "response": answer(p)} for p in PROMPTS * 2])
    write(folder / "pairs.jsonl", [{"prompt": p, "chosen": answer(p), "rejected": other(p)} for p in PROMPTS])
    ranked = [
        {"prompt": p, "responses": [other(p), answer(p), other(p, 2), " I do not know."], "ranks": [3, 1, 3, 2]}
        for p in PROMPTS
    ]
    write(folder / "rankings.jsonl", ranked)
    thumbs = [
        {"prompt": p, "response": r, "label": good} for p in PROMPTS for r, good in ((answer(p), 1), (other(p), 0))
    ]
    write(folder / "thumbs.jsonl", thumbs)
    write(folder / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    (folder / "functions.py").write_text(
        "def short(prompts, responses):\n    return [-0.1 * len(r) for r in responses]\n\n"
        "def vowels(prompts, responses):\n    return [sum(c in 'aeiou' for c in r) / 4 for r in responses]\n"
    )
    return folder


@pytest.fixture(scope="session")
def pretrained(world: Path) -> Path:
    out = world / "pretrained"
    main(["pretrain", "--data", str(world / "text.jsonl"), "--out", str(out), "--epochs", "20", "--batch", "24"]
         + ["--learning-rate", "1e-2", *SHAPE, *MACHINE])  # fmt: skip
    return out


@pytest.fixture(scope="session")
def tuned(world: Path, pretrained: Path) -> Path:
    """A model that has learned to answer and to stop."""
    out = world / "tuned"
    main(["sft", "--model", str(pretrained), "--data", str(world / "demonstrations.jsonl"), "--out", str(out)]
         + ["--epochs", "10", "--batch", "16", "--learning-rate", "1e-2", "--held-out", "0.1", *MACHINE])  # fmt: skip
    return out


@pytest.fixture(scope="session")
def judge(world: Path, tuned: Path) -> Path:
    """A reward model of the same tokenizer."""
    out = world / "judge"
    main(["reward", "--model", str(tuned), "--data", str(world / "rankings.jsonl"), "--out", str(out)]
         + ["--epochs", "6", "--batch", "8", "--learning-rate", "1e-2", *MACHINE])  # fmt: skip
    return out


@pytest.fixture
def operant(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, what it said, what it complained about)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
