"""The whole pipeline, small: what it leaves behind, one stage of it, and data of one's own."""

import json
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from operant.cli.align import NEEDS
from operant.cli.evaluation import STAGES

KINDS = ["right", "hedged_right", "unknown", "hedged_wrong", "wrong"]
WORTH = [1.0, 0.5, 0.0, -2.0, -4.0]
PIECES = ["pretrain", "sft", "reward", "dpo", "ppo", "ppo_ptx"]


def summary_of(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text())


def weights(folder: Path, stage: str) -> bytes:
    return (folder / stage / "model" / "model.safetensors").read_bytes()


@pytest.fixture
def copy(aligned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(aligned, tmp_path / "copy"))


class TestFigures:
    @pytest.mark.parametrize("stage", STAGES)
    def test_every_stage_has_every_figure_with_an_interval(self, aligned, stage):
        found = summary_of(aligned)["stages"][stage]
        for name in ["true_reward", *KINDS, "kl", "learned_reward", "ended", "length"]:
            for figures in (found, found["greedy"]):
                assert figures[name].keys() == {"mean", "low", "high"}
                assert figures[name]["low"] <= figures[name]["mean"] <= figures[name]["high"]
        for figures in (found, found["greedy"]):
            shares = [figures[kind]["mean"] for kind in KINDS]
            assert sum(shares) == pytest.approx(1)
            worth = sum(share * w for share, w in zip(shares, WORTH, strict=True))
            assert figures["true_reward"]["mean"] == pytest.approx(worth)
        assert 0 <= found["distinct_2"] <= 1

    @pytest.mark.parametrize("stage", STAGES)
    def test_the_figures_by_exposure_average_to_the_whole(self, aligned, stage):
        found = summary_of(aligned)["stages"][stage]
        assert found["by_exposure"].keys() == {"0", "10"}
        # Of the three towns of evaluation one is never stated, two are: four questions each.
        for name in ("true_reward", "wrong", "kl"):
            parts = [found["by_exposure"][e][name] for e in ("0", "10")]
            assert found[name]["mean"] == pytest.approx((parts[0] + 2 * parts[1]) / 3, abs=1e-6)

    def test_the_reference_has_no_distance_from_itself(self, aligned):
        stages = summary_of(aligned)["stages"]
        assert stages["sft"]["kl"]["mean"] == pytest.approx(0, abs=1e-5)
        assert stages["pretrained"]["kl"]["mean"] != pytest.approx(0, abs=1e-3)

    def test_win_rates_are_against_sft(self, aligned):
        found = summary_of(aligned)["win_rates"]
        assert found.keys() == STAGES.keys() - {"sft"}
        for rate in found.values():
            assert 0 <= rate["low"] <= rate["mean"] <= rate["high"] <= 1

    def test_labels_and_the_reward_model(self, aligned):
        found = summary_of(aligned)
        assert 0 <= found["labeller_agreement"] <= 1
        assert 0.5 <= found["labels_right"] <= 1
        assert 0 <= found["ties"] < 1
        accuracy = found["reward_model_accuracy"]
        assert {"noise_free", "all_styles", "within_style", "by_exposure"} <= accuracy.keys()
        assert all(0 <= accuracy[name] <= 1 for name in ("noise_free", "all_styles", "within_style"))
        assert accuracy["by_exposure"].keys() == {"0", "10"}

    def test_what_was_asked(self, aligned):
        found = summary_of(aligned)
        assert (found["questions"], found["samples_per_question"], found["seed"]) == (12, 2, 0)
        assert found["seconds"].keys() == set(PIECES)
        shown = [json.loads(line) for line in (aligned / "samples.jsonl").read_text().splitlines()]
        assert {line["stage"] for line in shown} == STAGES.keys()
        prompts = [[line["prompt"] for line in shown if line["stage"] == stage] for stage in STAGES]
        assert all(p == prompts[0] for p in prompts)
        assert all(line["kind"] in KINDS for line in shown)


