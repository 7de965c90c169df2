"""What a run folder holds; a last line cut short and steps written twice are what kills and resumes leave behind."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from operant.core.errors import InputError
from operant.core.statistics import Estimate
from operant.experiment.plots import Curve, estimate

RUN_FILES = ("config.toml", "metrics.jsonl", "summary.json", "samples.jsonl")

STAGES = {
    "pretrain": ("Pretraining", "Read the corpus and learnt to predict each next token."),
    "pretrained": ("Pretrained", "The model as pretraining left it, asked directly."),
    "prompted": ("Prompted", "The pretrained model again, asked to answer truthfully or say that it does not know."),
    "sft": ("SFT", "Imitated demonstrations: the answers a labeller would write."),
    "reward": ("Reward model", "Learnt from ranked answers to give the preferred one the higher score."),
    "ppo": ("PPO", "Tried answers, raised their learned score, and paid for every step away from SFT."),
    "ppo_ptx": ("PPO-ptx", "PPO with the pretraining loss mixed in, to keep what the base model knew."),
    "grpo": ("GRPO", "Raised the learned score, judging each answer against others to the same prompt."),
    "rloo": ("RLOO", "Raised the learned score, judging each answer against the mean of the others."),
    "dpo": ("DPO", "Learnt from the same rankings directly: no reward model, no sampling."),
    "judge": ("Judge", "Learnt from other judgements than the reward model, to compare the stages."),
    "greedy": ("Greedy", "Always took the arm that had paid most on average."),
    "epsilon_greedy": ("ε-greedy", "Took the arm that had paid most, and now and then any."),
    "decaying": ("Decaying ε", "Took the arm that had paid most, and any other ever more rarely."),
    "optimistic": ("Optimistic", "Greedy, believing at first that every arm pays more than any can."),
    "ucb": ("UCB", "Took the arm that could be best, by its mean and how rarely it was tried."),
    "kl_ucb": ("KL-UCB", "Took the arm with the largest mean that is not yet ruled out."),
    "thompson": ("Thompson", "Took each arm as often as it was believed to be the best."),
    "gradient": ("Gradient", "Climbed the expected reward in preferences."),
    "exp3": ("EXP3", "Weighted arms by what they would have paid, trusting no average."),
    "linucb": ("LinUCB", "Took the arm that could be best, by its features."),
    "linear_thompson": ("Linear Thompson", "Drew weights of the features from what was believed of them."),
}
"""What the stages of an alignment, and bandit algorithms, are called, in their order, and what each did."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a run folder holds; an alignment has its stages as runs within."""

    name: str
    config: str
    metrics: dict[str, Curve]
    summary: dict[str, Any]
    samples: list[dict[str, Any]]
    stages: "list[Findings]"
    folder: Path

    @property
    def seeds(self) -> "list[Findings]":
        """The runs within that differ in their seed alone, in its order."""
        found = [stage for stage in self.stages if stage.name.startswith("seed_")]
        return sorted(found, key=lambda stage: int(stage.name.removeprefix("seed_")))

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The final figures of every stage that was evaluated, in the order of the stages."""
        found = {name: value for name, value in within(self.summary, "stages").items() if isinstance(value, dict)}
        return {name: found[name] for name in sorted(found, key=place)}


def read_run(folder: Path, name: str) -> Findings:
    """Read a run folder and the run folders directly within it."""
    if not folder.is_dir():
        raise InputError(f"no run folder at {folder}; give a folder that an operant command wrote, such as runs/demo")
    parts = [p for p in folder.iterdir() if p.is_dir() and any((p / file).is_file() for file in RUN_FILES)]
    if not parts and not any((folder / file).is_file() for file in RUN_FILES):
        raise InputError(
            f"{folder} is no run folder: neither it nor a folder in it has one of {', '.join(RUN_FILES)}; "
            "give a folder that an operant command wrote, such as runs/demo"
        )
    summary = folder / "summary.json"
    return Findings(
        name,
        _read(folder / "config.toml"),
        _curves(_read_lines(folder / "metrics.jsonl")),
        _read_object(_read(summary), str(summary)) if summary.is_file() else {},
        _read_lines(folder / "samples.jsonl"),
        [read_run(part, part.name) for part in sorted(parts, key=lambda part: place(part.name))],
        folder,
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        spot = where if error.lineno == 1 else f"{where}:{error.lineno}"
        raise InputError(f"{spot} is not JSON ({error.msg}): {text[:60]!r}; mend or remove it") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} holds {text[:60]!r} where a JSON object was expected; mend or remove it")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file. A last line cut short is one that is still being written: left out."""
    lines = _read(path).split("\n")
    if not lines[-1].rstrip().endswith("}"):
        lines.pop()
    return [_read_object(line, f"{path}:{i}") for i, line in enumerate(lines, start=1) if line.strip()]


def _curves(lines: list[dict[str, Any]]) -> dict[str, Curve]:
    """Every metric over its steps, those of the environments where they are counted.

    A step written again, as after a resume, counts once, with its last value.
    """
    found: dict[str, dict[float, float]] = {}
    for i, line in enumerate(lines):
        step = estimate(line.get("rollout/steps", line.get("step", i)))
        for name, value in estimates(line).items():
            if name != "step" and step:
                found.setdefault(name, {})[step.mean] = value.mean
    points = {name: sorted(values.items()) for name, values in found.items()}
    return {name: Curve(*np.array(pairs, dtype=float).T) for name, pairs in points.items()}


def within(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def place(stage: str) -> tuple[int, str]:
    return ([*STAGES].index(stage) if stage in STAGES else len(STAGES), stage)


def estimates(figures: dict[str, Any]) -> dict[str, Estimate]:
    return {key: value for key in figures if (value := estimate(figures[key])) is not None}
