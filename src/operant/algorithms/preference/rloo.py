"""RLOO: REINFORCE with a leave-one-out baseline (Kool et al. 2019; Ahmadian et al. 2024).

    repeat
        roll out   K responses to each prompt
        evaluate   Â = R - mean of the other K - 1 returns, R = score - β log π/π_ref of the whole response
        optimise   the same update as PPO's, without a value function

Differs from `rlhf.py` in the advantage alone: the other responses to a prompt take the place of the critic.
"""

import dataclasses
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from operant.algorithms.policy_gradient import ppo
from operant.algorithms.preference import rlhf
from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.text.world import PromptWorld


@dataclasses.dataclass(frozen=True)
class Config(rlhf.Config):
    completions: int = 4
    """Responses to each prompt, K."""
    rollout: int = 32
    """Prompts in a rollout."""
    epochs: int = 1
    """Passes over each rollout."""
    value_coefficient: float = 0.0
    """Weight of the value loss; there is no value function here."""
    value_clip: float | None = None
    """Limit on how far a value may move; there is no value function here."""
    standardize_advantages: bool = False
    """Advantages of a minibatch get mean 0 and deviation 1."""


init = rlhf.init


def check(state: rlhf.State, config: Config) -> None:
    """Raise InputError unless each prompt gets K > 1 responses, or if a setting of PPO's critic would do nothing."""
    world: PromptWorld = state.ppo.world  # pyright: ignore[reportAssignmentType]
    if config.completions < 2:
        raise InputError(
            f"completions is {config.completions}: a response is judged by the others to its prompt; ask for 2 or more"
        )
    if world.completions != config.completions:
        raise InputError(
            f"the world gives {world.completions} responses to a prompt, completions is {config.completions}: make "
            "them equal"
        )
    for name in ("gamma", "lambda_", "value_coefficient", "value_clip"):
        given, only = getattr(config, name), getattr(Config, name)
        if given != only:
            raise InputError(f"{name} is {given}, but without a value function it does nothing: leave it at {only}")


def returns(trajectory: Trajectory, config: Config) -> Float[Tensor, "P K"]:
    """Undiscounted return of every response, the K of a prompt in a row."""
    return trajectory.reward.sum(-1).view(-1, config.completions)


def over_tokens(advantage: Float[Tensor, "P K"], trajectory: Trajectory) -> ppo.Batch:
    """Every token of a response gets the response's advantage; the target is the value itself."""
    each = advantage.flatten().unsqueeze(-1) * trajectory.mask
    return ppo.Batch(trajectory, each, trajectory.value)


def prepare(trajectory: Trajectory, config: Config) -> ppo.Batch:
    """Â_k = R_k - 1/(K - 1) Σ_{j≠k} R_j = K/(K - 1) (R_k - mean R)."""
    r, k = returns(trajectory, config), config.completions
    return over_tokens((r - r.mean(-1, keepdim=True)) * k / (k - 1), trajectory)


def train(state: rlhf.State, config: Config) -> Iterator[rlhf.Metrics]:
    """Yields after every update. Raises InputError before the first one as `check` does."""
    check(state, config)
    return rlhf.train(state, config, prepare)  # pyright: ignore[reportArgumentType]
