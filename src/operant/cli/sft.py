"""`operant sft`: fine-tune a model on demonstrations."""

import dataclasses
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import sft as algorithm
from operant.cli import common
from operant.text import data
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
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Names of columns that are not recognised, as role column: prompt question response answer."""
    held_out: float = 0.05
    """Share of prompts that is kept for the final loss."""
    lora: int = 0
    """Rank of LoRA adapters; 0 trains all weights."""
    sft: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)
    machine: OmitArgPrefixes[common.Machine] = dataclasses.field(default_factory=common.Machine)


def run(options: Options, resume: bool) -> None:
    common.begin(options.machine)
    model, bpe = common.load_causal(options.model)
    dataset = data.load(options.data, kind=("demonstration", "chat"), columns=options.columns or None)
    print(dataset.describe())
    train, test = data.split_dataset(dataset, options.held_out, options.machine.seed)

    def examples(part: data.Dataset) -> list[Example]:
        found = [tokenize(bpe, record) for record in part.records]
        lengths = [len(e.prompt) + len(e.response) for e in found]
        return common.fitting(found, context_limit(model), "demonstrations", lengths) if found else []

    train_examples, test_examples = examples(train), examples(test)
    if options.lora:
        model = common.with_lora(model, options.lora)
    policy = LanguageModel(model)
    machine = common.settle(options.machine, policy)
    folder = common.start(dataclasses.replace(options, machine=machine), "sft", resume)
    if folder is None:
        return
    policy.dtype = machine.dtype
    state = algorithm.init(policy, train_examples, options.sft, machine.seed)
    folder.restore(state)
    folder.follow(
        state, algorithm.train(state, options.sft), algorithm.steps(state, options.sft), show=("loss/language_model",)
    )
    summary: dict[str, float] = {"demonstrations": len(train_examples)}
    if test_examples:
        summary["held_out_loss"] = algorithm.loss_of(policy, test_examples, options.sft)
    common.save_model(folder, common.merged(policy.model), bpe)
    folder.finish(summary)
    print(f"{summary}; the model is in {folder.folder / 'model'}")
