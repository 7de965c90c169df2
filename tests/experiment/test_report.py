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
            "loss/policy", "loss/value", "time/steps_per_second", "time/seconds"),
    "dpo": ("loss/policy", "rewards/accuracies", "rewards/margins", "objective/kl", "objective/true_reward"),
}  # fmt: skip
STAGE_METRICS["ppo_ptx"] = STAGE_METRICS["ppo"]
HOSTILE = "<script>alert(\"x\")</script> & 'quotes'"


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
    figures = {
        "true_reward": around(reward, 0.12),
        **{k: around(v) for k, v in shares.items()},
        "kl": around(KL[stage]),
    }
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


def demo_summary() -> dict[str, Any]:
    return {
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


@pytest.fixture
def align(tmp_path: Path) -> Path:
    """A finished alignment such as the demo leaves behind."""
    folder = tmp_path / "demo"
    for seed, (stage, metrics) in enumerate(STAGE_METRICS.items()):
        write_stage(folder / stage, metrics, 40 if stage == "dpo" else 600 if stage == "pretrain" else 120, seed)
    for stage in ("pretrain", "sft", "ppo", "ppo_ptx", "dpo"):
        write_samples(folder / stage, "pretrained" if stage == "pretrain" else stage)
    (folder / "summary.json").write_text(json.dumps(demo_summary()))
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
    """Write a report and check what holds for each: balanced, self-contained, escaped, no broken number."""
    write_report(folders, out)
    page = Page(out.read_text(encoding="utf-8"))
    assert page.wrong == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"https?:|url\(|@import|<script|<img|<link", page.text)
    assert not re.search(r'"-?(nan|inf)"|[ ,]-?(nan|inf)[ ,"]', page.text)
    return page


def test_a_finished_alignment_is_told_in_full(align: Path, tmp_path: Path) -> None:
    page = report([align], tmp_path / "out" / "report.html")
    words = "".join(page.words)
    for title in ("Pretraining", "Prompted", "SFT", "Reward model", "PPO", "PPO-ptx", "DPO"):
        assert title in words
    sections = "summary outcome exposure reward-and-kl reward-model curves samples figures settings"
    assert page.ids == sections.split()
    assert "SFT24.5%PPO3.6%PPO-ptx5.5%DPO2.6%" in words
    assert "Against SFT: PPO 85% less often; PPO-ptx 78% less often; DPO 89% less often." in words
    assert "PPO clearly better; PPO-ptx clearly better; DPO no clear difference" in words
    assert "the true reward peaks at KL 0." in words
    assert "One seed; the intervals say nothing about other seeds." in words
    assert "400 questions, answers sampled at temperature 1.0." in words
    assert words.count("learning_rate = 3e-4") == len(STAGE_METRICS)
    assert "5 min 47 s" in words  # all stages together
    assert len(page.text) < 400_000


@pytest.mark.parametrize("kept", range(len(STAGE_METRICS)))
def test_an_unfinished_alignment_is_told_as_far_as_it_came(align: Path, tmp_path: Path, kept: int) -> None:
    (align / "summary.json").unlink()
    for stage in [*STAGE_METRICS][kept + 1 :]:
        shutil.rmtree(align / stage)
    last = align / [*STAGE_METRICS][kept]
    (last / "summary.json").unlink()
    (last / "samples.jsonl").unlink(missing_ok=True)
    page = report([align], tmp_path / "report.html")
    assert "curves" in page.ids
    assert not {"outcome", "exposure", "reward-model"} & {*page.ids}
    assert ("reward-and-kl" in page.ids) == (kept >= [*STAGE_METRICS].index("ppo"))


@pytest.mark.parametrize("key", ["stages", "win_rates", "reward_model_accuracy", "seconds", "questions", "notes"])
@pytest.mark.parametrize("value", [None, [], 3, "x", {"sft": None}, {"sft": {"by_exposure": 1, "greedy": []}}])
def test_missing_or_odd_pieces_are_left_out(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({**demo_summary(), key: value}))
    page = report([tmp_path], tmp_path / "report.html")
    assert ("exposure" in page.ids) == (key != "stages")
    assert "figures" in page.ids


