"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from operant.core.errors import InputError

Initialisation = Literal["orthogonal", "normalised", "xavier", "torch"]


def mlp(
    sizes: Sequence[int],
    gain: float = 1.0,
    activation: type[nn.Module] = nn.Tanh,
    initialisation: Initialisation = "orthogonal",
) -> nn.Sequential:
    """Linear layers of `sizes` with `activation` between them, their weights set by `initialise`.

    Hidden layers have gain √2 (`normalised` and `xavier`: 1), the last one `gain`: 0.01 for a policy, 1 for a value
    (Huang et al. 2022, detail 2).
    """
    inner = 2**0.5 if initialisation == "orthogonal" else 1.0
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        layer = nn.Linear(fan_in, fan_out)
        initialise(layer, initialisation, gain if last else inner)
        layers += [layer] if last else [layer, activation()]
    return nn.Sequential(*layers)


@torch.no_grad()
def initialise(layer: nn.Linear | nn.Conv2d, name: Initialisation, gain: float = 1.0) -> None:
    """Set the weights of `layer` by name, and its biases to 0.

    "orthogonal": WWᵀ = gain² I. "normalised": the weights into each unit have length gain (the first public PPO).
    "xavier": uniform, variance 2 gain² / (fan in + fan out). "torch": PyTorch's own, biases included, without a gain.
    Raises `InputError` for another name.
    """
    weight: Tensor = layer.weight
    if name == "torch":
        layer.reset_parameters()
        return
    if name == "orthogonal":
        nn.init.orthogonal_(weight, gain)
    elif name == "normalised":
        nn.init.normal_(weight)
        weight *= gain / weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
    elif name == "xavier":
        nn.init.xavier_uniform_(weight, gain)
    else:
        raise InputError(f"no initialisation {name!r}: choose one of {', '.join(get_args(Initialisation))}")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
