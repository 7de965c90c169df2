"""What the commands share: a run's place and machine, models from folders, data as tokens, how models are saved."""

import dataclasses
import json
import os
import random
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError

from operant.cli.folder import last_metrics as last_metrics
from operant.cli.folder import make_room as make_room
from operant.cli.folder import pending as pending
from operant.cli.folder import start as start
from operant.core.device import device
from operant.core.errors import InputError
from operant.experiment.files import sync, writing
from operant.experiment.run import Run
from operant.text import data
from operant.text import tokenizer as tokens
from operant.text.language_model import LanguageModel, RewardModel, compile_layers
from operant.text.machine import probe


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how a run computes."""

    seed: int = 0
    """Seed of every random choice."""
    threads: int = 0
    """CPU threads; 0 = measured at the start, and kept in config.toml."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """float32, or bfloat16 mixed precision; auto = measured at the start, and kept in config.toml."""
    compile: bool = False
    """Compile the layers: a third faster in bfloat16 on a CPU, after half a minute's work; needs a C++ compiler."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 = by time, about every 30 seconds."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How data files are read."""

    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Names of columns that are not recognised, as role column: prompt question response answer."""
    skip_bad: bool = False
    """Leave out records that cannot be used and say how many, instead of stopping at the first."""

    def load(self, source: str, kind: str | tuple[str, ...]) -> data.Dataset:
        return data.load(source, kind=kind, columns=self.columns or None, skip_bad=self.skip_bad)


def begin(machine: Machine) -> None:
    """Seeds, and the threads if they are already known. Before anything random happens."""
    quiet()
    if not 0 <= machine.seed < 2**32:
        raise InputError(f"the seed is {machine.seed}: give a whole number from 0 to {2**32 - 1}")
    random.seed(machine.seed)
    np.random.seed(machine.seed)  # noqa: NPY002 (libraries draw from it)
    torch.manual_seed(machine.seed)
    if machine.threads > 0:
        torch.set_num_threads(machine.threads)


def quiet() -> None:
    """No progress bars and no advice from the libraries beneath: a command's words are its own."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()


def settle(machine: Machine, model: LanguageModel) -> Machine:
    """The machine with what was left open measured on the model, and put into force."""
    threads, dtype = machine.threads, machine.dtype
    if threads == 0 or dtype == "auto":
        before = torch.get_rng_state()
        measured = probe(model)
        torch.set_rng_state(before)
        threads = threads or measured[0]
        dtype = measured[1] if dtype == "auto" else dtype
    torch.set_num_threads(threads)
    return dataclasses.replace(machine, threads=threads, dtype=dtype)  # pyright: ignore[reportArgumentType]


def put_in_force(machine: Machine, *models: LanguageModel | RewardModel | None) -> None:
    """What the machine says of arithmetic, for the models that a run trains or asks."""
    if machine.compile and device().type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise InputError("--compile needs a C++ compiler and there is no g++: install one, or leave --compile out")
    for model in models:
        if model is not None:
            model.dtype = machine.dtype
            if machine.compile:
                compile_layers(model.model)


def load_causal(name: str) -> tuple[Any, Any]:
    """(model in float32 on the device, tokenizer) from a folder or a hub name."""
    from transformers import AutoModelForCausalLM

    model = _load(AutoModelForCausalLM, name, "a causal language model")
    tokenizer = tokens.load_tokenizer(_folder(name))
    tokens.check_vocabulary(tokenizer, model, name)
    return model.to(device()), tokenizer


def load_reward(name: str) -> tuple[RewardModel, Any]:
    """(reward model, tokenizer): what `operant reward` wrote, or any sequence classifier with one label."""
    from transformers import AutoModelForSequenceClassification

    model = _load(AutoModelForSequenceClassification, name, "a reward model")
    if model.config.num_labels != 1:
        raise InputError(
            f"{name} has {model.config.num_labels} labels, a reward model has one; train one with operant reward"
        )
    tokenizer = tokens.load_tokenizer(_folder(name))
    tokens.check_vocabulary(tokenizer, model, name)
    return RewardModel(model.to(device())), tokenizer


def _folder(name: str) -> str:
    """The model itself: `name`, or the model folder of the run `name`."""
    return str(Path(name) / "model") if (Path(name) / "model" / "config.json").is_file() else name


