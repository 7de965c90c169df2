"""One step of gradient descent, the same in every algorithm."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from operant.core.errors import require_finite


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
    optimizer.zero_grad()
    for loss in losses:
        loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, max_gradient_norm)
    require_finite(norm, "gradient's norm", step, record)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    return norm