class TestFolder:
    def test_every_stage_is_a_run_of_its_own(self, aligned, operant):
        for name in PIECES:
            config = tomllib.loads((aligned / name / "config.toml").read_text())
            assert config["run"]["algorithm"] == {"ppo": "rlhf", "ppo_ptx": "rlhf"}.get(name, name)
            assert config["machine"] == {
                "seed": 0,
                "threads": 1,
                "dtype": "float32",
                "compile": False,
                "checkpoint_every": 1,
            }
            assert summary_of(aligned / name)
            assert (aligned / name / "metrics.jsonl").is_file()
        code, said, _ = operant("generate", "--model", aligned / "ppo", "--prompt", "Q:", "--max-new-tokens", 4)
        assert code == 0
        assert said.startswith("Q:")

    def test_only_ppo_ptx_reads_pretraining_text(self, aligned):
        for name, coefficient in (("ppo", 0.0), ("ppo_ptx", 1.0)):
            config = tomllib.loads((aligned / name / "config.toml").read_text())
            assert config["rlhf"]["ptx_coefficient"] == coefficient
            assert bool(config["ptx_data"]) == bool(coefficient)
            first = json.loads((aligned / name / "metrics.jsonl").read_text().splitlines()[0])
            assert ("loss/auxiliary" in first) == bool(coefficient)
            assert "objective/true_reward" in first

    def test_what_stands_between_the_stages_can_be_read_by_anyone(self, aligned):
        names = {"text", "tokenizer", "demonstrations", "prompts", "evaluation", "judgements", "comparisons"}
        assert {p.stem for p in (aligned / "data").glob("*.jsonl")} == names
        for line in (aligned / "data" / "comparisons.jsonl").read_text().splitlines():
            record = json.loads(line)
            assert len(record["responses"]) == len(record["ranks"]) == 3

    def test_the_report(self, aligned, operant, tmp_path):
        page = (aligned / "report.html").read_text()
        assert "<html" in page
        assert summary_of(aligned)["title"].partition(":")[0] in page
        code, _, complained = operant("report", aligned, "--out", tmp_path / "again.html")
        assert code == 0, complained

    def test_what_is_finished_is_left_alone(self, aligned, operant):
        before = {p: p.stat().st_mtime_ns for p in aligned.rglob("*")}
        code, said, _ = operant("align", "--out", aligned, "--resume")
        assert (code, said) == (0, f"{aligned} is finished; nothing to resume\n")
        assert operant("align", "--out", aligned)[0] == 2
        assert {p: p.stat().st_mtime_ns for p in aligned.rglob("*")} == before


class TestOnly:
    def test_a_stage_that_there_is_not(self, operant, tmp_path):
        code, _, complained = operant("align", "--out", tmp_path / "new", "--only", "ppoo")
        assert code == 2
        assert complained == f"operant: there is no stage 'ppoo'; the stages are {', '.join(NEEDS)}\n"
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(("stage", "needed"), [("pretrain", "data"), ("ppo", "reward"), ("evaluation", "dpo")])
    def test_a_stage_before_its_time(self, operant, tmp_path, stage, needed):
        code, _, complained = operant("align", "--out", tmp_path / "new", "--only", stage)
        assert code == 2
        assert f"stage {stage} needs {needed}, which is not finished in {tmp_path / 'new'}" in complained
        assert not (tmp_path / "new").exists()

    def test_stage_by_stage_is_the_same_pipeline(self, operant, pipeline, aligned, tmp_path):
        out = tmp_path / "new"
        assert operant("align", "--config", pipeline, "--out", out, "--only", "data")[0] == 0
        assert sorted(p.name for p in out.iterdir()) == ["config.toml", "data"]
        for stage in ("pretrain", "sft", "comparisons", "reward"):
            assert operant("align", "--out", out, "--resume", "--only", stage)[0] == 0
        assert {p.name for p in out.iterdir()} == {"config.toml", "data", "pretrain", "sft", "reward"}
        for stage in ("pretrain", "sft", "reward"):
            assert weights(out, stage) == weights(aligned, stage)

    def test_a_stage_once_more(self, operant, copy, aligned):
        shutil.rmtree(copy / "dpo")
        again = ["align", "--config", copy / "config.toml", "--out", copy, "--only", "dpo"]
        code, _, complained = operant(*again)
        assert code == 0, complained
        assert weights(copy, "dpo") == weights(aligned, "dpo")

    def test_a_stage_with_other_settings_than_the_run(self, operant, copy):
        shutil.rmtree(copy / "dpo")
        other = ["--config", copy / "config.toml", "--dpo.epochs", 3, "--only", "dpo", "--out", copy]
        code, _, complained = operant("align", *other)
        assert code == 2
        assert complained == f"operant: {copy} has other settings: --resume --only dpo takes them over\n"
        assert not (copy / "dpo").exists()

    @pytest.mark.parametrize("lost", ["summary.json", "report.html"])
    def test_figures_and_report_once_more(self, operant, copy, aligned, lost):
        """A kill between the two leaves figures without a report: they are not finished."""
        (copy / lost).unlink()
        assert operant("align", "--out", copy, "--resume", "--only", "evaluation")[0] == 0
        assert summary_of(copy) == summary_of(aligned)
        assert (copy / "report.html").is_file()


def test_the_world_has_one_seed(operant, tmp_path):
    code, _, complained = operant("align", "--almanac.seed", 3, "--out", tmp_path / "new")
    assert code == 2
    assert "almanac.seed is 3: the world has the seed of the pipeline, give --seed" in complained
    assert not (tmp_path / "new").exists()


# Data of one's own

RECIPE = """
import json

def prepare(data, out, seed):
    assert seed == 0
    for file in sorted(data.glob("*.jsonl")):
        (out / file.name).write_text(file.read_text())
"""


