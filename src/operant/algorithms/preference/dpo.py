"""Direct preference optimisation (Rafailov et al. 2023).

    once            log π_ref of every response
    repeat
        take        a batch of prompts with their ranked responses
        optimise    -mean over pairs of log σ(β [log π/π_ref (y_w) - log π/π_ref (y_l)])

The reward model's loss with the implicit reward β log π/π_ref in place of a learned one. Each response goes through the
network once, however many pairs it is in, and its prompt is computed once for all of them.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from operant.core.errors import InputError
from operant.core.losses import dpo_loss, ipo_loss
from operant.core.optimise import Descent, descend
from operant.core.record import micro_batches
from operant.core.schedules import Schedule
from operant.core.shuffle import Shuffle
from operant.text.context import rows
from operant.text.language_model import LanguageModel, as_reference
from operant.text.tokenizer import Comparison

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config(Descent):
    epochs: int = 1
    """Passes over the comparisons."""
    batch: int = 16
    """Prompts in a step."""
    reference_beta: float = 0.1
    """β: how dear distance to the reference is."""
    objective: Literal["dpo", "ipo"] = "dpo"
    """DPO's logistic loss, or IPO's squared one; both on log-probs summed over the response."""
    label_smoothing: float = 0.0
    """Share of labels taken to be wrong (conservative DPO)."""
    learning_rate: float = 1e-4
    """Peak step size of AdamW."""
    schedule: Schedule = "linear"
    """How the step size goes down after the warmup."""
    warmup: float = 0.1
    """Fraction of the run over which the step size rises from 0."""
    floor: float = 0.0
    """Fraction of the peak at which the schedule ends."""


@dataclasses.dataclass
class State:
    policy: LanguageModel
    optimizer: torch.optim.Optimizer
    order: Shuffle
    reference: list[Tensor]
    """log π_ref of the K responses of each comparison."""
    comparisons: Sequence[Comparison] = dataclasses.field(metadata={"saved": False})
    step: int = 0


def init(
    policy: LanguageModel,
    reference: LanguageModel | None,
    comparisons: Sequence[Comparison],
    config: Config,
    seed: int = 0,
) -> State:
    """`reference` None: the policy without its LoRA adapter. Comparisons without an untied pair are left out."""
    if config.objective not in ("dpo", "ipo"):
        raise InputError(f'objective is "dpo" or "ipo", not {config.objective!r}')
    if config.label_smoothing and config.objective == "ipo":
        raise InputError(f'label_smoothing is {config.label_smoothing}, and objective "ipo" has none: leave it at 0')
    for n, c in enumerate(comparisons):
        if not isinstance(c, Comparison):
            raise InputError(f"record {n} is a {type(c).__name__}; DPO learns from comparisons of responses")
    comparisons = [c for c in comparisons if len(set(c.ranks)) > 1]
    if not comparisons:
        raise InputError("every comparison is a tie: DPO has nothing to learn from")
    with torch.no_grad(), as_reference(policy, reference) as frozen:
        fixed: list[Tensor] = [torch.empty(0)] * len(comparisons)
        for index in micro_batches(extent(comparisons), config.micro_batch):
            chosen = [comparisons[i] for i in index.tolist()]
            pieces = log_probs(frozen, chosen).split([len(c.responses) for c in chosen])
            for i, piece in zip(index.tolist(), pieces, strict=True):
                fixed[i] = piece
    return State(policy, config.adamw(policy), Shuffle(len(comparisons), seed), fixed, comparisons)


def steps(state: State, config: Config) -> int:
    """Optimiser steps of the whole run."""
    return config.steps(len(state.comparisons))


def extent(comparisons: Sequence[Comparison]) -> Tensor:
    """How many tokens the network reads for each comparison, as a mask to cut micro-batches by."""
    size = torch.tensor([len(c.prompt) + sum(map(len, c.responses)) for c in comparisons])
    return torch.arange(int(size.max())) < size.unsqueeze(-1)


def log_probs(policy: LanguageModel, comparisons: Sequence[Comparison]) -> Float[Tensor, " N"]:
    """log π of every whole response, all responses of one comparison after those of the one before."""
    prompts = [c.prompt for c in comparisons for _ in c.responses]
    context, action, mask = rows(prompts, [r for c in comparisons for r in c.responses])
    owner = torch.arange(len(comparisons)).repeat_interleave(torch.tensor([len(c.responses) for c in comparisons]))
    context = dataclasses.replace(context, prompt=owner).to(policy.model.device)
    log_prob = policy.evaluate(context, action.to(policy.model.device)).log_prob
    return torch.where(mask.to(log_prob.device), log_prob, 0.0).sum(-1)


def pairs(comparisons: Sequence[Comparison]) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"], Float[Tensor, " P"]]:
    """(rows of the better, rows of the worse, weight) of all untied pairs; the pairs of a prompt weigh 1 together."""
    better, worse, weight, start = [], [], [], 0
    for c in comparisons:
        found = [(a, b) for a, ra in enumerate(c.ranks) for b, rb in enumerate(c.ranks) if ra < rb]
        better += [start + a for a, _ in found]
        worse += [start + b for _, b in found]
        weight += [1 / len(found)] * len(found)
        start += len(c.ranks)
    return torch.tensor(better), torch.tensor(worse), torch.tensor(weight)


def loss(
    log_prob: Float[Tensor, " N"], reference: Float[Tensor, " N"], comparisons: Sequence[Comparison], config: Config
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss of each pair, its margin β Δ log π/π_ref, its weight)."""
    better, worse, weight = (x.to(log_prob.device) for x in pairs(comparisons))
    chosen, rejected, ref_chosen, ref_rejected = log_prob[better], log_prob[worse], reference[better], reference[worse]
    margin = config.reference_beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    if config.objective == "ipo":
        return ipo_loss(chosen, rejected, ref_chosen, ref_rejected, config.reference_beta), margin, weight
    target = 1 - config.label_smoothing
    return dpo_loss(chosen, rejected, ref_chosen, ref_rejected, config.reference_beta, target), margin, weight


