"""The errors that a person is meant to read."""

from typing import Any

import torch
from torch import Tensor


class InputError(ValueError):
    """Something given to Operant cannot be used.

    The message says what was wrong, the value, where (file and line if there is one) and what to do. The command line
    prints it without a traceback and exits with code 2.
    """


class Diverged(RuntimeError):
    """A loss, a gradient or a reward is no longer a finite number. `record` is the batch that showed it."""

    def __init__(self, message: str, record: Any = None) -> None:
        super().__init__(message)
        self.record = record


def require_finite(x: Tensor | float, what: str, step: int, record: Any = None) -> None:
    """Raise `Diverged` unless every element of `x` is finite."""
    bad = ~torch.isfinite(torch.as_tensor(x))
    if bad.any():
        value = torch.as_tensor(x)[bad].flatten()[0].item()
        raise Diverged(
            f"step {step}: the {what} is {value}. The last checkpoint is intact; a smaller learning rate, or float32 "
            "instead of a 16-bit type, is the usual cure",
            record,
        )
