"""Learning the values of actions: targets, losses, and the noise with which a deterministic policy explores.

`discount` is γ where an episode goes on, γⁿ after n steps, and 0 where the next state is terminal.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def td_target(
    reward: Float[Tensor, "*B"], discount: Float[Tensor, "*B"], next_value: Float[Tensor, "*B"]
) -> Float[Tensor, "*B"]:
    """r + γ v(s'): what Q(s, a) is moved to. v(s') is max_a Q'(s', a) for DQN (Mnih et al. 2015, eq. 1)."""
    return reward + discount * next_value


def double_q_value(online: Float[Tensor, "*B A"], target: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
    """Q'(s', argmax_a Q(s', a)): the online network chooses, the target one judges (van Hasselt et al. 2016, eq. 4).

    The maximum of noisy estimates is too high on average; a second estimate of what the first one chose is not.
    """
    return target.gather(-1, online.argmax(-1, keepdim=True)).squeeze(-1)


def soft_value(
    action_value: Float[Tensor, "*B"], log_prob: Float[Tensor, "*B"], alpha: Float[Tensor, ""] | float
) -> Float[Tensor, "*B"]:
    """Q(s, a) - α log π(a|s) with a ~ π: a sample of the soft value of s (Haarnoja et al. 2018, eq. 3)."""
    return action_value - alpha * log_prob


def huber_loss(value: Float[Tensor, "*B"], target: Float[Tensor, "*B"], threshold: float = 1.0) -> Float[Tensor, "*B"]:
    """½ δ² where |δ| ≤ κ, and κ (|δ| - ½ κ) beyond, with δ = value - target (Huber 1964).

    Its gradient is δ clipped to ±κ, as Mnih et al. 2015 clip it. κ = ∞ is the squared error.
    """
    return F.huber_loss(value, target, reduction="none", delta=threshold)


def ornstein_uhlenbeck(noise: Float[Tensor, "*B"], theta: float, sigma: float) -> Float[Tensor, "*B"]:
    """x ← x - θ x + σ N(0, 1): noise that stays on one side for about 1/θ steps (Lillicrap et al. 2016, section 7).

    In the long run its deviation is σ / √(θ (2 - θ)).
    """
    return noise - theta * noise + sigma * torch.randn_like(noise)
