"""Whatever is wrong is said in one line, with exit code 2, before work begins; nothing half-done is left."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from operant.cli import common
from operant.experiment import checkpoint
from operant.experiment.log import Log
from operant.text.tokenizer import train_tokenizer

MACHINE = ["--threads", "1", "--dtype", "float32"]
FEW = ["--max-new-tokens", 8]
SHORT = [*FEW, "--iterations", 2, "--rollout", 8, "--decoding-dtype", "float32", *MACHINE]

Refused = Callable[..., str]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def refused(operant, out) -> Refused:
    """The message of a command that must fail, without "operant: ". It writes to `out`, which must not appear."""

    def run(command: str, *arguments: object) -> str:
        taken = out.exists()
        writes = [] if command in ("report", "evaluate") else ["--out", out]
        code, _, complained = operant(command, *arguments, *writes)
        assert code == 2, complained
        assert complained.startswith("operant: ")
        assert complained.endswith("\n")
        assert len(complained.splitlines()) == 1, complained
        assert "Traceback" not in complained
        assert taken or not out.exists()
        return complained.removeprefix("operant: ").rstrip("\n")

    return run


def models(folder: Path) -> dict[str, Any]:
    """All weights in a run folder's models."""
    found = sorted(folder.glob("*/model.safetensors"))
    assert found
    return {f"{path.parent.name}.{name}": x for path in found for name, x in load_file(path).items()}


def same(ours: Path, theirs: Path) -> bool:
    a, b = models(ours), models(theirs)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if not name.startswith("time/")} for line in lines]


# Data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "{}: there is no such file or folder; check the path"),
        ("", "{}: no records, it is empty; check that this is the file you mean"),
        ("\n\n", "{}: no records, it is empty"),
        ('{"prompt": "a", "response": "b"}\n{"prompt": "a", "respo', "{}:2: broken JSON at column 17"),
        ("[1, 2]\n", "{}:1: not an object with named columns: [1, 2]"),
        (
            '{"headline": "a", "body": "b"}\n',
            "{}:1: unknown columns: headline, body. Accepted: prompt, chosen, rejected",
        ),
        ('{"prompt": "a", "response": "b"}\n{"prompt": "a", "response": " "}\n', "{}:2: empty response"),
        ('{"prompt": "a", "response": "b"}\n{"prompt": " ", "response": "b"}\n', "{}:2: empty prompt"),
        ('{"prompt": "a", "response": 3}\n', "{}:1: response is not text: it is 3"),
        ('{"prompt": "a", "response": "b"}\n{"text": "a"}\n', "{}:2: not demonstration or chat data"),
        ('{"text": "a"}\n', "{}:1: not demonstration or chat data: this is text data"),
        (b'{"prompt": "a", "response": "b"}\n{"prompt": "caf\xe9", "response": "b"}\n', "{}:2: not UTF-8"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
            "the records are",
        ),
    ],
    ids=lambda x: str(x)[:24],
)
def test_data_that_cannot_be_learned_from(tuned, tmp_path, refused, content, said):
    file = tmp_path / "data.jsonl"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused("sft", "--model", tuned, "--data", file).startswith(said.format(file))


