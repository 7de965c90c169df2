"""`operant reward`: a reward model from comparisons, rankings or thumbs."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import reward_model
from operant.cli import common
from operant.core.errors import InputError
from operant.core.statistics import win_rate
from operant.text import data
from operant.text.language_model import LanguageModel, RewardModel, context_limit, reward_model_from
from operant.text.rewards import score
from operant.text.tokenizer import Comparison, Example, Judgement, tokenize


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a reward model: {prompt, chosen, rejected}, {prompt, responses, ranking}, or {prompt, response, label}."""

    model: str
    """Language model whose trunk it starts from: a model folder, a run or a hub name."""
    data: str
    """Judgements: a file, a folder or a hub name."""
    out: Path = Path("runs/reward")
    """The run folder to write."""
    demonstrations: str | None = None
    """Responses that shall score 0 on average; without it, the responses in the data."""
    held_out: float = 0.1
    """Share of prompts that is kept for the accuracy; 0 keeps none."""
    reward: OmitArgPrefixes[reward_model.Config] = dataclasses.field(default_factory=reward_model.Config)
    reading: OmitArgPrefixes[common.Reading] = dataclasses.field(default_factory=common.Reading)
    machine: OmitArgPrefixes[common.Machine] = dataclasses.field(default_factory=common.Machine)


def size(judgement: Comparison | Judgement) -> int:
    """Tokens of the prompt and the longest response."""
    responses = judgement.responses if isinstance(judgement, Comparison) else [judgement.response]
    return len(judgement.prompt) + max(map(len, responses))


def accuracy(model: RewardModel, judgements: list[Any]) -> dict[str, Any]:
    """Share of untied pairs (or thumbs) on the right side, with interval, and the mean loss (calibration)."""
    config = reward_model.Config()
    context, spans = reward_model.endings(judgements)
    with torch.no_grad():
        scores = reward_model.table(score(model, context.to(model.model.device)).squeeze(-1), spans)
        margins = reward_model.margins_of(scores, judgements)
        loss = reward_model.loss(scores, judgements, config).mean().item()
    if not margins:
        return {}
    right = sum(m > 0 for m in margins)
    return {"accuracy": win_rate(right, len(margins) - right).to_dict(), "pairs": len(margins), "loss": loss}


def run(options: Options, resume: bool) -> None:
    if not common.pending(options.out, resume):
        return
    common.begin(options.machine)
    causal, bpe = common.load_causal(options.model)
    dataset = options.reading.load(options.data, ("ranking", "thumb"))
    print(dataset.describe())
    found: list[Comparison | Judgement] = [tokenize(bpe, record) for record in dataset.records]
    longest, seed = context_limit(causal), options.machine.seed
    train, test = common.split(dataset, found, list(map(size, found)), longest, "judgements", options.held_out, seed)
    if options.demonstrations:
        shown = data.load(options.demonstrations, kind="demonstration")
        anchors: list[Example] = [tokenize(bpe, record) for record in shown.records]
        lengths = [len(e.prompt) + len(e.response) for e in anchors]
        anchors = common.fitting(anchors, longest, "demonstrations", lengths)
        if len(anchors) < 2:
            raise InputError(
                f"{options.demonstrations}: the scale of the score is set on demonstrations, give 2 or more"
            )
    else:
        anchors = [
            Example(j.prompt, r)
            for j in train[:500]
            for r in (j.responses if isinstance(j, Comparison) else [j.response])
        ]
    machine = common.settle(options.machine, LanguageModel(causal))
    torch.manual_seed(machine.seed)
    model = reward_model_from(causal)
    model.model.config.pad_token_id = bpe.pad_token_id
    common.put_in_force(machine, model)
    state = reward_model.init(model, train, options.reward, machine.seed)
    folder = common.start(dataclasses.replace(options, machine=machine), "reward", resume, [*train, *anchors])
    folder.restore(state)
    metrics, total = reward_model.train(state, options.reward), reward_model.steps(state, options.reward)
    folder.follow(state, metrics, total, every_steps=machine.checkpoint_every, show=("rewards/accuracies",))
    gain, offset = reward_model.normalise(model, anchors)
    summary: dict[str, Any] = {"judgements": len(train), "gain": gain, "offset": offset}
    if test:
        summary["held_out"] = accuracy(model, test)
    common.save_model(folder, model.model, bpe)
    folder.finish(summary)
    if summary.get("held_out"):
        right = summary["held_out"]["accuracy"]
        print(f"accuracy on held-out pairs {right['mean']:.3f} ({right['low']:.3f} to {right['high']:.3f})")
    print(f"the reward model is in {folder.folder / 'model'}")
