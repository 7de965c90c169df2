"""RMSProp on vectors: a few in-place operations, also on memory that several processes share."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def rmsprop(
    weights: Float[Tensor, " N"],
    gradient: Float[Tensor, " N"],
    mean_square: Float[Tensor, " N"],
    learning_rate: float,
    decay: float = 0.99,
    epsilon: float = 1e-5,
) -> None:
    """m ← ρ m + (1 - ρ) g²,  w ← w - α g / √(m + ε), both in place (Mnih et al. 2016, eq. 8 and 9)."""
    mean_square.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
    weights.addcdiv_(gradient, mean_square.add(epsilon).sqrt_(), value=-learning_rate)
