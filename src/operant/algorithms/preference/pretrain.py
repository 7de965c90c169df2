"""Pretraining: maximum likelihood of the next token on plain text.

    repeat
        take        a batch of blocks of consecutive tokens
        optimise    -mean log π(token | tokens before it)

In the words of the other files: imitation, every token a decision with advantage 1.
"""

import dataclasses
import math
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from operant.core.losses import policy_gradient_loss
from operant.core.optimise import descend
from operant.core.schedules import Schedule, scheduled
from operant.core.shuffle import Shuffle
from operant.text.context import blocks
from operant.text.language_model import LanguageModel, autocast

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config:
    epochs: float = 2.0
    """Passes over the text."""
    block: int = 128
    """Tokens in a block."""
    batch: int = 32
    """Blocks in a step."""
    micro_batch: int = 0
    """Blocks that go through the network at once; 0 = the whole batch."""
    learning_rate: float = 4e-3
    """Peak step size of AdamW."""
    schedule: Schedule = "cosine"
    """How the step size goes down after the warmup."""
    warmup: float = 0.02
    """Fraction of the run over which the step size rises from 0."""
    floor: float = 0.1
    """Fraction of the peak at which the schedule ends."""
    weight_decay: float = 0.1
    """AdamW's weight decay on matrices."""
    max_gradient_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    dtype: str = "float32"
    """float32, or bfloat16 for mixed precision."""


@dataclasses.dataclass
class State:
    policy: LanguageModel
    optimizer: torch.optim.Optimizer
    order: Shuffle
    text: Int[Tensor, "N L"] = dataclasses.field(metadata={"saved": False})
    step: int = 0


def cut(tokens: Int[Tensor, " S"], block: int) -> Int[Tensor, "N L"]:
    """A stream of tokens as blocks of block + 1; neighbours share one token, so each is predicted once."""
    count = max((len(tokens) - 1) // block, 1)
    return torch.stack([tokens[i * block : i * block + block + 1] for i in range(count)])


def init(policy: LanguageModel, text: Int[Tensor, "N L"], config: Config, seed: int = 0) -> State:
    matrices = [p for p in policy.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in policy.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    return State(policy, optimizer, Shuffle(len(text), seed), text)


def steps(state: State, config: Config) -> int:
    """Optimiser steps of the whole run."""
    return math.ceil(config.epochs * len(state.text) / config.batch)


def loss(policy: LanguageModel, text: Int[Tensor, "B L"]) -> Tensor:
    """-mean log π(token), in nats a token. PPO-ptx adds a multiple of it to its own loss."""
    context, action = blocks(text)
    return policy_gradient_loss(policy.evaluate(context, action).log_prob, 1.0).mean()


def update(state: State, text: Int[Tensor, "B L"], config: Config) -> Metrics:
    """One step on one batch of blocks."""
    policy, losses = state.policy, []

    def parts() -> Iterator[Tensor]:
        for piece in text.split(config.micro_batch or len(text)):
            with autocast(config.dtype, text.device):
                part = loss(policy, piece) * (len(piece) / len(text))
            losses.append(part.detach())
            yield part

    rate = config.learning_rate * scheduled(
        config.schedule, (state.step + 1) / steps(state, config), config.warmup, config.floor
    )
    norm = descend(state.optimizer, parts(), rate, config.max_gradient_norm, state.step, text)
    return {"loss/language_model": sum(losses).item(), "loss/gradient_norm": norm.item(), "learning_rate": rate}


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every step."""
    while state.step < steps(state, config):
        metrics = update(state, state.text[state.order.take(config.batch)].to(state.policy.model.device), config)
        state.step += 1
        yield metrics
