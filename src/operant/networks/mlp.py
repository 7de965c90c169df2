"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(sizes: Sequence[int], gain: float = 1.0, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers of `sizes` with `activation` between them, orthogonal weights and zero biases.

    Hidden layers have gain √2, the last one `gain`: 0.01 for a policy, 1 for a value (Huang et al. 2022, detail 2).
    """
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        layer = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(layer.weight, gain if last else 2**0.5)
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, activation()]
    return nn.Sequential(*layers)
