"""`operant dpo`: improve a model directly on comparisons."""

import dataclasses
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import dpo as algorithm
from operant.cli import common
from operant.cli.reward import size
from operant.core.errors import InputError
from operant.text.language_model import LanguageModel, context_limit, frozen
from operant.text.tokenizer import tokenize


@dataclasses.dataclass(frozen=True)
class Options:
    """Improve a model by DPO on {prompt, chosen, rejected} or {prompt, responses, ranking}."""

    model: str
    """Model to improve, and reference: a model folder, a run or a hub name."""
    data: str
    """Comparisons: a file, a folder or a hub name."""
    out: Path = Path("runs/dpo")
    """The run folder to write."""
    lora: int = 0
    """Rank of LoRA adapters; 0 trains all weights. The reference is then the model without them."""
    dpo: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)
    reading: OmitArgPrefixes[common.Reading] = dataclasses.field(default_factory=common.Reading)
    machine: OmitArgPrefixes[common.Machine] = dataclasses.field(default_factory=common.Machine)


def run(options: Options, resume: bool) -> None:
    if not common.pending(options.out, resume):
        return
    common.begin(options.machine)
    causal, bpe = common.load_causal(options.model)
    dataset = options.reading.load(options.data, "ranking")
    print(dataset.describe())
    comparisons = [tokenize(bpe, record) for record in dataset.records]
    comparisons = [c for c in comparisons if len(set(c.ranks)) > 1]
    if not comparisons:
        raise InputError(f"every comparison in {options.data} is a tie: DPO has nothing to learn from")
    longest = context_limit(causal)
    comparisons = common.fitting(comparisons, longest, "comparisons", [size(c) for c in comparisons])
    reference = None
    if options.lora:
        causal = common.with_lora(causal, options.lora)
    else:
        reference = LanguageModel(frozen(common.load_causal(options.model)[0]))
    policy = LanguageModel(causal)
    machine = common.settle(options.machine, policy)
    common.put_in_force(machine, policy, reference)
    state = algorithm.init(policy, reference, comparisons, options.dpo, machine.seed)
    folder = common.start(dataclasses.replace(options, machine=machine), "dpo", resume, comparisons)
    folder.restore(state)
    metrics, total = algorithm.train(state, options.dpo), algorithm.steps(state, options.dpo)
    shown = ("rewards/accuracies", "rewards/margins")
    folder.follow(state, metrics, total, every_steps=machine.checkpoint_every, show=shown)
    common.save_model(folder, common.merged(policy.model), bpe)
    last = common.last_metrics(folder)
    folder.finish({name: x for name, x in last.items() if not name.startswith("time/")})
    print(f"margin {last['rewards/margins']:.3f}; the model is in {folder.folder / 'model'}")
