"""`operant rloo`: improve a model with K answers to each prompt and a leave-one-out baseline."""

import dataclasses
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import rloo as algorithm
from operant.cli.rlhf import Improvement, improve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Improvement):
    """Improve a model by RLOO: PPO's update, with the mean of the other answers in place of a value function."""

    out: Path = Path("runs/rloo")
    """The run folder to write."""
    rloo: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)


def run(options: Options, resume: bool) -> None:
    improve(options, options.rloo, algorithm.train, "rloo", resume)
