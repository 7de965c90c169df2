"""`operant sft`: fine-tune a model on demonstrations."""

import dataclasses
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import sft as algorithm
from operant.cli import common
from operant.text.language_model import LanguageModel, context_limit
from operant.text.tokenizer import Example, tokenize


@dataclasses.dataclass(frozen=True)
class Options:
    """Fine-tune a model on demonstrations: {prompt, response}, {messages}, or whatever can be read as such."""

    model: str
    """Model folder, run folder or hub name to start from."""
    data: str
    """Demonstrations: a file, a folder or a hub name."""
    out: Path = Path("runs/sft")
    """The run folder to write."""
    held_out: float = 0.05
    """Share of prompts that is kept for the final loss; 0 keeps none."""
    lora: int = 0
    """Rank of LoRA adapters; 0 trains all weights."""
    sft: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)
    reading: OmitArgPrefixes[common.Reading] = dataclasses.field(default_factory=common.Reading)
    machine: OmitArgPrefixes[common.Machine] = dataclasses.field(default_factory=common.Machine)


def run(options: Options, resume: bool) -> None:
    if not common.pending(options.out, resume):
        return
    common.begin(options.machine)
    model, bpe = common.load_causal(options.model)
    dataset = options.reading.load(options.data, ("demonstration", "chat"))
    print(dataset.describe())
    found: list[Example] = [tokenize(bpe, record) for record in dataset.records]
    lengths = [len(e.prompt) + len(e.response) for e in found]
    train, test = common.split(
        dataset, found, lengths, context_limit(model), "demonstrations", options.held_out, options.machine.seed
    )
    if options.lora:
        model = common.with_lora(model, options.lora)
    policy = LanguageModel(model)
    machine = common.settle(options.machine, policy)
    common.put_in_force(machine, policy)
    state = algorithm.init(policy, train, options.sft, machine.seed)
    folder = common.start(dataclasses.replace(options, machine=machine), "sft", resume, train)
    folder.restore(state)
    metrics, total = algorithm.train(state, options.sft), algorithm.steps(state, options.sft)
    folder.follow(state, metrics, total, every_steps=machine.checkpoint_every, show=("loss/language_model",))
    summary: dict[str, float] = {"demonstrations": len(train)}
    if test:
        summary["held_out_loss"] = algorithm.loss_of(policy, test, options.sft)
    common.save_model(folder, common.merged(policy.model), bpe)
    folder.finish(summary)
    print(f"{summary}; the model is in {folder.folder / 'model'}")
