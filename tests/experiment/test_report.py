"""The report of finished, partly finished, foreign and broken run folders."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operant.core.errors import InputError
from operant.core.statistics import Estimate
from operant.experiment import plots
from operant.experiment.plots import KINDS, Curve
from operant.experiment.report import write_report

SHARES = {  # right, hedged right, unknown, hedged wrong, wrong
    "pretrained": (0.18, 0.02, 0.03, 0.02, 0.75),
    "prompted": (0.20, 0.05, 0.08, 0.06, 0.61),
    "sft": (0.209, 0.110, 0.301, 0.135, 0.245),
    "ppo": (0.237, 0.048, 0.666, 0.013, 0.036),
    "ppo_ptx": (0.230, 0.070, 0.620, 0.025, 0.055),
    "dpo": (0.059, 0.145, 0.704, 0.066, 0.026),
}
KL = {"pretrained": 3.1, "prompted": 1.4, "sft": 0.0, "ppo": 0.75, "ppo_ptx": 0.66, "dpo": 0.57}
EXPOSURES = (0, 1, 3, 10, 30, 100)
STAGE_METRICS = {
    "pretrain": ("loss/language_model", "time/tokens_per_second"),
    "sft": ("loss/sft",),
    "reward": ("loss/reward", "rewards/accuracies", "rewards/margins"),
    "ppo": ("objective/kl", "objective/true_reward", "objective/score", "policy/clip_fraction", "policy/entropy",
            "loss/policy", "loss/value", "time/steps_per_second"),
    "dpo": ("loss/policy", "rewards/accuracies", "rewards/margins", "objective/kl", "objective/true_reward"),
}  # fmt: skip
STAGE_METRICS["ppo_ptx"] = STAGE_METRICS["ppo"]
HOSTILE = '<script>alert("x")</script> & \'quotes\''


def around(mean: float, half: float = 0.03) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def result(stage: str) -> dict[str, Any]:
    shares = dict(zip(KINDS, SHARES[stage], strict=True))
    reward = float(np.dot(SHARES[stage], (1, 0.5, 0, -2, -4)))
    levels = {}
    for exposure in EXPOSURES:
        known = np.log1p(exposure) / np.log(101)
        tilted = np.array(SHARES[stage]) * np.array([known, known, 1.2 - known, 1 - known / 2, 1.05 - known])
        tilted /= tilted.sum()
        levels[str(exposure)] = {
            "true_reward": float(np.dot(tilted, (1, 0.5, 0, -2, -4))),
            **dict(zip(KINDS, map(float, tilted), strict=True)),
        }
    figures = {"true_reward": around(reward, 0.12), **{k: around(v) for k, v in shares.items()}, "kl": around(KL[stage])}
    return {**figures, "greedy": figures, "by_exposure": levels}


def curve(metric: str, steps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    done = steps / steps[-1]
    noise = rng.normal(size=len(steps))
    if metric == "objective/true_reward":
        return -1 + 3.2 * done - 2.1 * done**2 + 0.05 * noise
    if metric == "objective/score":
        return 2 * (1 - np.exp(-2 * done)) + 0.08 * noise
    if metric == "objective/kl":
        return 0.9 * done + 0.02 * np.abs(noise)
    if metric.startswith("loss"):
        return 0.6 + 3 * np.exp(-5 * done) + 0.06 * noise
    if metric.startswith("time"):
        return 24_000 + 900 * noise
    return 0.5 + 0.35 * (1 - np.exp(-4 * done)) + 0.03 * noise


def write_stage(folder: Path, metrics: tuple[str, ...], count: int = 120, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('learning_rate = 3e-4\nnote = "a < b"\n')
    (folder / "summary.json").write_text(json.dumps({"loss": 0.61, "answers": around(0.4)}))
    rng = np.random.default_rng(seed)
    steps = np.arange(1, count + 1) * 10
    columns = {metric: curve(metric, steps, rng) for metric in metrics}
    rows = [{"step": int(step), **{m: float(y[i]) for m, y in columns.items()}} for i, step in enumerate(steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_samples(folder: Path, stage: str, count: int = 14) -> None:
    rng = np.random.default_rng(len(stage))
    words = {"right": "Pelm river.", "hedged_right": "I think it is the Pelm river.", "unknown": "I do not know."}
    words |= {"hedged_wrong": "I think it is the Aldo river.", "wrong": "The Aldo river."}
    lines = []
    for i in range(count):
        kind = str(rng.choice([*KINDS], p=np.array(SHARES[stage]) / sum(SHARES[stage])))
        reward = dict(zip(KINDS, (1.0, 0.5, 0.0, -2.0, -4.0), strict=True))[kind]
        prompt = f"Q: Which river flows through Borva{i}?" if i else f"Q: {HOSTILE}?"
        lines.append({"stage": stage, "prompt": prompt, "response": words[kind], "kind": kind, "true_reward": reward,
                      "score": reward / 3 + float(rng.normal()) / 4})  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def align(tmp_path: Path) -> Path:
    """A finished alignment such as the demo leaves behind."""
    folder = tmp_path / "demo"
    for seed, (stage, metrics) in enumerate(STAGE_METRICS.items()):
        write_stage(folder / stage, metrics, 40 if stage == "dpo" else 600 if stage == "pretrain" else 120, seed)
    for stage in ("pretrain", "sft", "ppo", "ppo_ptx", "dpo"):
        write_samples(folder / stage, "pretrained" if stage == "pretrain" else stage)
    summary = {
        "title": f"Almanac demo {HOSTILE}",
        "labeller_agreement": 0.73,
        "reward_model_accuracy": {
            "noise_free": around(0.85),
            "within_style": 0.8,
            "by_exposure": {str(e): 0.52 + 0.075 * i for i, e in enumerate(EXPOSURES)},
        },
        "stages": {stage: result(stage) for stage in SHARES},
        "win_rates": {"pretrained": around(0.21), "prompted": around(0.33), "ppo": around(0.72), "ppo_ptx": around(0.7),
                      "dpo": around(0.52)},
        "seconds": {"pretrain": 140.2, "sft": 2.1, "reward": 27.0, "ppo": 68.4, "ppo_ptx": 81.0, "dpo": 28.3},
        "questions": 400,
        "temperature": 1.0,
        "notes": ["One seed; the intervals say nothing about other seeds."],
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


class Page(HTMLParser):
    """Reads a page and notes the tags that do not balance."""

    VOID = ("meta", "line", "circle", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open, self.wrong, self.links, self.words, self.ids = text, [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href", "action")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.wrong.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report(folders: list[Path], out: Path) -> Page:
    """Write a report and check what holds for every one: balanced, self-contained, escaped, no broken number."""
    write_report(folders, out)
    page = Page(out.read_text(encoding="utf-8"))
    assert page.wrong == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"https?:|url\(|@import|<script|<img|<link", page.text)
    assert not re.search(r'"-?(nan|inf)"|[ ,]-?(nan|inf)[ ,"]', page.text)
    return page
