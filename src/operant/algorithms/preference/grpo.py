"""GRPO: group relative policy optimisation (Shao et al. 2024, "DeepSeekMath", section 4.1).

    repeat
        roll out   K responses to each prompt
        evaluate   Â = (R - mean of the group) / deviation of the group
        optimise   the same update as PPO's, without a value function

Differs from `rlhf.py` in the advantage alone. The KL to the reference is part of the return, as in RLHF; the paper puts
the same penalty beside the surrogate instead.
"""

import dataclasses
from collections.abc import Iterator

from operant.algorithms.policy_gradient import ppo
from operant.algorithms.preference import rlhf, rloo
from operant.core.record import Trajectory


@dataclasses.dataclass(frozen=True)
class Config(rloo.Config):
    advantage_epsilon: float = 1e-4
    """Added to the group's deviation, so that a group of equal returns teaches nothing."""


init = rlhf.init


def prepare(trajectory: Trajectory, config: Config) -> ppo.Batch:
    """Â_k = (R_k - mean R) / (std R + ε) within the responses to one prompt."""
    r = rloo.returns(trajectory, config)
    deviation = r.std(-1, keepdim=True, correction=0)
    return rloo.over_tokens((r - r.mean(-1, keepdim=True)) / (deviation + config.advantage_epsilon), trajectory)


def train(state: rlhf.State, config: Config) -> Iterator[rlhf.Metrics]:
    """Yields after every update. Raises InputError before the first one as `rloo.check` does."""
    rloo.check(state, config)
    return rlhf.train(state, config, prepare)  # pyright: ignore[reportArgumentType]
