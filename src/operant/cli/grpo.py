"""`operant grpo`: improve a model with K answers to each prompt and advantages relative to their group."""

import dataclasses
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import grpo as algorithm
from operant.cli.rlhf import Improvement, improve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Improvement):
    """Improve a model by GRPO: PPO's update, with advantages relative to the group of answers to one prompt."""

    out: Path = Path("runs/grpo")
    """The run folder to write."""
    grpo: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)


def run(options: Options, resume: bool) -> None:
    improve(options, options.grpo, algorithm.train, "grpo", resume)