def test_the_same_files_are_refused_by_every_command(world, tuned, judge, tmp_path, refused):
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "a"}\n{"text"\n')
    said = f"{file}:2: broken JSON at column 8"
    assert refused("pretrain", "--data", file).startswith(said)
    prompts = ["--prompts", world / "prompts.jsonl", "--reward", judge, "--max-new-tokens", 8]
    text = ["--ptx-data", file, "--ptx-coefficient", 1]
    assert refused("rlhf", "--model", tuned, *prompts, *text).startswith(said)
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt"\n')
    said = f"{file}:2: broken JSON at column 10"
    for command in ("reward", "dpo", "sft"):
        assert refused(command, "--model", tuned, "--data", file).startswith(said)
    for command in ("rlhf", "rloo", "grpo"):
        assert refused(command, "--model", tuned, "--reward", judge, "--prompts", file).startswith(said)
    assert refused("generate", "--model", tuned, "--data", file).startswith(said)
    assert refused("evaluate", "--reward", judge, "--data", file).startswith(said)
    players = ["--model", tuned, "--against", tuned, "--judge", judge]
    assert refused("evaluate", *players, "--data", file).startswith(said)


def test_a_folder_without_data(tuned, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    assert "there is no data file in this folder; accepted: .jsonl" in refused(
        "sft", "--model", tuned, "--data", tmp_path / "empty"
    )


def test_a_column_that_is_not_there(world, tuned, refused):
    data = ["--data", world / "demonstrations.jsonl", "--columns", "prompt", "question"]
    assert "missing column: 'question', named for prompt; the columns are prompt, response" in refused(
        "sft", "--model", tuned, *data
    )


@pytest.mark.parametrize("command", ["reward", "dpo"])
def test_chosen_equal_to_rejected(world, tuned, tmp_path, refused, command):
    file = world.write(
        tmp_path / "pairs.jsonl",
        [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "b"}],
    )
    said = refused(command, "--model", tuned, "--data", file)
    assert said.startswith(f'{file}:2: chosen equals rejected: "b"')


@pytest.mark.parametrize("command", ["reward", "dpo", "evaluate"])
def test_nothing_but_ties(world, tuned, judge, tmp_path, refused, command):
    file = world.write(
        tmp_path / "ties.jsonl", [{"prompt": p, "responses": ["b", "c"], "ranks": [1, 1]} for p in world.prompts]
    )
    model = ["--reward", judge] if command == "evaluate" else ["--model", tuned]
    assert "is a tie" in refused(command, *model, "--data", file)


@pytest.mark.parametrize("command", ["sft", "reward"])
def test_one_prompt_cannot_be_split(world, tuned, tmp_path, refused, command):
    row = {"prompt": "a", "response": "b"} | ({"label": 1} if command == "reward" else {})
    said = refused(command, "--model", tuned, "--data", world.write(tmp_path / "one.jsonl", [row]))
    assert "nothing can be held out, there is only one prompt" in said


def test_one_text_cannot_be_split(world, tmp_path, refused):
    file = world.write(tmp_path / "one.jsonl", [{"text": "all there is"}])
    assert "give at least one more" in refused("pretrain", "--data", file, "--vocabulary", 300)


def test_the_scale_of_a_score_needs_more_than_one_demonstration(world, tuned, tmp_path, refused):
    one = world.write(tmp_path / "one.jsonl", [{"prompt": "a", "response": "b"}])
    data = ["--data", world / "pairs.jsonl", "--demonstrations", one]
    assert "give 2 or more" in refused("reward", "--model", tuned, *data)


# Length


LONG = "The sky is " * 12


def test_records_that_are_too_long_are_counted_and_left_out(world, tuned, judge, tmp_path, operant):
    pairs = [{"prompt": p, "chosen": world.answer(p), "rejected": world.other(p)} for p in world.prompts]
    pairs = world.write(tmp_path / "pairs.jsonl", [*pairs, {"prompt": LONG, "chosen": " b.", "rejected": " c."}])
    said = "1 of 25 {} are longer than the model's context of 48 tokens{}: left out\n"
    beside = " allows beside 8 new ones"
    few = ["--epochs", 1, *MACHINE]
    for name, command, what, more in (
        ("sft", ["sft", "--model", tuned, "--data", pairs, *few], "demonstrations", ""),
        ("reward", ["reward", "--model", tuned, "--data", pairs, *few], "judgements", ""),
        ("dpo", ["dpo", "--model", tuned, "--data", pairs, *few], "comparisons", ""),
        ("rlhf", ["rlhf", "--model", tuned, "--prompts", pairs, "--reward", judge, *SHORT], "prompts", beside),
        ("x.jsonl", ["generate", "--model", tuned, "--data", pairs, "--max-new-tokens", 8], "prompts", beside),
    ):
        code, heard, complained = operant(*command, "--out", tmp_path / name)
        assert code == 0, complained
        assert said.format(what, more) in heard
    assert operant("evaluate", "--reward", judge, "--data", pairs)[1].count(said.format("judgements", "")) == 1


def test_a_long_record_that_would_be_held_out_does_no_harm(world, tuned, tmp_path, operant):
    """All that is too long goes before the split: else the only record held out might be that one."""
    rows = [{"prompt": p + LONG, "response": " b."} for p in world.prompts[:20]]
    rows += [{"prompt": p, "response": " b."} for p in world.prompts[20:]]
    file = world.write(tmp_path / "data.jsonl", rows)
    for seed in range(3):
        options = ["--data", file, "--held-out", 0.05, "--epochs", 1, "--seed", seed, *MACHINE]
        code, heard, complained = operant("sft", "--model", tuned, *options, "--out", tmp_path / f"run{seed}")
        assert code == 0, complained
        assert "20 of 24 demonstrations are longer" in heard


@pytest.mark.parametrize("command", ["sft", "reward", "dpo"])
def test_all_records_are_too_long(world, tuned, tmp_path, refused, command):
    file = world.write(
        tmp_path / "long.jsonl", [{"prompt": LONG + p, "chosen": " b.", "rejected": " c."} for p in world.prompts]
    )
    said = refused(command, "--model", tuned, "--data", file)
    assert said.startswith("all 24 ")
    assert (
        "are longer than the model's context of 48 tokens: use shorter ones, or a model with a longer context" in said
    )


def test_no_room_for_an_answer(world, tuned, judge, refused):
    prompts, much = world / "prompts.jsonl", ["--max-new-tokens", 100]
    said = "all 24 prompts are longer than the model's context of 48 tokens allows beside 100 new ones: use shorter"
    for command in ("rlhf", "rloo", "grpo"):
        assert refused(command, "--model", tuned, "--prompts", prompts, "--reward", judge, *much).startswith(said)
    assert refused("generate", "--model", tuned, "--data", prompts, *much).startswith(said)
    players = ["--model", tuned, "--against", tuned, "--judge", judge]
    assert refused("evaluate", *players, "--data", prompts, *much).startswith(said)
    assert refused("generate", "--model", tuned, "--prompt", "The sky is", *much) == (
        "a prompt and 100 new tokens take 105 tokens, the context is 48: lower --max-new-tokens or shorten the prompt"
    )


# Models and tokenizers


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run / "model", folder))


