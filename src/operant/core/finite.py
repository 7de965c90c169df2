"""The check that stops a run before NaN spreads."""

import math
from typing import Any

import torch
from torch import Tensor

from operant.core.errors import Diverged

USUAL = "a smaller learning rate, or float32 instead of a 16-bit type, is the usual cure"


def require_finite(x: Tensor | float, what: str, step: int, record: Any = None, cure: str = USUAL) -> None:
    """Raise `Diverged` unless every element of `x` is finite."""
    if isinstance(x, Tensor) and x.ndim == 0:
        x = x.item()
    if isinstance(x, float) and math.isfinite(x):
        return
    bad = ~torch.isfinite(torch.as_tensor(x))
    if bad.any():
        value = torch.as_tensor(x)[bad].flatten()[0].item()
        raise Diverged(f"step {step}: the {what} is {value}; {cure}", record)
