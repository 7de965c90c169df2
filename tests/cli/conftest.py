"""A world small enough to go through the whole command line in seconds."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from operant.cli.main import main

MACHINE = ["--threads", "1", "--dtype", "float32"]
SHAPE = ["--width", "16", "--layers", "1", "--heads", "2", "--context", "48", "--vocabulary", "300"]
COLOURS = ["blue", "green", "white", "black", "red", "brown"]
THINGS = ["sky", "sea", "grass", "snow", "coal", "rust", "sand", "plum", "rose", "moss", "clay", "milk"]


class World:
    """A folder of data in every form that the commands read: what colour twelve things have."""

    prompts = tuple(f"{start} {thing} is" for start in ("The", "Now the") for thing in THINGS)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        answer, other, prompts = self.answer, self.other, self.prompts
        self.write(folder / "text.jsonl", [{"text": p + answer(p)} for p in prompts * 3])
        self.write(folder / "demonstrations.jsonl", [{"prompt": p, "response": answer(p)} for p in prompts * 2])
        self.write(folder / "prompts.jsonl", [{"prompt": p} for p in prompts])
        pairs = [{"prompt": p, "chosen": answer(p), "rejected": other(p)} for p in prompts]
        self.write(folder / "pairs.jsonl", pairs)
        ranked = [
            {"prompt": p, "responses": [other(p), answer(p), other(p, 2), " I do not know."], "ranks": [3, 1, 3, 2]}
            for p in prompts
        ]
        self.write(folder / "rankings.jsonl", ranked)
        judged = [(p, r, good) for p in prompts for r, good in ((answer(p), 1), (other(p), 0))]
        thumbs = [{"prompt": p, "response": r, "label": good} for p, r, good in judged]
        self.write(folder / "thumbs.jsonl", thumbs)
        (folder / "functions.py").write_text(
            "def short(prompts, responses):\n    return [-0.1 * len(r) for r in responses]\n\n"
            "def vowels(prompts, responses):\n    return [sum(c in 'aeiou' for c in r) / 4 for r in responses]\n"
        )

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @staticmethod
    def answer(prompt: str, by: int = 0) -> str:
        return f" {COLOURS[(THINGS.index(prompt.split()[-2]) + by) % len(COLOURS)]}."

    @classmethod
    def other(cls, prompt: str, by: int = 1) -> str:
        """An answer that is wrong."""
        return cls.answer(prompt, by)

    @staticmethod
    def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        return path

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def no_accelerator() -> Iterator[None]:
    """Runs end equal to the bit on the CPU, so that is where all of these compute, and the processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: False)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(autouse=True)
def cpu() -> Iterator[None]:
    with no_accelerator():
        yield


def run(*arguments: str) -> None:
    with no_accelerator():
        main(list(arguments))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def pretrained(world: World) -> Path:
    out = world / "pretrained"
    learning = ["--epochs", "20", "--batch", "24", "--learning-rate", "1e-2"]
    run("pretrain", "--data", str(world / "text.jsonl"), "--out", str(out), *learning, *SHAPE, *MACHINE)
    return out


@pytest.fixture(scope="session")
def tuned(world: World, pretrained: Path) -> Path:
    """A model that has learned to answer and to stop."""
    out = world / "tuned"
    data = str(world / "demonstrations.jsonl")
    learning = ["--epochs", "10", "--batch", "16", "--learning-rate", "1e-2", "--held-out", "0.1"]
    run("sft", "--model", str(pretrained), "--data", data, "--out", str(out), *learning, *MACHINE)
    return out


@pytest.fixture(scope="session")
def judge(world: World, tuned: Path) -> Path:
    """A reward model of the same tokenizer."""
    out = world / "judge"
    learning = ["--epochs", "6", "--batch", "8", "--learning-rate", "1e-2"]
    data = str(world / "rankings.jsonl")
    run("reward", "--model", str(tuned), "--data", data, "--out", str(out), *learning, *MACHINE)
    return out


TINY = """
threads = 1
dtype = "float32"
checkpoint_every = 1
vocabulary = 400
[almanac]
towns = 15
exposures = [0, 10]
exposure_weights = [0.3, 0.7]
split_fractions = [0.4, 0.2, 0.2, 0.2]
unknown_pages = 100
[shape]
width = 32
layers = 1
heads = 2
context = 64
[sampling]
max_new_tokens = 12
responses = 3
evaluation_samples = 2
decoding_dtype = "float32"
[pretrain]
epochs = 3
learning_rate = 1e-2
batch = 32
[sft]
epochs = 4
learning_rate = 5e-3
[reward]
epochs = 2
batch = 2
[judge]
epochs = 2
batch = 4
[ppo]
iterations = 3
rollout = 8
minibatch = 8
[ppo_ptx]
iterations = 3
rollout = 8
minibatch = 8
[dpo]
epochs = 2
batch = 2
"""


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of the whole pipeline on a small Almanac."""
    file = tmp_path_factory.mktemp("pipeline") / "tiny.toml"
    file.write_text(TINY, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def aligned(pipeline: Path) -> Path:
    """The run folder of that pipeline."""
    out = pipeline.parent / "aligned"
    run("align", "--config", str(pipeline), "--out", str(out))
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
