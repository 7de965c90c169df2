"""A reward model from human judgements (Ouyang et al. 2022, step 2; Stiennon et al. 2020).

    repeat
        take        a batch of prompts, each with its K ranked responses
        optimise    -mean over pairs of log σ(r(x, y_w) - r(x, y_l)); all pairs of a prompt together
    normalise       so that demonstrations score 0 and the spread of scores is 1

Each response goes through the network once, however many pairs it is in. Single responses with a thumb up or down are
learned by the same loss against a score of 0: log σ(r) for a liked one, log σ(-r) for the other.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from operant.core.errors import InputError
from operant.core.losses import bradley_terry_loss, ranking_loss
from operant.core.optimise import Descent, descend
from operant.core.record import micro_batches
from operant.core.shuffle import Shuffle
from operant.text.context import Context, last_places
from operant.text.language_model import RewardModel
from operant.text.rewards import score
from operant.text.tokenizer import Comparison, Example, Judgement

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config(Descent):
    epochs: int = 1
    """Passes over the judgements; a second one may overfit."""
    batch: int = 16
    """Prompts (or single judged responses) in a step."""
    learning_rate: float = 6e-4
    """Peak step size of AdamW."""
    ties: Literal["drop", "half"] = "drop"
    """Pairs of equal rank are left out, or learned as even odds."""


@dataclasses.dataclass
class State:
    model: RewardModel
    optimizer: torch.optim.Optimizer
    order: Shuffle
    judgements: Sequence[Comparison | Judgement] = dataclasses.field(metadata={"saved": False})
    step: int = 0


def init(model: RewardModel, judgements: Sequence[Comparison | Judgement], config: Config, seed: int = 0) -> State:
    """Raises InputError if nothing in `judgements` can be learned, or a margin is not that of one untied pair."""
    if not isinstance(model, RewardModel):
        raise InputError(f"the model is a {type(model).__name__}; give a RewardModel, which has a scalar head")
    for n, j in enumerate(judgements):
        if isinstance(j, Comparison) and j.margin and (len(j.ranks) != 2 or j.ranks[0] == j.ranks[1]):
            raise InputError(
                f"judgement {n} has the margin {j.margin} and the ranks {j.ranks}: a margin is that of one better and "
                "one worse response; leave it out, or make pairs"
            )
    if not _taught(judgements, config).any():
        raise InputError(
            f"none of {len(judgements)} judgements teaches anything: every one is a tie. Add comparisons with a better "
            'response, or learn ties as even odds with ties "half"'
        )
    return State(model, config.adamw(model), Shuffle(len(judgements), seed), judgements)


def steps(state: State, config: Config) -> int:
    """Optimiser steps of the whole run."""
    return config.steps(len(state.judgements))


def endings(judgements: Sequence[Comparison | Judgement]) -> tuple[Context, list[slice]]:
    """All responses as one context with a place at each one's end, and which rows belong to which judgement."""
    prompts, responses, spans = [], [], []
    for j in judgements:
        answers = j.responses if isinstance(j, Comparison) else [j.response]
        spans.append(slice(len(responses), len(responses) + len(answers)))
        prompts += [j.prompt] * len(answers)
        responses += answers
    context = last_places(prompts, responses)
    owner = torch.arange(len(judgements)).repeat_interleave(torch.tensor([s.stop - s.start for s in spans]))
    return dataclasses.replace(context, prompt=owner), spans


def table(scores: Float[Tensor, " N"], spans: Sequence[slice]) -> Float[Tensor, "B K"]:
    """Scores of the responses of each judgement as a row, padded with 0."""
    return torch.nn.utils.rnn.pad_sequence([scores[s] for s in spans], batch_first=True)


def ranks_of(judgements: Sequence[Comparison | Judgement]) -> Int[Tensor, "B K"]:
    """Ranks as a table, 0 where there is no response; a judged single response has rank 1."""
    ranks = [torch.tensor(j.ranks if isinstance(j, Comparison) else [1]) for j in judgements]
    return torch.nn.utils.rnn.pad_sequence(ranks, batch_first=True)


