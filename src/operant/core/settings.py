"""What numbers among the settings of a run may be, for checks that many algorithms share."""

import math
from typing import Any

from operant.core.errors import InputError


def require_counts(config: Any, *names: str) -> None:
    """Raise `InputError` for a field of `config` that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}: give a whole number, 1 or more")


def require_within(config: Any, low: float, high: float, *names: str) -> None:
    """Raise `InputError` for a field of `config` outside [low, high]; NaN is outside, infinity may be the end."""
    for name in names:
        if not low <= getattr(config, name) <= high:
            needed = f", {low:g} or more" if math.isinf(high) else f" from {low:g} to {high:g}"
            raise InputError(f"{name} is {getattr(config, name)}: give a number{needed}")
