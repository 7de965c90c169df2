"""`operant rloo`: improve a model with K answers to each prompt and a leave-one-out baseline."""

import dataclasses
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference import rloo as algorithm
from operant.cli import common
from operant.cli.rlhf import World, improve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Improve a model by RLOO: PPO's update, with the mean of the other answers in place of a value function."""

    model: str
    """Model to improve, and reference: a model folder, a run or a hub name."""
    out: Path = Path("runs/rloo")
    """The run folder to write."""
    lora: int = 0
    """Rank of LoRA adapters; 0 trains all weights. The reference is then the model without them."""
    ptx_data: tuple[str, ...] = ()
    """Pretraining text to mix in; its weight is --ptx-coefficient."""
    world: OmitArgPrefixes[World]
    rloo: OmitArgPrefixes[algorithm.Config] = dataclasses.field(default_factory=algorithm.Config)
    machine: OmitArgPrefixes[common.Machine] = dataclasses.field(default_factory=common.Machine)


def run(options: Options, resume: bool) -> None:
    improve(options, options.rloo, algorithm.train, "rloo", resume, ptx_data=options.ptx_data)