@pytest.fixture(scope="session")
def own(world: Any, pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(settings, data) of a recipe: thumbs for a judge, rankings for the reward model, no comparisons."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "recipe.py").write_text(RECIPE)
    settings = pipeline.read_text().replace("[sampling]\n", '[sampling]\ndpo_comparisons = "ranked"\n')
    lines = [line for line in settings.splitlines() if not line.startswith("threads")]
    head = f'threads = 1\ntitle = "Colours"\nprepare = "{folder / "recipe.py"}:prepare"\n'
    (folder / "recipe.toml").write_text(head + "\n".join(lines))
    data = folder / "data"
    data.mkdir()
    for name, source in {
        "text": "text", "demonstrations": "demonstrations", "judgements": "rankings", "judge": "thumbs",
        "prompts": "prompts", "evaluation": "prompts",
    }.items():  # fmt: skip
        shutil.copy(world / f"{source}.jsonl", data / f"{name}.jsonl")
    world.write(data / "evaluation.jsonl", [{"prompt": p} for p in (*world.prompts[:8], "The sky is " * 20)])
    return folder / "recipe.toml", data


def test_a_recipe_with_data_of_its_own(operant, own, world, tmp_path):
    settings, data = own
    out = tmp_path / "run"
    code, said, complained = operant("align", "--config", settings, "--data", data, "--out", out)
    assert code == 0, complained
    assert "1 of 9 prompts for evaluation are longer than the model's context" in said
    found = summary_of(out)
    assert found["title"] == "Colours"
    assert found["questions"] == 8
    assert found["stages"].keys() == STAGES.keys() - {"prompted"}
    for figures in found["stages"].values():
        assert {"positive", "judge_score", "kl", "learned_reward", "greedy"} <= figures.keys()
        assert not {"true_reward", "wrong", "by_exposure"} & figures.keys()
        assert figures["positive"].keys() == {"mean", "low", "high"}
    assert found["win_rates"].keys() == STAGES.keys() - {"prompted", "sft"}
    assert found["reward_model_accuracy"]["held_out_labels"].keys() == {"mean", "low", "high"}
    assert found["seconds"].keys() == {*PIECES, "judge"}
    assert "Colours" in (out / "report.html").read_text()
    # DPO learned from answers that the reward model ranked.
    assert tomllib.loads((out / "dpo" / "config.toml").read_text())["data"] == str(out / "data" / "ranked.jsonl")
    ranked: Sequence[Any] = [json.loads(line) for line in (out / "data" / "ranked.jsonl").read_text().splitlines()]
    assert {line["prompt"] for line in ranked} <= set(world.prompts)
    assert all(len(set(line["responses"])) == len(line["ranks"]) > 1 for line in ranked)
    assert found["judge_accuracy"] == json.loads((out / "judge" / "summary.json").read_text())["held_out"]["accuracy"]
    # The judge starts from the pretrained model, and nothing learns from it.
    assert tomllib.loads((out / "judge" / "config.toml").read_text())["model"] == str(out / "pretrain")
    assert weights(out, "judge") != weights(out, "reward")


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("recipe.py:prepare", "def prepare(data, out, seed):\n    pass\n", "wrote no text.jsonl into "),
        ("recipe.py:prepare", RECIPE + "    (out / 'judgements.jsonl').unlink()\n", "wrote no judgements.jsonl into "),
        ("recipe.py:prepare", "def prepare(data, out, seed):\n    return {}['a']\n", "failed: KeyError: 'a' ("),
        ("recipe.py:other", "def prepare(data, out, seed):\n    pass\n", "has no function other"),
        ("recipe.py:prepare", "def prepare(:\n", "cannot be imported: SyntaxError"),
        ("nowhere.py:prepare", "", "does not exist"),
        ("recipe", "", "is named as file.py:function or module:function"),
    ],
)
def test_a_recipe_that_fails(operant, own, tmp_path, name, body, said):
    (tmp_path / "recipe.py").write_text(body)
    prepare = name if name == "recipe" else tmp_path / name
    code, _, complained = operant("align", "--prepare", prepare, "--data", own[1], "--out", tmp_path / "run")
    assert code == 2
    assert len(complained.splitlines()) == 1
    assert said in complained
    # What never began leaves nothing; what failed on its way can be mended and resumed.
    assert (tmp_path / "run").exists() == ("wrote no" in said or "failed" in said)
    assert not (tmp_path / "run" / "data" / "prepared.json").exists()


def test_a_recipe_that_was_mended_goes_on(operant, own, tmp_path):
    settings, data = own
    recipe = tmp_path / "recipe.py"
    recipe.write_text("def prepare(data, out, seed):\n    raise ValueError('half\\nway')\n")
    out = tmp_path / "run"
    command = ["align", "--config", settings, "--prepare", f"{recipe}:prepare", "--data", data, "--out", out]
    code, _, complained = operant(*command, "--only", "data")
    assert code == 2
    assert complained == (
        f"operant: {recipe}:prepare failed: ValueError: half way ({recipe}:2). Mend it, then --resume\n"
    )
    recipe.write_text(RECIPE)
    assert operant("align", "--out", out, "--resume", "--only", "data")[0] == 0
    assert (out / "data" / "prepared.json").is_file()


def test_a_recipe_needs_its_data(operant, own, tmp_path):
    settings, _ = own
    for more in ([], ["--data", tmp_path / "nowhere"]):
        code, _, complained = operant("align", "--config", settings, *more, "--out", tmp_path / f"run{len(more)}")
        assert code == 2
        assert "this recipe reads data from a folder: give --data FOLDER" in complained
        assert not (tmp_path / f"run{len(more)}").exists()
