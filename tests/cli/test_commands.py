"""A tiny world from plain text to an aligned model and its report, through the command line alone."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from operant.algorithms.preference.reward_model import endings
from operant.cli import common
from operant.cli.main import main
from operant.text.context import rows
from operant.text.language_model import LanguageModel
from operant.text.rewards import score
from operant.text.tokenizer import Judgement, encode_prompt, encode_response

MACHINE = ["--threads", "1", "--dtype", "float32"]
SHAPE = ["--width", "16", "--layers", "1", "--heads", "2", "--context", "48", "--vocabulary", "300"]
RL = ["--max-new-tokens", "8", "--iterations", "2", "--rollout", "8", "--decoding-dtype", "float32", *MACHINE]
IDS = torch.tensor([[5, 40, 70, 33, 91, 12, 2, 8]])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What the models of a run gave at its end, before they were merged and written."""
    seen: dict[str, Tensor] = {}
    merged, save = common.merged, common.save_model

    def watched_merged(model: Any) -> Any:
        seen["model"] = logits(model)
        return merged(model)

    def watched_save(run: Any, model: Any, tokenizer: Any, name: str = "model") -> None:
        seen.setdefault(name, logits(model))
        save(run, model, tokenizer, name)

    monkeypatch.setattr(common, "merged", watched_merged)
    monkeypatch.setattr(common, "save_model", watched_save)
    return seen


def check_run(folder: Path, command: str, seen: dict[str, Tensor], steps: int, kind: Any = AutoModelForCausalLM) -> Any:
    """A run folder holds what it should, and its model is the one that was trained. The metrics, a line a step."""
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["run"]["algorithm"] == command
    assert config["machine"]["threads"] == 1
    assert "auto" not in str(config)
    metrics = read(folder / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, steps + 1))
    assert (folder / "checkpoints" / f"step_{steps:06d}" / "state.json").is_file()
    assert any((folder / "tensorboard").iterdir())
    assert json.loads((folder / "summary.json").read_text())
    loaded = kind.from_pretrained(folder / "model")
    torch.testing.assert_close(logits(loaded), seen["model"], rtol=1e-4, atol=1e-5)
    assert len(AutoTokenizer.from_pretrained(folder / "model")) == 300
    assert not list(folder.glob(".*")), "something half-written is left"
    return metrics


def log_prob(name: str | Path, prompt: str, response: str) -> float:
    """log π(response | prompt), as Operant computes it."""
    model, bpe = common.load_causal(str(name))
    context, action, mask = rows([encode_prompt(bpe, prompt)], [encode_response(bpe, response)])
    with torch.no_grad():
        return float(LanguageModel(model).evaluate(context, action).log_prob[mask].sum())


# Imitation


def test_pretrain(world, tmp_path, in_memory, operant):
    out = tmp_path / "run"
    code, said, _ = operant(
        "pretrain", "--data", world / "text.jsonl", "--out", out, "--epochs", 2, "--batch", 24, *SHAPE, *MACHINE
    )
    assert code == 0
    assert "text (text): 72 records" in said
    assert f"the model is in {out / 'model'}" in said
    check_run(out, "pretrain", in_memory, 6)
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    bpe = AutoTokenizer.from_pretrained(out / "model")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (16, 1)
    assert model.config.max_position_embeddings == 48
    assert model.config.eos_token_id == model.generation_config.eos_token_id == bpe.eos_token_id
    assert model.config.pad_token_id == bpe.pad_token_id != bpe.eos_token_id
    summary = json.loads((out / "summary.json").read_text())
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    # Every text ends with a token that is learned: the tokens of the texts, and one more each.
    assert summary["tokens"] == sum(len(bpe(p + world.answer(p))["input_ids"]) + 1 for p in world.prompts * 3)


