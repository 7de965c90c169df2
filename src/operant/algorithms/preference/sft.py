"""Supervised fine-tuning: maximum likelihood of demonstrated responses (Ouyang et al. 2022, step 1).

    repeat
        take        a batch of (prompt, response)
        optimise    -mean log π(token | prompt, tokens before it) over response tokens and EOS

Behaviour cloning: every demonstrated token is a decision with advantage 1, the prompt is only observed.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from operant.core.losses import masked_mean, policy_gradient_loss
from operant.core.optimise import descend
from operant.core.record import micro_batches
from operant.core.schedules import Schedule, scheduled
from operant.core.shuffle import Shuffle
from operant.text.context import rows
from operant.text.language_model import LanguageModel, autocast
from operant.text.tokenizer import Example

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config:
    epochs: int = 2
    """Passes over the demonstrations."""
    batch: int = 32
    """Demonstrations in a step."""
    micro_batch: int = 8192
    """Tokens that go through the network at once, padding included."""
    learning_rate: float = 5e-4
    """Peak step size of AdamW."""
    schedule: Schedule = "cosine"
    """How the step size goes down after the warmup."""
    warmup: float = 0.0
    """Fraction of the run over which the step size rises from 0."""
    floor: float = 0.1
    """Fraction of the peak at which the schedule ends."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_gradient_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    dtype: str = "float32"
    """float32, or bfloat16 for mixed precision."""


@dataclasses.dataclass
class State:
    policy: LanguageModel
    optimizer: torch.optim.Optimizer
    order: Shuffle
    examples: Sequence[Example] = dataclasses.field(metadata={"saved": False})
    step: int = 0


def init(policy: LanguageModel, examples: Sequence[Example], config: Config, seed: int = 0) -> State:
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True
    )
    return State(policy, optimizer, Shuffle(len(examples), seed), examples)


def steps(state: State, config: Config) -> int:
    """Optimiser steps of the whole run."""
    return config.epochs * math.ceil(len(state.examples) / config.batch)


def update(state: State, examples: Sequence[Example], config: Config) -> Metrics:
    """One step on one batch: the mean over all response tokens of the batch, however it is split."""
    context, action, mask = rows(*zip(*examples, strict=True))
    device = state.policy.model.device
    context, action, mask = context.to(device), action.to(device), mask.to(device)
    count, losses = mask.sum(), []

    def parts() -> Iterator[Tensor]:
        for index in micro_batches(context.extent, config.micro_batch):
            with autocast(config.dtype, device):
                log_prob = state.policy.evaluate(context[index], action[index]).log_prob
            part = masked_mean(policy_gradient_loss(log_prob, 1.0), mask[index], count)
            losses.append(part.detach())
            yield part

    rate = config.learning_rate * scheduled(
        config.schedule, (state.step + 1) / steps(state, config), config.warmup, config.floor
    )
    norm = descend(state.optimizer, parts(), rate, config.max_gradient_norm, state.step, context)
    return {"loss/language_model": sum(losses).item(), "loss/gradient_norm": norm.item(), "learning_rate": rate}


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every step."""
    while state.step < steps(state, config):
        metrics = update(state, [state.examples[i] for i in state.order.rest_of_epoch(config.batch)], config)
        state.step += 1
        yield metrics
