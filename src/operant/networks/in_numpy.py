"""A perceptron as a function of NumPy arrays: for one row, a third of the time that PyTorch takes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Function = Callable[[NDArray[Any]], NDArray[Any]]


def in_numpy(network: nn.Sequential) -> Function:
    """`network` without gradients, from arrays [B, ...] to arrays, on the memory of its parameters.

    It follows them as long as they are changed in place, as optimisers do. A network with other layers than Linear,
    ReLU, Tanh and such as have an `in_numpy` of their own, or on an accelerator, goes through PyTorch.
    """
    layers = [_layer(x) for x in network]
    if any(x is None for x in layers):
        return _through_torch(network)

    def forward(x: NDArray[Any]) -> NDArray[Any]:
        for layer in layers:
            x = layer(x)  # pyright: ignore[reportOptionalCall]
        return x

    return forward


def _layer(module: nn.Module) -> Function | None:
    if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
        weight, bias = module.weight.detach().numpy().T, module.bias.detach().numpy()
        return lambda x: x @ weight + bias
    if isinstance(module, nn.ReLU):
        return lambda x: np.maximum(x, 0.0)
    if isinstance(module, nn.Tanh):
        return np.tanh
    return getattr(module, "in_numpy", None)


def _through_torch(network: nn.Module) -> Function:
    device = next(network.parameters()).device

    @torch.no_grad()
    def forward(x: NDArray[Any]) -> NDArray[Any]:
        output: Tensor = network(torch.from_numpy(x).to(device))
        return output.cpu().numpy()

    return forward