def test_a_model_that_is_not_there(world, tuned, judge, tmp_path, refused):
    data, prompts = ["--data", world / "demonstrations.jsonl"], ["--prompts", world / "prompts.jsonl"]
    where = tmp_path / "nowhere"
    said = f"there is no model folder {where}. Give a model folder, a run or a hub name"
    assert refused("sft", "--model", where, *data) == said
    assert refused("rlhf", "--model", tuned, "--reward", where, *prompts) == said
    assert refused("generate", "--model", where, "--prompt", "a") == said
    assert refused("evaluate", "--reward", where, *data) == said


def test_a_name_that_neither_this_place_nor_the_hub_knows(world, refused):
    data = ["--data", world / "demonstrations.jsonl"]
    assert refused("sft", "--model", "no-such-model-1", *data).startswith(
        "there is no folder no-such-model-1, and the hub's no-such-model-1 cannot be loaded as a causal language model:"
    )


def test_a_run_that_is_not_finished_has_no_model(world, tmp_path, refused):
    run = tmp_path / "run"
    run.mkdir()
    data = ["--data", world / "demonstrations.jsonl"]
    said = f"{run} holds no model: there is no config.json in it"
    assert refused("sft", "--model", run, *data).startswith(f"{said}. Give")
    (run / "config.toml").touch()
    assert refused("sft", "--model", run, *data).startswith(f"{said} (the run is not finished?). Give")


def test_a_model_that_is_damaged(world, tuned, tmp_path, refused):
    data = ["--data", world / "demonstrations.jsonl"]
    for name, content, said in (
        ("config.json", b"{", "cannot be read"),
        ("config.json", b"[]", "cannot be read"),
        ("model.safetensors", b"no tensors", "cannot be loaded as a causal language model"),
        ("model.safetensors", (tuned / "model" / "model.safetensors").read_bytes()[:-100], "cannot be loaded as"),
        ("tokenizer.json", None, "no tokenizer in"),
    ):
        broken = copy_of(tuned, tmp_path / "broken")
        (broken / name).unlink()
        if content is not None:
            (broken / name).write_bytes(content)
        assert said in refused("sft", "--model", broken, *data)
        shutil.rmtree(broken)