def _taught(judgements: Sequence[Comparison | Judgement], config: Config) -> Bool[Tensor, " B"]:
    """Which judgements have a loss: thumbs, and comparisons with a pair left after ties are dropped."""
    found = [
        isinstance(j, Judgement) or len(set(j.ranks) if config.ties == "drop" else j.ranks) > 1 for j in judgements
    ]
    return torch.tensor(found, dtype=torch.bool)


def loss(scores: Float[Tensor, "B K"], judgements: Sequence[Comparison | Judgement], config: Config) -> Tensor:
    """`ranking_loss` for each comparison, `bradley_terry_loss` with a margin or against 0 where that is asked for."""
    pairs = ranking_loss(scores, ranks_of(judgements).to(scores.device), config.ties)
    special = []
    for j, row, pair in zip(judgements, scores, pairs, strict=True):
        if isinstance(j, Judgement):
            special.append(bradley_terry_loss(row[0], torch.zeros_like(row[0]), target=float(j.good)))
        elif j.margin and j.ranks[0] != j.ranks[1]:
            better, worse = (0, 1) if j.ranks[0] < j.ranks[1] else (1, 0)
            special.append(bradley_terry_loss(row[better], row[worse], margin=j.margin))
        else:
            special.append(pair)
    return torch.stack(special)


def update(state: State, judgements: Sequence[Comparison | Judgement], config: Config) -> Metrics:
    """One step on one batch; the prompts of a micro-batch keep their responses together."""
    context, spans = endings(judgements)
    device = state.model.model.device
    size = torch.tensor([int(context.extent[s].sum()) for s in spans])
    extent = torch.arange(int(size.max())) < size.unsqueeze(-1)
    count = _taught(judgements, config).sum().clamp(min=1)
    losses, margins = [], []

    def parts() -> Iterator[Tensor]:
        for index in micro_batches(extent, config.micro_batch):
            chosen = [judgements[i] for i in index.tolist()]
            piece, piece_spans = endings(chosen)
            scores = table(state.model(piece.to(device)).squeeze(-1), piece_spans)
            part = loss(scores, chosen, config).sum() / count
            losses.append(part.detach())
            margins.extend(margins_of(scores.detach(), chosen))
            yield part

    rate = config.step_size(state.step, len(state.judgements))
    norm = descend(state.optimizer, parts(), rate, config.max_gradient_norm, state.step, context)
    margin = torch.tensor(margins or [0.0])
    return {
        "loss/reward_model": torch.stack(losses).sum().item(),
        "rewards/accuracies": (margin > 0).float().mean().item(),
        "rewards/margins": margin.mean().item(),
        "loss/gradient_norm": norm.item(),
        "learning_rate": rate,
    }


def margins_of(scores: Tensor, judgements: Sequence[Comparison | Judgement]) -> list[float]:
    """How far each pair (or thumb) is on its right side."""
    found = []
    for row, j in zip(scores.tolist(), judgements, strict=True):
        if isinstance(j, Judgement):
            found.append(row[0] if j.good else -row[0])
        else:
            found += [row[a] - row[b] for a, ra in enumerate(j.ranks) for b, rb in enumerate(j.ranks) if ra < rb]
    return found


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every step."""
    while state.step < steps(state, config):
        metrics = update(state, [state.judgements[i] for i in state.order.rest_of_epoch(config.batch)], config)
        state.step += 1
        yield metrics


@torch.no_grad()
def normalise(model: RewardModel, examples: Sequence[Example]) -> tuple[float, float]:
    """Scale and shift the score so that `examples` have mean 0 and deviation 1; returns what it did as (gain, offset).

    The gain goes into the head's weights, the offset into the config (Ziegler et al. 2019; Ouyang et al. 2022, C.2).
    Raises InputError if all scores are equal.
    """
    context = last_places([e.prompt for e in examples], [e.response for e in examples]).to(model.model.device)
    scores = score(model, context).squeeze(-1)
    if scores.std(correction=0) < 1e-6:
        raise InputError(
            f"the scores of {len(examples)} examples do not differ, so their scale cannot be set: give more examples, "
            "or look whether the reward model has learned anything"
        )
    gain = 1 / scores.std(correction=0)
    model.head.weight.mul_(gain)
    if model.head.bias is not None:
        model.head.bias.mul_(gain)
    model.offset = ((model.offset + scores.mean()) * gain).item()
    return gain.item(), model.offset
