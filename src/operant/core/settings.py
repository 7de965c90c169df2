"""What numbers among the settings of a run may be, for checks that many algorithms share."""

import dataclasses
import math
from typing import Any

from operant.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class OffPolicy:
    """What DDPG, TD3 and SAC have to say alike: an actor and critics that learn from replay."""

    steps: int = 1_000_000
    """Steps of all environments together."""
    report_every: int = 1000
    """Steps between two lines of metrics."""
    capacity: int = 1_000_000
    """Transitions that the replay buffer keeps."""
    learning_starts: int = 10_000
    """Steps before the first update; their actions are random."""
    train_every: int = 1
    """Steps between two updates."""
    gradient_steps: int = 1
    """Minibatches of an update."""
    batch: int = 256
    """Transitions in a minibatch."""
    actor_learning_rate: float = 3e-4
    """Step size of the actor's Adam; for SAC of log α too."""
    critic_learning_rate: float = 3e-4
    """Step size of the critics' Adam."""
    gamma: float = 0.99
    """Discount γ."""
    tau: float = 0.005
    """How far target networks move at a time; 1 = a copy."""


def require_off_policy(config: Any, envs: int) -> None:
    """Raise `InputError` for settings with which no algorithm learns from the replay of `envs` environments."""
    require_counts(config, "report_every", "train_every", "gradient_steps", "batch")
    if config.train_every % envs:
        raise InputError(
            f"train_every {config.train_every} steps cannot be shared equally by {envs} environments: give a multiple "
            "of their number"
        )
    if not 0 < config.tau <= 1:
        raise InputError(f"tau {config.tau} moves target networks nowhere or too far: give a number above 0, up to 1")


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
