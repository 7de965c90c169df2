"""`operant rlhf`, and what `operant rloo` and `operant grpo` share with it: improve a model against a reward."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import rlhf as algorithm
from operant.cli import common
from operant.cli.pretrain import documents, texts
from operant.core.errors import InputError
from operant.text.language_model import LanguageModel, context_limit, frozen, value_head
from operant.text.rewards import Reward, function_reward, load_function, model_reward
from operant.text.sampling import fastest_decoding_dtype
from operant.text.tokenizer import stop_ids
from operant.text.world import PromptWorld


@dataclasses.dataclass(frozen=True)
class World:
    """The prompts and what an answer is worth."""

    prompts: str
    """Prompts: a file, a folder or a hub name; of demonstrations or comparisons the prompts are taken."""
    reward: str
    """What to maximise: a reward model (folder, run or hub name), or a Python function, file.py:name or module:name."""
    max_new_tokens: int = 64
    """Longest answer."""
    temperature: float = 1.0
    """Sampling temperature, part of the policy everywhere; no top-k or top-p: they would falsify the log-probs."""
    missing_stop_score: float | None = -1.0
    """Score of an answer that did not end, in place of its own; none = its own score."""
    decoding_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights while sampling; auto = measured."""
    measure: str | None = None
    """A Python function that is logged beside the reward and never optimised."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Improvement:
    """What every command needs that improves a model against a reward."""

    model: str
    """Model to improve, and reference: a model folder, a run or a hub name."""
    lora: int = 0
    """Rank of LoRA adapters; 0 trains all weights. The reference is then the model without them."""
    ptx_data: tuple[str, ...] = ()
    """Pretraining text to mix in (PPO-ptx); its weight is --ptx-coefficient."""
    world: OmitArgPrefixes[World]
    reading: OmitArgPrefixes[common.Reading] = dataclasses.field(default_factory=common.Reading)
    machine: OmitArgPrefixes[common.Machine] = dataclasses.field(default_factory=common.Machine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Improvement):
    """Improve a model by PPO with a KL penalty to the model it starts from."""

    out: Path = Path("runs/rlhf")
    """The run folder to write."""
    value: str = "separate"
    """The value function: "separate" (starts as the reward model, or the policy) or "shared" (a head on the policy)."""
    rlhf: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)


def run(options: Options, resume: bool, measures: Mapping[str, Callable[[Any], Reward]] | None = None) -> None:
    improve(options, options.rlhf, algorithm.train, "rlhf", resume, options.value, measures)


def improve(
    options: Any,
    config: Any,
    train: Callable[..., Any],
    command: str,
    resume: bool,
    value: str = "none",
    measures: Mapping[str, Callable[[Any], Reward]] | None = None,
) -> None:
    """One run of PPO, RLOO or GRPO: `config` and `train` are the algorithm's, `measures` take the tokenizer."""
    if value not in ("separate", "shared", "none"):
        raise InputError(f'the value function is "separate" or "shared", not {value!r}')
    if config.ptx_coefficient and not options.ptx_data:
        raise InputError("--ptx-coefficient mixes in pretraining text: say which with --ptx-data")
    if options.ptx_data and not config.ptx_coefficient:
        raise InputError("--ptx-data mixes in pretraining text: say how much with --ptx-coefficient, such as 1")
    if not common.pending(options.out, resume):
        return
    common.begin(options.machine)
    w = options.world
    causal, bpe = common.load_causal(options.model)
    reward, reward_trunk, limit = find_reward(w.reward, bpe)
    longest = min(context_limit(causal), limit)
    prompts = common.read_prompts(w.prompts, options.reading, bpe, longest, w.max_new_tokens)
    reference = None
    if options.lora:
        causal = common.with_lora(causal, options.lora)
    else:
        reference = LanguageModel(frozen(common.load_causal(options.model)[0]), temperature=w.temperature)
    policy = LanguageModel(causal, temperature=w.temperature)
    machine = common.settle(options.machine, policy)
    dtype = fastest_decoding_dtype(causal) if w.decoding_dtype == "auto" else w.decoding_dtype
    options = dataclasses.replace(options, machine=machine, world=dataclasses.replace(w, decoding_dtype=dtype))
    torch.manual_seed(machine.seed)
    common.put_in_force(machine, policy, reference)
    if value == "shared":
        policy.value = value_head(causal)
    elif value == "separate":
        policy.value = reward_trunk() if reward_trunk else common.fresh_reward_model(options.model)
        common.put_in_force(machine, policy.value)
    logged = {name: measure(bpe) for name, measure in (measures or {}).items()}
    if w.measure:
        logged["objective/measure"] = function_reward(load_function(w.measure), bpe)
    world = PromptWorld(
        prompts, reward, stop_ids(bpe, causal), w.max_new_tokens, getattr(config, "completions", 1),
        w.missing_stop_score, getattr(torch, dtype), logged, machine.seed,
    )  # fmt: skip
    text = documents(bpe, texts(options.ptx_data), config.ptx_block) if options.ptx_data else []
    state = algorithm.init(policy, reference, world, config, text, machine.seed)
    metrics, shown = train(state, config), ("objective/score", "objective/kl")
    folder = common.start(options, command, resume, [*prompts, *text])
    folder.restore(state)
    folder.follow(state, metrics, config.iterations, every_steps=machine.checkpoint_every, show=shown)
    common.save_model(folder, common.merged(policy.model), bpe)
    if policy.value is not None and hasattr(policy.value, "model"):
        common.save_model(folder, policy.value.model, bpe, "value")
    last = common.last_metrics(folder)
    folder.finish({name: x for name, x in last.items() if not name.startswith("time/")})
    score, kl = last["objective/score"], last["objective/kl"]
    print(f"score {score:.3f} at KL {kl:.3f}; the model is in {folder.folder / 'model'}")


def find_reward(name: str, bpe: Any) -> tuple[Reward, Callable[[], Any] | None, int]:
    """(the reward, how to make a value model from it, its context): a Python function has no trunk and no limit."""
    if ":" in name:
        return function_reward(load_function(name), bpe), None, sys.maxsize
    model, own = common.load_reward(name)
    common.check_same_tokenizer(bpe, own, name)
    return model_reward(frozen(model)), lambda: common.load_reward(name)[0], context_limit(model.model)