def _load(kind: Any, name: str, what: str) -> Any:
    folder = _folder(name)
    path = Path(folder)
    if path.exists():
        if not (path / "config.json").is_file():
            unfinished = " (the run is not finished?)" if (path / "config.toml").is_file() else ""
            raise InputError(
                f"{name} holds no model: there is no config.json in it{unfinished}. Give a model folder or a run"
            )
        try:
            kinds = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{path / 'config.json'} cannot be read ({error}); write the model again") from error
        if ("CausalLM" in kind.__name__) == kinds[0].endswith("ForSequenceClassification"):
            raise InputError(f"{name} holds a {kinds[0]}, which is not {what}. Give {what}")
    elif name.count("/") > 1 or name.startswith((".", "/", "runs/")):
        raise InputError(f"there is no model folder {name}. Give a model folder, a run or a hub name")
    try:
        model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        where = name if path.exists() else f"there is no folder {name}, and the hub's {name}"
        raise InputError(f"{where} cannot be loaded as {what}: {str(error).splitlines()[0]}") from error
    if path.exists() and report["missing_keys"]:
        raise InputError(f"{name} lacks weights of {what}: {sorted(report['missing_keys'])[0]}. Give {what}")
    return model


def save_model(run: Run, model: Any, tokenizer: Any, name: str = "model") -> None:
    """`save_pretrained` under a temporary name, then renamed: there is either a whole model or none."""
    target, partial = run.folder / name, run.folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with writing(target):
        try:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            for file in partial.iterdir():
                sync(file)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            sync(run.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def fitting(items: Sequence[Any], longest: int, what: str, lengths: Sequence[int], extra: int = 0) -> list[Any]:
    """The items that fit into the model's context; how many do not is said, and that they are left out."""
    kept = [item for item, n in zip(items, lengths, strict=True) if n + extra <= longest]
    beside = f" allows beside {extra} new ones" if extra else ""
    limit = f"are longer than the model's context of {longest} tokens{beside}"
    if not kept:
        fewer = "fewer new tokens, " if extra else ""
        raise InputError(f"all {len(items)} {what} {limit}: use shorter ones, {fewer}or a model with a longer context")
    if left_out := len(items) - len(kept):
        print(f"{left_out} of {len(items)} {what} {limit}: left out")
    return kept


def split(
    dataset: data.Dataset,
    found: Sequence[Any],
    lengths: Sequence[int],
    longest: int,
    what: str,
    held_out: float,
    seed: int,
) -> tuple[list[Any], list[Any]]:
    """(train, held out) of what fits into the context, as tokens: `found` is what the records are. 0 holds out none."""
    pairs = fitting(list(zip(dataset.records, found, strict=True)), longest, what, lengths)
    if held_out == 0:
        return [tokens for _, tokens in pairs], []
    tokens_of = dict(pairs)
    kept = dataclasses.replace(dataset, records=tuple(record for record, _ in pairs))
    train, test = data.split_dataset(kept, held_out, seed)
    return [tokens_of[record] for record in train.records], [tokens_of[record] for record in test.records]


def with_lora(model: Any, rank: int) -> Any:
    """The model with LoRA adapters on every linear layer; its weights are then frozen."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("--lora needs the peft package: pip install 'operant[peft]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own, about the names that it asks transformers for
        return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))


def merged(model: Any) -> Any:
    """The plain model that an adapted one amounts to, for saving."""
    import copy

    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


def fresh_reward_model(name: str) -> RewardModel:
    """A scalar head on the trunk of the language model `name`, for a value function without a reward model."""
    from operant.text.language_model import reward_model_from

    return reward_model_from(load_causal(name)[0])


def read_prompts(source: str, reading: Reading, bpe: Any, longest: int, new_tokens: int) -> list[list[int]]:
    """Prompts as token ids; those that leave no room for an answer are left out, and that is said."""
    dataset = reading.load(source, "prompt")
    print(dataset.describe())
    found = [tokens.encode_prompt(bpe, record.prompt) for record in dataset.records]
    return fitting(found, longest, "prompts", list(map(len, found)), new_tokens)


def check_same_tokenizer(own: Any, other: Any, name: str) -> None:
    """Raise unless the reward model `name` reads the policy's token ids."""
    if own.get_vocab() != other.get_vocab():
        raise InputError(
            f"the reward model {name} has another tokenizer than the policy. Operant scores the sampled token ids "
            "themselves: train the reward model from the same language model"
        )
