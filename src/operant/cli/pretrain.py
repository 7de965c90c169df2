"""`operant pretrain`: a language model from scratch on plain text."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import pretrain as algorithm
from operant.cli import common
from operant.core.device import device
from operant.core.errors import InputError
from operant.core.shuffle import Shuffle
from operant.text import data, tokenizer
from operant.text.language_model import LanguageModel, small_model
from operant.text.tokenizer import Example


@dataclasses.dataclass(frozen=True)
class Shape:
    """The model: a Llama of this size."""

    width: int = 128
    """Size of the hidden states."""
    layers: int = 4
    """Number of transformer layers."""
    heads: int = 4
    """Attention heads in a layer."""
    feed_forward: int = 0
    """Size of the feed-forward layers; 0 = three times the width."""
    context: int = 256
    """Longest sequence the model can attend to, in tokens."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a language model from scratch on plain text: JSONL, CSV, Parquet, .txt files, a folder or a hub name."""

    data: tuple[str, ...]
    """One or more sources of text."""
    out: Path = Path("runs/pretrain")
    """The run folder to write."""
    tokenizer: str | None = None
    """A folder or hub name; without it, a byte-level BPE is trained on the text."""
    vocabulary: int = 4096
    """Entries of a tokenizer that is trained here."""
    tokenizer_data: tuple[str, ...] = ()
    """More text for the tokenizer to know, which the model is not trained on."""
    shape: OmitArgPrefixes[Shape] = dataclasses.field(default_factory=Shape)
    pretrain: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)
    machine: OmitArgPrefixes[common.Machine] = dataclasses.field(default_factory=common.Machine)


def texts(sources: tuple[str, ...]) -> list[str]:
    """All documents of all sources, the format of each said aloud."""
    found: list[str] = []
    for source in sources:
        dataset = data.load(source, kind="text")
        print(dataset.describe())
        found += [record.text for record in dataset.records]
    return found


def documents(bpe: Any, found: Sequence[str], block: int) -> list[Example]:
    """Texts as rows of tokens."""
    return algorithm.documents(bpe(list(found), add_special_tokens=False)["input_ids"], bpe.eos_token_id, block)


def check_shape(shape: Shape) -> None:
    """Raise `InputError` for a shape that no model can have."""
    if shape.width % (2 * shape.heads):
        raise InputError(
            f"a width of {shape.width} cannot be shared by {shape.heads} heads: give a multiple of {2 * shape.heads}"
        )
    if shape.context < 2:
        raise InputError(f"the context is {shape.context}: a token and the one that follows it need 2")


def run(options: Options, resume: bool) -> None:
    if not common.pending(options.out, resume):
        return
    common.begin(options.machine)
    check_shape(options.shape)
    found = texts(options.data)
    if options.tokenizer:
        bpe = tokenizer.load_tokenizer(options.tokenizer)
    else:
        bpe = tokenizer.train_tokenizer([*found, *texts(options.tokenizer_data)], options.vocabulary)
    rows = documents(bpe, found, min(options.pretrain.block, options.shape.context - 1))
    if len(rows) < 2:
        raise InputError(f"{' '.join(options.data)} holds one short text: one row is held out, give at least one more")
    tokens = sum(len(row.response) for row in rows)
    s = options.shape
    policy = LanguageModel(small_model(len(bpe), s.width, s.layers, s.heads, s.context, s.feed_forward).to(device()))
    policy.model.generation_config.eos_token_id = bpe.eos_token_id
    policy.model.generation_config.pad_token_id = bpe.pad_token_id
    policy.model.config.eos_token_id = bpe.eos_token_id
    policy.model.config.bos_token_id = bpe.bos_token_id
    policy.model.config.pad_token_id = bpe.pad_token_id
    machine = common.settle(options.machine, policy)
    options = dataclasses.replace(options, machine=machine)
    common.put_in_force(machine, policy)
    order = Shuffle(len(rows), machine.seed).take(len(rows))
    held_out, train = order[: max(len(rows) // 100, 1)], order[max(len(rows) // 100, 1) :]
    state = algorithm.init(policy, [rows[i] for i in train], options.pretrain, machine.seed)
    folder = common.start(options, "pretrain", resume, rows)
    folder.restore(state)
    size = sum(p.numel() for p in policy.model.parameters())
    print(f"{size / 1e6:.2f}M parameters, {tokens:,} tokens, {machine.threads} threads, {machine.dtype}")
    metrics, total = algorithm.train(state, options.pretrain), algorithm.steps(state, options.pretrain)
    folder.follow(state, metrics, total, every_steps=machine.checkpoint_every, show=("loss/language_model",))
    loss = algorithm.loss_of(policy, [rows[i] for i in held_out], options.pretrain)
    common.save_model(folder, policy.model, bpe)
    folder.finish({"parameters": size, "tokens": tokens, "held_out_loss": loss})
    print(f"held-out loss {loss:.3f} nats a token; the model is in {folder.folder / 'model'}")