def test_a_reward_model_is_no_policy_and_a_policy_no_reward_model(world, tuned, judge, refused):
    prompts = ["--prompts", world / "prompts.jsonl"]
    assert refused("rlhf", "--model", judge, "--reward", judge, *prompts) == (
        f"{judge} holds a LlamaForSequenceClassification, which is not a causal language model. "
        "Give a causal language model"
    )
    said = f"{tuned} holds a LlamaForCausalLM, which is not a reward model. Give a reward model"
    assert refused("rlhf", "--model", tuned, "--reward", tuned, *prompts) == said
    assert refused("evaluate", "--reward", tuned, "--data", world / "pairs.jsonl") == said
    assert refused("generate", "--model", tuned, "--prompt", "a", *FEW, "--best-of", 2, "--reward", tuned) == said


def test_a_classifier_of_several_labels_is_no_reward_model(world, tuned, tmp_path, refused):
    from transformers import AutoModelForSequenceClassification

    folder = copy_of(tuned, tmp_path / "classes")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    model.save_pretrained(folder)
    prompts = ["--prompts", world / "prompts.jsonl"]
    assert f"{folder} has 3 labels, a reward model has one" in refused(
        "rlhf", "--model", tuned, "--reward", folder, *prompts
    )


def test_a_vocabulary_that_does_not_fit_the_model(world, tuned, tmp_path, refused):
    folder = copy_of(tuned, tmp_path / "other")
    texts = [f"{p}{world.answer(p)} {i}" for i, p in enumerate(world.prompts * 40)]
    train_tokenizer(texts, 330).save_pretrained(folder)
    said = f"the tokenizer has 330 entries, the model in {folder} embeds 300: they do not belong together"
    assert refused("sft", "--model", folder, "--data", world / "demonstrations.jsonl").startswith(said)
    assert refused("generate", "--model", folder, "--prompt", "a").startswith(said)


def test_a_reward_model_of_another_tokenizer(world, tuned, judge, tmp_path, refused):
    folder = copy_of(judge, tmp_path / "other")
    train_tokenizer(["entirely different words"] * 9, 270).save_pretrained(folder)
    said = f"the reward model {folder} has another tokenizer than the policy"
    prompts = world / "prompts.jsonl"
    assert refused("rlhf", "--model", tuned, "--prompts", prompts, "--reward", folder).startswith(said)
    players = ["--model", tuned, "--against", tuned, "--judge", folder]
    assert refused("evaluate", *players, "--data", prompts, *FEW).startswith(said)
    best = ["--best-of", 2, "--reward", folder, *FEW]
    assert refused("generate", "--model", tuned, "--prompt", "a", *best).startswith(said)


def test_a_tokenizer_without_eos(world, tuned, tmp_path, refused):
    folder = copy_of(tuned, tmp_path / "other")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    assert "has no EOS token" in refused("sft", "--model", folder, "--data", world / "demonstrations.jsonl")


def test_a_tokenizer_whose_pad_is_its_eos_works_the_same(world, tuned, tmp_path, operant):
    twin = copy_of(tuned, tmp_path / "twin")
    tokenizer = common.load_causal(str(twin))[1]
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(twin)
    for name in ("config.json", "generation_config.json"):
        config = json.loads((twin / name).read_text())
        (twin / name).write_text(json.dumps({**config, "pad_token_id": tokenizer.eos_token_id}))
    assert common.load_causal(str(twin))[1].pad_token_id == tokenizer.eos_token_id

    def both(name: str, *command: object) -> list[Path]:
        found = []
        for model in (tuned, twin):
            folder = tmp_path / f"{name}-{model.name}"
            code, _, complained = operant(*command, "--model", model, "--out", folder)
            assert code == 0, complained
            found.append(folder)
        return found

    few = ["--epochs", 2, "--batch", 8, *MACHINE]
    judges = both("reward", "reward", "--data", world / "rankings.jsonl", *few)
    for ours, theirs in (
        judges,
        both("sft", "sft", "--data", world / "demonstrations.jsonl", *few),
        both("dpo", "dpo", "--data", world / "pairs.jsonl", *few),
        both("rlhf", "rlhf", "--prompts", world / "prompts.jsonl", "--reward", judges[1], *SHORT),
    ):
        assert metrics(ours) == metrics(theirs)
        assert same(ours, theirs)
    ours, theirs = both("said.jsonl", "generate", "--data", world / "prompts.jsonl", "--max-new-tokens", 8)
    assert ours.read_text() == theirs.read_text()
    right = sum(line["response"] == world.answer(line["prompt"]) for line in world.read(ours))
    assert right >= 12