def test_every_string_of_a_folder_is_escaped(align: Path, tmp_path: Path) -> None:
    folder = tmp_path / f"{HOSTILE.replace('/', '')}"
    align.rename(folder)
    stage = folder / "<i>extra"
    write_stage(stage, (f"objective/{HOSTILE}", HOSTILE))
    (stage / "config.toml").write_text(HOSTILE)
    (stage / "samples.jsonl").write_text(
        json.dumps(dict.fromkeys(("stage", "prompt", "response", "kind", "score"), HOSTILE)) + "\n"
    )
    hostile = {HOSTILE: around(0.4), "wrong": around(0.1)}
    summary = {
        "stages": {HOSTILE: {**hostile, "by_exposure": {HOSTILE: hostile}, "greedy": hostile}},
        "win_rates": {HOSTILE: 0.4},
        "reward_model_accuracy": {HOSTILE: 0.7, "by_exposure": {HOSTILE: 0.6}},
        "seconds": {HOSTILE: 3},
        "notes": [HOSTILE],
        "questions": HOSTILE,
        "temperature": HOSTILE,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    page = report([folder, folder / "<i>extra"], tmp_path / "report.html")
    assert "<i>extra" not in page.text
    assert HOSTILE in "".join(page.words)
    plain = [tmp_path / "<i>one", tmp_path / "<i>two"]
    for run in plain:
        run.mkdir()
        (run / "summary.json").write_text(json.dumps({HOSTILE: 0.5}))
    assert "<i>" not in report(plain, tmp_path / "report.html").text


def test_a_single_run(tmp_path: Path) -> None:
    write_stage(tmp_path / "pole", ("rollout/episode_return", "loss/policy", "time/seconds"))
    words = "".join(report([tmp_path / "pole"], tmp_path / "report.html").words)
    assert "pole" in words
    assert "Return" in words
    assert "1,200 steps" in words
    assert "time/seconds" not in words


def test_figures_of_other_data_are_charted_and_tabled(tmp_path: Path) -> None:
    stages = {
        name: {"positive": around(0.3 + 0.2 * i), "distinct_2": around(0.8), "kl": around(2.0 * i), "words": 11.0}
        for i, name in enumerate(("sft", "ppo"))
    }
    (tmp_path / "summary.json").write_text(json.dumps({"stages": stages}))
    page = report([tmp_path], tmp_path / "report.html")
    words = "".join(page.words)
    assert "exposure" not in page.ids
    assert all(key in words for key in ("positive", "distinct 2", "words"))
    assert "Against SFT: PPO +0.20." in words
    assert "no clear change" in words  # distinct_2 does not differ
    assert "0.47 to 0.53" in words


@pytest.mark.parametrize(("accuracy", "chance"), [(around(0.83), False), (around(0.5), True)])
def test_a_judge_is_only_as_good_as_its_accuracy(align: Path, tmp_path: Path, accuracy: Any, chance: bool) -> None:
    summary = demo_summary() | {"judge_accuracy": accuracy}
    (align / "summary.json").write_text(json.dumps(summary))
    write_report([align], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"The judge orders {accuracy['mean']:.0%}".replace("%", "") in page
    assert ("no better than chance" in page) == chance


def test_several_runs_stand_side_by_side(align: Path, tmp_path: Path) -> None:
    other = tmp_path / "again" / "demo"
    shutil.copytree(align, other)
    summary = json.loads((other / "summary.json").read_text())
    summary["win_rates"]["ppo"] = around(0.6)
    (other / "summary.json").write_text(json.dumps(summary))
    shutil.rmtree(other / "dpo")
    page = report([align, other], tmp_path / "report.html")
    words = "".join(page.words)
    assert "side-by-side" in page.ids
    assert "Win rates, PPO72%69% to 75%60%57% to 63%" in words
    assert str(align) in words  # two folders of one name are told apart by their paths
    assert str(other) in words


def test_a_curve_keeps_the_colour_of_its_run(tmp_path: Path) -> None:
    write_stage(tmp_path / "a", ("loss/policy",))
    write_stage(tmp_path / "b", ("loss/policy", "policy/entropy"))
    text = report([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html").text
    entropy = text[text.index('aria-label="policy/entropy"') :]
    assert "line s1" in entropy
    assert "line s0" not in entropy


def test_a_step_written_twice_counts_once_and_a_cut_line_not_at_all(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss/policy": 987.0}', '{"step": 2, "loss/policy": NaN}', '{"step": 1, "loss/policy": 0.25}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "loss/pol']))
    words = "".join(report([tmp_path], tmp_path / "report.html").words)
    assert "0.25" in words
    assert "987" not in words
    assert "2 steps" not in words  # the value of step 2 is no number


def test_bad_folders_say_what_is_wrong(align: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with pytest.raises(InputError, match="none was given"):
        write_report([], out)
    with pytest.raises(InputError, match=r"no run folder at .*nowhere"):
        write_report([tmp_path / "nowhere"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is no run folder"):
        write_report([tmp_path / "empty"], out)
    with pytest.raises(InputError, match="cannot be written"):
        write_report([align], tmp_path)
    metrics = align / "ppo" / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n{"step": 2\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"ppo/metrics\.jsonl:2 is not JSON"):
        write_report([align], out)
    metrics.unlink()
    (align / "summary.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"summary\.json holds '\[1, 2\]'"):
        write_report([align], out)
    assert not out.exists()


def test_stacked_bars_are_as_long_as_their_shares() -> None:
    shares = dict(zip(KINDS, SHARES["sft"], strict=True))
    svg = plots.stacked_bars([("SFT", shares, "")], "kinds")
    widths = {k: float(w) for k, w in re.findall(r'segment k-(\w+)" x="[\d.]+" y="\d+" width="([\d.]+)"', svg)}
    total = sum(widths.values())
    assert {k: pytest.approx(w / total, abs=1e-3) for k, w in widths.items()} == shares


def test_interval_chart_places_and_colours_by_the_base() -> None:
    rows = [
        ("worse", Estimate(0.25, 0.2, 0.3)),
        ("even", Estimate(0.5, 0.4, 0.6)),
        ("better", Estimate(0.75, 0.7, 0.8)),
    ]
    svg = plots.interval_chart(rows, "win rate", {"SFT": 0.5})
    dots = re.findall(r'<circle class="f(\d)" cx="([\d.]+)"', svg)
    assert [colour for colour, _ in dots] == ["1", "5", "0"]
    x = [float(place) for _, place in dots]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert f'class="reference" x1="{x[1]:.1f}"' in svg
    assert "75%" in svg
    assert "stem" not in svg
    plain = plots.interval_chart([*rows, ("alone", Estimate(0.6, 0.6, 0.6))], "pay", {"SFT": 0.5}, percent=False)
    assert "%" not in plain
    assert (plain.count('class="interval'), plain.count('class="stem')) == (3, 1)


@pytest.mark.parametrize("n", [1, 2, 39, 40, 200, 1001])
def test_smoothing_is_a_mean_that_keeps_lines_and_does_not_lag(n: int) -> None:
    y = np.random.default_rng(n).normal(size=n)
    half = n // 40
    brute = [y[i - min(half, i) : i + min(half, i) + 1].mean() for i in range(n)]
    np.testing.assert_allclose(plots.smooth(y), brute, atol=1e-12)
    line = np.linspace(-3.0, 8.0, n)
    np.testing.assert_allclose(plots.smooth(line)[: n - half], line[: n - half], atol=1e-12)


def test_rewards_part_where_the_true_one_peaks() -> None:
    done = np.linspace(0, 1, 200)
    noise = np.random.default_rng(0).normal(size=(2, 200)) * 0.05
    learned = done + noise[0]
    found = plots.parting(1 - (done - 0.6) ** 2 * 4 + noise[1], learned)
    assert found is not None
    assert done[found[0]] == pytest.approx(0.6, abs=0.1)
    assert found[1] == pytest.approx(0.6, abs=0.15)
    assert plots.parting(done + noise[1], learned) is None
    assert plots.parting(1 - (done - 0.6) ** 2 * 4 + noise[1], -learned) is None


def test_noise_alone_is_rarely_taken_for_parting() -> None:
    rng = np.random.default_rng(1)
    rising = np.linspace(0, 1, 40)
    alarms = [plots.parting(np.tanh(6 * rising) + 0.1 * rng.normal(size=40), rising) for _ in range(200)]
    assert sum(alarm is not None for alarm in alarms) < 20


def test_line_charts_stay_finite_for_any_curve() -> None:
    for y in ([0.3], [1.0, 1.0], [1e-9, 2e-9, 3e-9], [-1e12, 1e12], list(np.linspace(0, 1, 5000))):
        curve = Curve(np.arange(len(y), dtype=float), np.array(y))
        for scatter in (False, True):
            svg = plots.line_chart([curve], "any", scatter=scatter)
            assert "nan" not in svg
            assert "inf" not in svg
            assert len(svg) < 20_000


def test_figures_in_words() -> None:
    assert [plots.number(x) for x in (0, 0.031234, 0.5, 12.345, 1234.5, 2.1e6, -0.25)] == [
        "0", "0.031", "0.50", "12.35", "1,234", "2.1M", "−0.25"]  # fmt: skip
    assert [plots.number(x, percent=True) for x in (0.5, 0.245, 1.0)] == ["50%", "24.5%", "100%"]
    assert [plots.duration(x) for x in (2.1, 48, 140, 11_100)] == ["2.1 s", "48 s", "2 min 20 s", "3 h 05 min"]


def test_an_estimate_is_a_finite_number_or_a_mean() -> None:
    assert plots.estimate(0.5) == Estimate(0.5, 0.5, 0.5)
    assert plots.estimate({"mean": 1, "low": 0, "high": 2}) == Estimate(1, 0, 2)
    assert plots.estimate({"mean": 1}) == Estimate(1, 1, 1)
    assert all(plots.estimate(x) is None for x in (None, True, "1", [1], {}, {"low": 1}, float("nan"), {"mean": "x"}))