def test_pretrain_with_a_tokenizer_that_is_there(world, pretrained, tmp_path, operant):
    options = ["--width", 16, "--layers", 1, "--heads", 2, "--epochs", 1, *MACHINE]
    tokenizer = pretrained / "model"
    code, _, _ = operant(
        "pretrain", "--data", world / "text.jsonl", "--tokenizer", tokenizer, "--out", tmp_path / "a", *options
    )
    assert code == 0
    ours, theirs = (AutoTokenizer.from_pretrained(f / "model") for f in (tmp_path / "a", pretrained))
    assert ours.get_vocab() == theirs.get_vocab()


@pytest.mark.parametrize("lora", [0, 2])
def test_sft(world, pretrained, tmp_path, in_memory, operant, lora):
    data = ["--data", world / "demonstrations.jsonl", "--epochs", 4, "--batch", 16, "--learning-rate", 1e-2]
    held_out = ["--held-out", 0.1, "--lora", lora]
    code, said, _ = operant("sft", "--model", pretrained, *data, *held_out, "--out", tmp_path / "run", *MACHINE)
    assert code == 0
    assert "demonstrations (prompt, response): 48 records" in said
    metrics = check_run(tmp_path / "run", "sft", in_memory, 12)
    assert metrics[-1]["loss/language_model"] < metrics[0]["loss/language_model"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["demonstrations"] == 44
    assert log_prob(tmp_path / "run", world.prompts[0], world.answer(world.prompts[0])) > log_prob(
        pretrained, world.prompts[0], world.answer(world.prompts[0])
    )


def test_sft_may_hold_out_nothing(world, pretrained, tmp_path, operant):
    data = ["--data", world / "demonstrations.jsonl", "--epochs", 1, "--held-out", 0]
    code, _, _ = operant("sft", "--model", pretrained, *data, "--out", tmp_path / "run", *MACHINE)
    assert code == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {"demonstrations": 48}


def test_sft_on_columns_of_other_names(world, pretrained, tmp_path, operant):
    data = world.write(
        tmp_path / "data.jsonl", [{"title": p, "body": {"text": world.answer(p)}} for p in world.prompts]
    )
    columns = ["--columns", "prompt", "title", "response", "body.text"]
    code, said, _ = operant(
        "sft", "--model", pretrained, "--data", data, *columns, "--out", tmp_path / "run", "--epochs", 1, *MACHINE
    )
    assert code == 0
    assert "demonstrations (title, body.text): 24 records" in said


# Reward models


@pytest.mark.parametrize(
    ("data", "pairs"),
    [("pairs.jsonl", 1), ("rankings.jsonl", 5), ("thumbs.jsonl", 1)],
    ids=["pairs", "K-wise", "thumbs"],
)
def test_reward(world, tuned, tmp_path, in_memory, operant, data, pairs):
    out = tmp_path / "run"
    anchors = ["--demonstrations", world / "demonstrations.jsonl"]
    options = ["--epochs", 2, "--batch", 8, "--learning-rate", 1e-2, "--held-out", 0.25, *anchors, *MACHINE]
    code, _, _ = operant("reward", "--model", tuned, "--data", world / data, "--out", out, *options)
    assert code == 0
    judged = 48 if data == "thumbs.jsonl" else 24
    steps = 2 * -(-(judged * 3 // 4) // 8)
    check_run(out, "reward", in_memory, steps, AutoModelForSequenceClassification)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["held_out"]["pairs"] == pairs * judged // 4
    assert 0 <= summary["held_out"]["accuracy"]["low"] <= summary["held_out"]["accuracy"]["high"] <= 1
    # Demonstrations score 0 on average, with deviation 1.
    model, bpe = common.load_reward(str(out))
    judgements = [Judgement(encode_prompt(bpe, p), encode_response(bpe, world.answer(p)), True) for p in world.prompts]
    scores = score(model, endings(judgements)[0]).squeeze(-1)
    assert abs(scores.mean()) < 1e-4
    assert abs(scores.std(correction=0) - 1) < 1e-4
    # The model is one of transformers': the same score, but for the offset in its config.
    plain = AutoModelForSequenceClassification.from_pretrained(out / "model")
    with torch.no_grad():
        for j, ours in zip(judgements, scores, strict=True):
            theirs = plain(input_ids=torch.tensor([j.prompt + j.response])).logits[0, 0]
            assert abs(theirs - plain.config.operant_score_offset - ours) < 1e-4
    assert plain.config.operant_score_offset == pytest.approx(summary["offset"])


def test_a_reward_model_learns_what_is_better(world, judge):
    model, bpe = common.load_reward(str(judge))
    scores = []
    for p in world.prompts:
        said = [
            Judgement(encode_prompt(bpe, p), encode_response(bpe, r), True) for r in (world.answer(p), world.other(p))
        ]
        scores.append(score(model, endings(said)[0]).squeeze(-1))
    better = torch.stack(scores)
    assert (better[:, 0] > better[:, 1]).float().mean() > 0.6


# Reinforcement


@pytest.fixture
def improve(world, tuned, tmp_path, in_memory, operant) -> Callable[..., tuple[Path, Any]]:
    def run(command: str, *options: object, steps: int = 2) -> tuple[Path, Any]:
        out = tmp_path / "run"
        prompts = ["--prompts", world / "prompts.jsonl"]
        code, said, complained = operant(command, "--model", tuned, *prompts, "--out", out, *options, *RL)
        assert code == 0, complained
        assert "prompts (prompt): 24 records" in said
        metrics = check_run(out, command, in_memory, steps)
        assert metrics[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
        if command == "rlhf":
            assert metrics[0]["policy/ratio"] == pytest.approx(1, abs=0.5)
        summary = json.loads((out / "summary.json").read_text())
        assert summary == {k: v for k, v in metrics[-1].items() if not k.startswith("time/")}
        if "value" in in_memory:
            value = AutoModelForSequenceClassification.from_pretrained(out / "value")
            torch.testing.assert_close(logits(value), in_memory["value"])
        return out, metrics

    return run


def test_rlhf_against_a_reward_model(improve, judge):
    out, _ = improve("rlhf", "--reward", judge, "--minibatch", 4, "--reference-rule", "ziegler")
    assert (out / "value").is_dir()


def test_rlhf_against_a_function_with_another_one_beside_it(improve, world):
    functions = world / "functions.py"
    out, metrics = improve("rlhf", "--reward", f"{functions}:vowels", "--measure", f"{functions}:short")
    assert (out / "value").is_dir()
    assert all(line["objective/measure"] < 0 <= line["objective/score"] + 1 for line in metrics)


def test_rlhf_with_a_value_head_on_the_policy(improve, world):
    out, metrics = improve("rlhf", "--reward", f"{world / 'functions.py'}:vowels", "--value", "shared")
    assert not (out / "value").exists()
    assert all("value/explained_variance" in line for line in metrics)


def test_rlhf_with_pretraining_text(improve, world, judge):
    text = ["--ptx-data", world / "text.jsonl", "--ptx-coefficient", 0.5]
    _, metrics = improve("rlhf", "--reward", judge, *text)
    assert all(line["loss/auxiliary"] > 0 for line in metrics)


@pytest.mark.parametrize("value", ["separate", "shared"])
def test_rlhf_with_lora(improve, judge, tuned, value):
    out, metrics = improve("rlhf", "--reward", judge, "--lora", 2, "--value", value, "--learning-rate", 1e-2)
    assert metrics[-1]["objective/kl"] != 0
    ours, theirs = (AutoModelForCausalLM.from_pretrained(f / "model").state_dict() for f in (out, tuned))
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed
    assert all("proj" in name for name in changed)


@pytest.mark.parametrize("command", ["rloo", "grpo"])
@pytest.mark.parametrize("options", [[], ["--lora", 2, "--ptx-coefficient", 0.5]], ids=["plain", "LoRA and text"])
def test_without_a_value_function(improve, world, judge, command, options):
    text = ["--ptx-data", world / "text.jsonl"] if options else []
    out, metrics = improve(command, "--reward", judge, "--completions", 3, *options, *text)
    assert not (out / "value").exists()
    assert all("value/explained_variance" not in line for line in metrics)
    assert ("loss/auxiliary" in metrics[0]) == bool(options)


def test_a_temperature_is_part_of_the_policy(improve, judge):
    _, metrics = improve("rlhf", "--reward", judge, "--temperature", 0.7)
    assert metrics[0]["objective/kl"] == pytest.approx(0, abs=1e-4)


# Preferences


@pytest.mark.parametrize("data", ["pairs.jsonl", "rankings.jsonl"])
@pytest.mark.parametrize("options", [[], ["--lora", 2], ["--objective", "ipo"]], ids=["plain", "LoRA", "IPO"])
def test_dpo(world, tuned, tmp_path, in_memory, operant, data, options):
    out = tmp_path / "run"
    learning = ["--epochs", 3, "--batch", 8, "--learning-rate", 3e-3, "--warmup", 0]
    code, _, _ = operant("dpo", "--model", tuned, "--data", world / data, "--out", out, *learning, *options, *MACHINE)
    assert code == 0
    metrics = check_run(out, "dpo", in_memory, 9)
    assert metrics[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    if "ipo" not in options:
        assert metrics[0]["loss/dpo"] == pytest.approx(0.6931, abs=1e-3)
    assert metrics[-1]["rewards/margins"] > 0
    p = world.prompts[3]
    before, after = (log_prob(f, p, world.answer(p)) - log_prob(f, p, world.other(p)) for f in (tuned, out))
    assert after > before


# Use


def test_generate_to_a_file(world, tuned, tmp_path, operant):
    out = tmp_path / "new" / "said.jsonl"
    options = ["--prompt", "The sky is", "The sea is", "--completions", 3, "--max-new-tokens", 8]
    code, said, _ = operant("generate", "--model", tuned, *options, "--out", out)
    assert (code, said) == (0, f"6 responses in {out}\n")
    found = read(out)
    assert [line["prompt"] for line in found] == ["The sky is"] * 3 + ["The sea is"] * 3
    assert all(line.keys() == {"prompt", "response"} for line in found)
    # What was written is demonstrations, and can be learned from.
    assert operant("generate", "--model", tuned, *options, "--out", tmp_path / "again.jsonl")[0] == 0
    assert read(tmp_path / "again.jsonl") == found
    assert operant("generate", "--model", tuned, *options, "--seed", 1, "--out", tmp_path / "other.jsonl")[0] == 0
    assert read(tmp_path / "other.jsonl") != found


def test_generate_on_the_screen(world, tuned, operant):
    code, said, complained = operant(
        "generate", "--model", tuned, "--data", world / "prompts.jsonl", "--greedy", True, "--max-new-tokens", 8
    )
    assert (code, complained) == (0, "")
    right = sum(p + world.answer(p) in said.splitlines() for p in world.prompts)
    assert right >= 18, "the model has not learned its demonstrations"


def test_the_best_of_several_scores_higher(world, tuned, judge, tmp_path, operant):
    options = ["--data", world / "prompts.jsonl", "--max-new-tokens", 8, "--temperature", 1.3]
    means = []
    for name, more in (("one", []), ("best", ["--best-of", 8, "--reward", judge])):
        out = tmp_path / f"{name}.jsonl"
        assert operant("generate", "--model", tuned, *options, *more, "--out", out)[0] == 0
        model, bpe = common.load_reward(str(judge))
        said = [
            Judgement(encode_prompt(bpe, line["prompt"]), encode_response(bpe, line["response"]), True)
            for line in read(out)
        ]
        assert len(said) == 24
        means.append(score(model, endings(said)[0]).mean().item())
    assert means[1] > means[0] + 0.5


@pytest.mark.parametrize(("data", "pairs"), [("pairs.jsonl", 24), ("rankings.jsonl", 120), ("thumbs.jsonl", 48)])
def test_evaluate_a_reward_model(world, judge, tmp_path, operant, data, pairs):
    out = tmp_path / "new" / "figures.json"
    code, said, _ = operant("evaluate", "--reward", judge, "--data", world / data, "--out", out)
    assert code == 0
    found = json.loads(out.read_text())
    assert json.loads(said[said.index("{\n") :]) == found
    assert found["pairs"] == pairs
    assert found["accuracy"]["low"] <= found["accuracy"]["mean"] <= found["accuracy"]["high"]


def test_evaluate_one_model_against_another(world, tuned, pretrained, judge, operant):
    """A model that stops beats one that does not, under a judge who likes brevity."""
    options = ["--data", world / "prompts.jsonl", "--max-new-tokens", 12]
    players = ["--model", tuned, "--against", pretrained]
    code, said, _ = operant("evaluate", *players, "--judge", f"{world / 'functions.py'}:short", *options)
    assert code == 0
    found = json.loads(said[said.index("{\n") :])
    assert found["wins"] + found["losses"] + found["ties"] == 24
    assert found["win_rate"]["mean"] == pytest.approx((found["wins"] + found["ties"] / 2) / 24)
    code, said, _ = operant(
        "evaluate", "--model", tuned, "--against", tuned, "--judge", judge, "--greedy", True, *options
    )
    assert code == 0
    even = json.loads(said[said.index("{\n") :])
    assert (even["ties"], even["win_rate"]["mean"]) == (24, 0.5)
    assert even["mean_score"] == even["mean_score_against"]


def test_models_of_different_contexts_and_tokenizers_can_be_compared(world, tuned, tmp_path, operant):
    shape = ["--width", 16, "--layers", 1, "--heads", 2, "--context", 24, "--vocabulary", 280]
    small = tmp_path / "small"
    assert operant("pretrain", "--data", world / "text.jsonl", "--out", small, "--epochs", 1, *shape, *MACHINE)[0] == 0
    long = world.write(tmp_path / "prompts.jsonl", [{"prompt": p} for p in [*world.prompts, "The sky is " * 5]])
    judged = ["--judge", f"{world / 'functions.py'}:vowels", "--data", long, "--max-new-tokens", 8]
    code, said, complained = operant("evaluate", "--model", tuned, "--against", small, *judged)
    assert code == 0, complained
    assert "1 of 25 prompts are longer than the model's context of 24 tokens allows beside 8 new ones: left out" in said
    assert sum(json.loads(said[said.index("{\n") :])[key] for key in ("wins", "losses", "ties")) == 24


def test_report(tuned, judge, tmp_path, operant):
    code, said, _ = operant("report", tuned)
    assert (code, said) == (0, f"the report is {tuned / 'report.html'}\n")
    assert "<html" in (tuned / "report.html").read_text()
    out = tmp_path / "new" / "both.html"
    code, said, complained = operant("report", tuned, judge, "--out", out)
    assert code == 0, complained
    page = out.read_text()
    assert "tuned" in page
    assert "judge" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_finished_run_has_nothing_to_resume(tuned, judge, operant):
    for out, command in ((tuned, "sft"), (judge, "reward")):
        before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
        assert operant(command, "--out", out, "--resume") == (0, f"{out} is finished; nothing to resume\n", "")
        assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_what_was_measured_is_kept(world, pretrained, tmp_path):
    """Threads and types that were not asked for are measured, and stand in config.toml."""
    out = tmp_path / "run"
    prompts = ["--prompts", str(world / "prompts.jsonl"), "--reward", f"{world / 'functions.py'}:short"]
    steps = ["--iterations", "1", "--rollout", "4", "--max-new-tokens", "4", "--missing-stop-score", "none"]
    main(["rlhf", "--model", str(pretrained), *prompts, "--out", str(out), *steps])
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["machine"]["threads"] >= 1
    assert config["machine"]["dtype"] in ("float32", "bfloat16")
    assert config["world"]["decoding_dtype"] in ("float32", "bfloat16")
    assert config["world"]["missing_stop_score"] == "none"