# Rewards in Python


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{}/nowhere.py:f", "the file of the reward function, {}/nowhere.py, does not exist"),
        ("{}/functions.py:nothing", "{}/functions.py has no function nothing"),
        ("{}/broken.py:f", "the reward function {}/broken.py:f cannot be imported: SyntaxError"),
        ("no_such_module_1:f", "the reward function no_such_module_1:f cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_reward_function_that_is_not_there(world, tuned, refused, name, said):
    (world / "broken.py").write_text("def f(:\n")
    name, said = name.format(world.folder), said.format(world.folder)
    prompts = ["--prompts", world / "prompts.jsonl", *FEW]
    assert refused("rlhf", "--model", tuned, *prompts, "--reward", name).startswith(said)
    good = f"{world / 'functions.py'}:short"
    assert refused("rlhf", "--model", tuned, *prompts, "--reward", good, "--measure", name).startswith(said)


MOODY = """
from pathlib import Path
calls = 0
def moody(prompts, responses):
    global calls
    calls += 1
    scores = [float(len(r)) for r in responses]
    if calls == 3 and Path(__file__).with_name("broken").exists():
        FAULT
    return scores
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("scores[5] = float('nan')", "the reward function moody returned nan for "),
        ("scores[5] = float('inf')", "the reward function moody returned inf for "),
        ("raise KeyError('colour')", "the reward function moody raised KeyError: 'colour'"),
        ("scores.pop()", "the reward function moody returned 7 scores for 8 responses"),
        ("return None", "the reward function moody raised TypeError"),
    ],
    ids=["nan", "infinity", "raises", "too few", "none"],
)
def test_a_reward_function_that_fails_on_the_way_can_be_mended(world, tuned, tmp_path, operant, fault, said):
    function = tmp_path / "moody.py"
    function.write_text(MOODY.replace("FAULT", fault))
    prompts = ["--prompts", world / "prompts.jsonl", "--reward", f"{function}:moody", "--rollout", 8]
    steps = ["--max-new-tokens", 8, "--iterations", 4, "--checkpoint-every", 1, "--decoding-dtype", "float32"]
    command = ["rlhf", "--model", tuned, *prompts, *steps, *MACHINE]
    assert operant(*command, "--out", tmp_path / "whole")[0] == 0
    (tmp_path / "broken").touch()
    code, _, complained = operant(*command, "--out", tmp_path / "run")
    assert code == 2
    assert complained.splitlines()[-1].startswith(f"operant: {said}")
    assert not any("operant: " in line for line in complained.splitlines()[:-1])
    if "nan" in fault:
        assert any(f"after {p!r}" in complained for p in world.prompts)
    assert len(metrics(tmp_path / "run")) == 2
    assert not (tmp_path / "run" / "model").exists()
    (tmp_path / "broken").unlink()
    code, _, complained = operant("rlhf", "--out", tmp_path / "run", "--resume")
    assert code == 0, complained
    assert same(tmp_path / "run", tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


# Settings


def test_settings_that_contradict_each_other(world, tuned, judge, refused):
    base = ["--model", tuned, "--prompts", world / "prompts.jsonl", "--reward", judge, *FEW]
    text = ["--ptx-data", world / "text.jsonl"]
    for command, more, said in (
        ("rlhf", ["--value", "both"], 'the value function is "separate" or "shared", not \'both\''),
        ("rlhf", ["--value", "none"], "the policy has no value function and value_coefficient is 0.1"),
        ("rlhf", ["--ptx-coefficient", 1], "--ptx-coefficient mixes in pretraining text: say which with --ptx-data"),
        ("grpo", ["--ptx-coefficient", 1], "--ptx-coefficient mixes in pretraining text: say which with --ptx-data"),
        ("rlhf", text, "--ptx-data mixes in pretraining text: say how much with --ptx-coefficient"),
        ("rlhf", ["--old-policy-target", 0.1], "old_policy_target 0.1 steers the KL penalty of objective"),
        ("rloo", ["--completions", 1], "completions is 1: a response is judged by the others to its prompt"),
        ("grpo", ["--gamma", 0.9], "gamma is 0.9, but without a value function it does nothing"),
        ("rlhf", ["--seed", 2**32], f"the seed is {2**32}: give a whole number from 0 to {2**32 - 1}"),
    ):
        assert refused(command, *base, *more).startswith(said)
    dpo = ["--model", tuned, "--data", world / "pairs.jsonl"]
    smooth = ["--objective", "ipo", "--label-smoothing", 0.1]
    assert refused("dpo", *dpo, *smooth).startswith("label_smoothing is 0.1, and objective")
    text = ["--data", world / "text.jsonl"]
    for more, said in (
        (["--vocabulary", 100], "a vocabulary of 100 entries is too small"),
        (["--width", 18, "--heads", 4], "a width of 18 cannot be shared by 4 heads: give a multiple of 8"),
        (["--width", 20, "--heads", 4], "a width of 20 cannot be shared by 4 heads: give a multiple of 8"),
        (["--context", 1], "the context is 1: a token and the one that follows it need 2"),
    ):
        assert refused("pretrain", *text, *more).startswith(said)


def test_a_temperature_of_0(world, tuned, judge, refused):
    prompts = world / "prompts.jsonl"
    cold = ["--temperature", 0, *FEW]
    for command in ("rlhf", "rloo", "grpo"):
        said = refused(command, "--model", tuned, "--prompts", prompts, "--reward", judge, *cold)
        assert said.startswith("the sampling temperature is 0.0; give one above 0")
    assert refused("generate", "--model", tuned, "--data", prompts, *cold) == (
        "the temperature is 0.0: it must be above 0; --greedy takes the likeliest token"
    )
    players = ["--model", tuned, "--against", tuned, "--judge", judge]
    assert refused("evaluate", *players, "--data", prompts, *cold).startswith("the sampling temperature is 0.0")


def test_a_settings_file_that_is_none(world, tuned, tmp_path, refused):
    base = ["--model", tuned, "--data", world / "demonstrations.jsonl"]
    file = tmp_path / "settings.toml"
    assert refused("sft", *base, "--config", file) == f"the settings file {file} does not exist"
    file.write_text("epochs: 3\n")
    assert refused("sft", *base, "--config", file).startswith(f"{file} is no TOML: ")
    file.write_text("[sft]\nepoch = 3\n")
    assert refused("sft", *base, "--config", file) == f"{file}: there is no setting sft.epoch; did you mean epochs?"


def test_what_is_missing_is_asked_for(tuned, judge, world, refused):
    data = ["--data", world / "prompts.jsonl"]
    both = "give --reward to test a reward model, or --model, --against and --judge for a win rate"
    for more in ([], ["--model", tuned], ["--model", tuned, "--reward", judge], ["--judge", judge, "--model", tuned]):
        assert refused("evaluate", *data, *more) == both
    assert refused("generate", "--model", tuned) == "no prompts: give --prompt TEXT or --data FILE"
    assert "give --reward" in refused("generate", "--model", tuned, "--prompt", "a", "--best-of", 2, *FEW)
    assert refused("report").startswith("say which run folders to report on")


# Folders


def test_a_run_folder_that_is_taken(world, tuned, out, refused):
    command = ["sft", "--model", tuned, "--data", world / "demonstrations.jsonl"]
    out.mkdir()
    (out / "config.toml").write_text("[run]\nalgorithm = 'dpo'\n")
    before = sorted(out.iterdir())
    assert refused(*command) == (f"the run folder {out} exists; --resume continues it, another --out starts a new one")
    assert (
        refused(*command, "--resume") == f"{out / 'config.toml'} belongs to a run of dpo, not of sft; use operant dpo"
    )
    (out / "config.toml").rename(out / "notes.txt")
    assert refused(*command) == f"{out} exists and holds something that is no run; another --out starts a new one"
    assert [p.name for p in out.iterdir()] == ["notes.txt"]
    assert len(before) == 1
    shutil.rmtree(out)
    out.write_text("a file")
    assert "exists and holds something that is no run" in refused(*command)
    assert out.read_text() == "a file"


def test_a_file_of_responses_is_not_overwritten(tuned, out, refused):
    out.write_text("mine")
    command = ["generate", "--model", tuned, "--prompt", "a", "--max-new-tokens", 8]
    assert refused(*command) == f"{out} exists: give another name, nothing is overwritten"
    assert out.read_text() == "mine"


def test_an_empty_folder_is_free(world, tuned, out, operant):
    out.mkdir()
    data = ["--data", world / "demonstrations.jsonl", "--epochs", 1, *MACHINE]
    assert operant("sft", "--model", tuned, *data, "--out", out)[0] == 0


def test_a_checkpoint_of_another_algorithm(world, tuned, tmp_path, out, operant, refused):
    few = ["--epochs", 1, *MACHINE]
    sft = ["sft", "--model", tuned, "--data", world / "demonstrations.jsonl", *few]
    dpo = ["dpo", "--model", tuned, "--data", world / "pairs.jsonl", *few]
    assert operant(*sft, "--out", tmp_path / "sft")[0] == 0
    assert operant(*dpo, "--out", out)[0] == 0
    for path in (out / "checkpoints", out / "model"):
        shutil.rmtree(path)
    (out / "summary.json").unlink()
    shutil.copytree(tmp_path / "sft" / "checkpoints", out / "checkpoints")
    said = refused("dpo", "--resume")
    assert "is a checkpoint of sft and this run is dpo; continue it with sft, or choose another folder" in said
    assert not (out / "model").exists()


def test_data_that_changed_since_the_run_began(world, tuned, tmp_path, out, operant, refused):
    data = tmp_path / "demonstrations.jsonl"
    lines = (world / "demonstrations.jsonl").read_text().splitlines(keepends=True)
    data.write_text("".join(lines))
    assert operant("sft", "--model", tuned, "--data", data, "--epochs", 1, *MACHINE, "--out", out)[0] == 0
    (out / "summary.json").unlink()
    data.write_text("".join(reversed(lines)))
    assert "to resume, the data must be as they were; put them back, or start anew" in refused("sft", "--resume")
    data.write_text("".join(lines))
    assert operant("sft", "--out", out, "--resume")[0] == 0


def test_a_checkpoint_of_another_shape(world, tuned, tmp_path, out, operant, refused):
    """The model that a run began from was replaced in the meantime."""
    begun = copy_of(tuned, tmp_path / "begun")
    data = ["--data", world / "demonstrations.jsonl", "--epochs", 1, *MACHINE]
    assert operant("sft", "--model", begun, *data, "--out", out)[0] == 0
    (out / "summary.json").unlink()
    shutil.rmtree(begun)
    shape = ["--width", 24, "--layers", 1, "--heads", 2, "--context", 48, "--tokenizer", tuned / "model"]
    text = ["--data", world / "text.jsonl", "--epochs", 1, *MACHINE]
    assert operant("pretrain", *text, *shape, "--out", tmp_path / "other")[0] == 0
    shutil.copytree(tmp_path / "other" / "model", begun)
    assert "does not fit this run" in refused("sft", "--resume")


# A disk that fills

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def small_run(world, tuned) -> list[object]:
    data = ["--data", world / "demonstrations.jsonl", "--epochs", 2, "--batch", 16, "--checkpoint-every", 2]
    return ["sft", "--model", tuned, *data, *MACHINE]


def fails(operant: Any, out: Path, *command: object) -> None:
    """The command says that the disk is full, and leaves no model."""
    code, _, complained = operant(*command)
    assert code == 2
    assert "the disk is full; make room and try again; a run goes on with --resume" in complained
    assert complained.splitlines()[-1].startswith("operant: cannot write ")
    assert not (out / "model").exists()
    assert not (out / "summary.json").exists()


def test_the_disk_is_full_from_the_start(small_run, out, operant, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(FULL))
        fails(operant, out, *small_run, "--out", out)
    assert not list(out.iterdir())
    assert operant(*small_run, "--out", out)[0] == 0


@pytest.mark.parametrize("after", [0, 1, 2])
def test_the_disk_fills_while_a_checkpoint_is_written(small_run, tmp_path, out, operant, monkeypatch, after):
    written = []

    def save_file(tensors: Any, path: Path) -> None:
        if len(written) == after:
            Path(path).write_bytes(b"half of it")
            raise FULL
        written.append(path)
        real(tensors, path)

    real = checkpoint.save_file
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save_file)
        fails(operant, out, *small_run, "--out", out)
    assert len(list((out / "checkpoints").glob("*/state.json"))) == after
    assert not list(out.rglob("*.partial"))
    resume_equals_whole(operant, small_run, tmp_path, out)


def test_the_disk_fills_while_the_model_is_written(small_run, tmp_path, out, operant, monkeypatch):
    from transformers import PreTrainedModel

    real = PreTrainedModel.save_pretrained

    def save_pretrained(self: Any, folder: Path, **options: Any) -> None:
        real(self, folder, **options)
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", save_pretrained)
        fails(operant, out, *small_run, "--out", out)
    assert not list(out.glob(".*")), "what was half-written takes up the room that is wanted"
    resume_equals_whole(operant, small_run, tmp_path, out)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["config.toml", "summary.json"])
def test_a_device_that_is_really_full(small_run, tmp_path, out, operant, name):
    out.mkdir()
    (out / f".{name}.partial").symlink_to("/dev/full")
    code, _, complained = operant(*small_run, "--out", out)
    assert code == 2
    assert complained.splitlines()[-1] == (
        f"operant: cannot write {out / name}: the disk is full; make room and try again; a run goes on "
        "with --resume, and what it saved before is intact"
    )
    assert not (out / "summary.json").exists()
    assert not list(out.glob(".*"))
    if name == "config.toml":
        assert operant(*small_run, "--out", out)[0] == 0
    else:
        resume_equals_whole(operant, small_run, tmp_path, out)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_disk_fills_while_metrics_are_written(small_run, tmp_path, out, operant, monkeypatch):
    real = Log.write

    def write(log: Log, step: int, values: Any) -> None:
        if step == 3:
            os.dup2(full, log.file.fileno())
        real(log, step, values)

    full = os.open("/dev/full", os.O_WRONLY)
    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", write)
        fails(operant, out, *small_run, "--out", out)
    os.close(full)
    assert len(metrics(out)) == 2
    resume_equals_whole(operant, small_run, tmp_path, out)


def resume_equals_whole(operant: Any, command: list[object], tmp_path: Path, out: Path) -> None:
    code, _, complained = operant("sft", "--resume", "--out", out)
    assert code == 0, complained
    assert operant(*command, "--out", tmp_path / "whole")[0] == 0
    assert same(out, tmp_path / "whole")
    assert metrics(out) == metrics(tmp_path / "whole")


def test_a_place_that_may_not_be_written(tuned, tmp_path, operant):
    """As root everything may be written, so the folder stands where a file is."""
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "said.jsonl"
    code, _, complained = operant("generate", "--model", tuned, "--prompt", "a", "--max-new-tokens", 4, "--out", where)
    assert code == 2
    assert complained.startswith(f"operant: cannot write {where}: ")


def test_compiling_without_a_compiler(world, pretrained, refused, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    data = world / "demonstrations.jsonl"
    said = refused("sft", "--model", pretrained, "--data", data, "--compile", "True")
    assert said.startswith("--compile needs a C++ compiler")
