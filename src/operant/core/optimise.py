"""Gradient descent, the same in every algorithm."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from operant.core.adam import Adam
from operant.core.finite import require_finite
from operant.core.flat import Flat, shorten, shortening
from operant.core.schedules import Schedule, scheduled


@dataclasses.dataclass(frozen=True)
class Descent:
    """What learning from a fixed set of examples needs to say about its steps."""

    epochs: int = 1
    """Passes over the examples."""
    batch: int = 16
    """Examples in a step: demonstrations, or prompts with their responses."""
    micro_batch: int = 1024
    """Tokens that go through the network at once, padding included; 1,024 suit a CPU's caches, a GPU likes more."""
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

    def steps(self, examples: int) -> int:
        """Optimiser steps of the whole run; the last of each epoch may have a smaller batch."""
        return self.epochs * -(-examples // self.batch)

    def step_size(self, step: int, examples: int) -> float:
        """The step size of step `step`, counted from 0."""
        done = (step + 1) / (self.steps(examples) + 1)
        return self.learning_rate * scheduled(self.schedule, done, self.warmup, self.floor)

    def adamw(self, module: nn.Module) -> torch.optim.Optimizer:
        """AdamW (Loshchilov and Hutter 2019) on all that is not frozen, β = (0.9, 0.95)."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            parameters, lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay, fused=True
        )


def descend(
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Tensor],
    learning_rate: float,
    max_gradient_norm: float,
    step: int,
    record: Any = None,
) -> Tensor:
    """Minimise Σ losses by one step and return the gradient's norm before it was shortened to `max_gradient_norm`.

    `losses` may be a generator of micro-batches: each one's graph is freed before the next is built.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    flat = isinstance(parameters[0], Flat)
    if flat:
        parameters[0].grad.zero_()
    else:
        optimizer.zero_grad()
    for loss in losses:
        loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    if isinstance(optimizer, Adam):
        norm = optimizer.norm()
        require_finite(norm, "gradient's norm", step, record)
        optimizer.shortened_step(shortening(norm, max_gradient_norm))
        return torch.scalar_tensor(norm)
    if flat:
        norm = shorten(parameters[0].grad, max_gradient_norm)
    else:
        norm = nn.utils.clip_grad_norm_(parameters, max_gradient_norm)
    require_finite(norm, "gradient's norm", step, record)
    optimizer.step()
    return norm
