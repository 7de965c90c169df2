"""`operant grpo`: improve a model with K answers to each prompt and advantages relative to their group."""

import dataclasses
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import grpo as algorithm
from operant.cli import common
from operant.cli.rlhf import World, improve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Improve a model by GRPO: PPO's update, with advantages relative to the group of answers to one prompt."""

    model: str
    """Model to improve, and reference: a model folder, a run or a hub name."""
    out: Path = Path("runs/grpo")
    """The run folder to write."""
    lora: int = 0
    """Rank of LoRA adapters; 0 trains all weights. The reference is then the model without them."""
    ptx_data: tuple[str, ...] = ()
    """Pretraining text to mix in; its weight is --ptx-coefficient."""
    world: OmitArgPrefixes[World]
    grpo: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)
    machine: OmitArgPrefixes[common.Machine] = dataclasses.field(default_factory=common.Machine)


def run(options: Options, resume: bool) -> None:
    improve(options, options.grpo, algorithm.train, "grpo", resume, ptx_data=options.ptx_data)