def update(state: State, index: Sequence[int], config: Config) -> Metrics:
    """One step on one batch of comparisons."""
    batch = [state.comparisons[i] for i in index]
    losses: list[Tensor] = []
    shown: dict[str, list[Tensor]] = {}

    def parts() -> Iterator[Tensor]:
        for piece in micro_batches(extent(batch), config.micro_batch):
            compared = [batch[i] for i in piece.tolist()]
            log_prob = log_probs(state.policy, compared)
            reference = torch.cat([state.reference[index[i]] for i in piece.tolist()])
            each, margin, weight = loss(log_prob, reference, compared, config)
            part = (each * weight).sum() / len(batch)
            losses.append(part.detach())
            reward = config.reference_beta * (log_prob - reference)
            better, worse, _ = pairs(compared)
            for name, x in {
                "rewards/accuracies": (margin > 0).float(),
                "rewards/margins": margin,
                "rewards/chosen": reward[better],
                "rewards/rejected": reward[worse],
                "logps/chosen": log_prob[better],
                "logps/rejected": log_prob[worse],
            }.items():
                shown.setdefault(name, []).append(x.detach())
            yield part

    rate = config.step_size(state.step, len(state.comparisons))
    norm = descend(state.optimizer, parts(), rate, config.max_gradient_norm, state.step)
    return {
        "loss/dpo": torch.stack(losses).sum().item(),
        **{name: torch.cat(x).mean().item() for name, x in shown.items()},
        "loss/gradient_norm": norm.item(),
        "learning_rate": rate,
    }


def _check_start(margin: float, config: Config) -> None:
    if abs(margin) > 0.1 * config.reference_beta:
        warnings.warn(
            f"the margin of the implicit rewards is {margin:.4f} before the first step and should be 0, DPO's loss "
            "ln 2: the policy does not start from its reference",
            stacklevel=3,
        )


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every step."""
    while state.step < steps(state, config):
        metrics = update(state, state.order.rest_of_epoch(config.batch), config)
        if state.step == 0:
            _check_start(metrics["rewards/margins"], config)
        state.step += 1
        yield metrics
