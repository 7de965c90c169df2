"""A perceptron as compiled loops over the vector of `core.flat`: forwards, and back to one vector of gradients.

What PyTorch computes from a few hundred rows is a dozen small operations, and as many on the way back; much of their
time is not arithmetic. Here it is one call each way.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from operant.core.flat import Flat, vector

ZERO, ONE = np.float32(0), np.float32(1)
# tanh x is x p(x²) / q(x²) to 3e-7 up to here, where it is 1 but for that: the coefficients of Eigen's fast tanh.
LIMIT = np.float32(7.905311)
P = tuple(map(np.float32, (
    4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08, -8.60467152213735e-11,
    2.00018790482477e-13, -2.76076847742355e-16,
)))  # fmt: skip
Q = tuple(map(np.float32, (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)))
VECTORISED = {"contract", "nsz", "arcp"}
"""Freedom for the compiler that keeps NaN and infinity what they are."""
Array = NDArray[np.float32]


class Layers(NamedTuple):
    """Where a perceptron is in the vector, and what its layers are."""

    at: int
    sizes: NDArray[np.int64]
    rectified: bool
    """ReLU between the layers; else tanh."""
    hidden: int
    """Units of its hidden layers together."""
    parameters: int


def layers_of(module: nn.Module, network: nn.Sequential) -> Layers | None:
    """The layers of `network`, a part of `module`; None if there are others than these loops know."""
    parts = list(network)
    linear, bends = [x for x in parts[::2] if isinstance(x, nn.Linear)], {type(x) for x in parts[1::2]}
    if len(linear) < len(parts[::2]) or len(parts) % 2 == 0 or any(x.bias is None for x in linear):
        return None
    if len(bends) > 1 or not bends <= {nn.Tanh, nn.ReLU}:
        return None
    sizes = np.array([linear[0].in_features, *(x.out_features for x in linear)])
    parameters = sum(x.weight.numel() + x.bias.numel() for x in linear)
    return Layers(place(module, linear[0].weight), sizes, nn.ReLU in bends, int(sizes[1:-1].sum()), parameters)


def place(module: nn.Module, parameter: Tensor) -> int:
    """Where `parameter` begins in the vector of `module`."""
    at = 0
    for p in module.parameters():
        if p is parameter:
            return at
        at += p.numel()
    raise ValueError("the parameter is none of this module")


def compilable(module: nn.Module) -> Flat | None:
    """The vector of a flattened module, if these loops can work on it."""
    flat = vector(module, whole=True)
    return flat if flat is not None and flat.device.type == "cpu" and flat.dtype == torch.float32 else None


def through(
    networks: Sequence[nn.Sequential], module: nn.Module, layers: Sequence[Layers | None], x: Shaped[Tensor, "*B D"]
) -> list[Tensor]:
    """`network(x)`, [*B, O], of each, where `layers` are their `layers_of(module, network)`: compiled if that can be.

    Gradients go to x and, unless the parameters are frozen, to the vector of `module`, and so to its parameters.
    """
    known = tuple(x for x in layers if x is not None)
    if len(known) < len(layers) or (flat := compilable(module)) is None:
        return [network(x) for network in networks]
    weights = flat if networks[0][0].weight.requires_grad else flat.detach()
    found: Any = _Outputs.apply(weights, known, x.reshape(-1, x.shape[-1]))
    return [y.view(*x.shape[:-1], y.shape[-1]) for y in found]


class _Outputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, parts: tuple[Layers, ...], x: Tensor) -> tuple[Tensor, ...]:
        weights, rows = flat.detach().numpy(), x.detach().contiguous().numpy()
        found = [forward(rows, weights, layers) for layers in parts]
        ctx.kept = (parts, weights, rows, [hidden for _, hidden in found])
        ctx.set_materialize_grads(False)
        return tuple(torch.from_numpy(y) for y, _ in found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        parts, weights, x, hidden = ctx.kept
        by_weights, _, by_x = ctx.needs_input_grad
        given = zip(parts, hidden, slopes, strict=True)
        used = [(*kept, slope.contiguous().numpy()) for *kept, slope in given if slope is not None]
        whole = sum(part.parameters for part, _, _ in used) == len(weights)
        gradient = (np.empty_like if whole else np.zeros_like)(weights) if by_weights else None
        below: list[Any] = [back(slope, x, weights, part, kept, gradient, by_x) for part, kept, slope in used]
        of_x = sum(below[1:], below[0]) if by_x else None
        return (*(None if g is None else torch.from_numpy(g) for g in (gradient, None, of_x)),)


def forward(x: Array, weights: Array, layers: Layers) -> tuple[Array, Array]:
    """(the outputs [N, O] for x [N, D], what `back` needs to know of the layers between)."""
    hidden = np.empty(len(x) * layers.hidden, np.float32)
    return _forward(x, weights, *layers[:3], hidden), hidden


def back(
    slope: Array, x: Array, weights: Array, layers: Layers, hidden: Array, gradient: Array | None, by_x: bool = False
) -> Array | None:
    """From the gradient `slope` of the outputs that of x, if it is asked for, and of the weights, into `gradient`.

    In that vector [len(weights)] what was in the perceptron's place is lost.
    """
    below = np.empty_like(x) if by_x else x[:0]
    _back(slope, x, weights, *layers[:3], hidden, weights[:0] if gradient is None else gradient, below)
    return below if by_x else None


@numba.njit(cache=True, fastmath=VECTORISED, error_model="numpy")
def _tanh(x):
    """tanh of every number, in place: one loop that is vectorised, as it would not be if it looked out for 0 / 0."""
    for i in range(x.shape[0]):
        v = min(max(x[i], -LIMIT), LIMIT)
        s = v * v
        p = P[0] + s * (P[1] + s * (P[2] + s * (P[3] + s * (P[4] + s * (P[5] + s * P[6])))))
        x[i] = v * p / (Q[0] + s * (Q[1] + s * (Q[2] + s * Q[3])))


@numba.njit(cache=True)
def _forward(x, weights, at, sizes, rectified, hidden):
    """The outputs [N, sizes[-1]] of a perceptron; `hidden` gets what its layers give."""
    rows, put, last = x.shape[0], 0, len(sizes) - 2
    for layer in range(last + 1):
        fan_in, fan_out = sizes[layer], sizes[layer + 1]
        weight = weights[at : at + fan_in * fan_out].reshape(fan_out, fan_in)
        bias = weights[at + fan_in * fan_out : at + (fan_in + 1) * fan_out]
        at += (fan_in + 1) * fan_out
        if layer < last:
            given = hidden[put : put + rows * fan_out]
            put += rows * fan_out
        else:
            given = np.empty(rows * fan_out, np.float32)
        y = given.reshape(rows, fan_out)
        np.dot(x, weight.T, y)
        bend = layer < last and rectified
        for row in range(rows):
            for i in range(fan_out):
                z = y[row, i] + bias[i]
                y[row, i] = ZERO if bend and z < ZERO else z  # what is no number stays none
        if layer < last and not rectified:
            _tanh(given)
        x = y
    return x


@numba.njit(cache=True, fastmath=VECTORISED)
def _back(slope, x, weights, at, sizes, rectified, hidden, gradient, below_x):
    """From the gradient of a perceptron's outputs that of its inputs, and of its weights, where they are in the vector.

    A `gradient` or a `below_x` of no length is not asked for.
    """
    rows, last = x.shape[0], len(sizes) - 2
    put = len(hidden)
    for layer in range(last + 1):
        at += (sizes[layer] + 1) * sizes[layer + 1]
    for layer in range(last, -1, -1):
        fan_in, fan_out = sizes[layer], sizes[layer + 1]
        at -= (fan_in + 1) * fan_out
        put -= rows * fan_in if layer > 0 else 0
        given = hidden[put : put + rows * fan_in].reshape(rows, fan_in) if layer > 0 else x
        if len(gradient) > 0:
            bias = gradient[at + fan_in * fan_out : at + (fan_in + 1) * fan_out]
            bias[:] = ZERO
            for row in range(rows):
                for i in range(fan_out):
                    bias[i] += slope[row, i]
            np.dot(slope.T, given, gradient[at : at + fan_in * fan_out].reshape(fan_out, fan_in))
        if layer == 0 and len(below_x) == 0:
            return
        below = np.empty((rows, fan_in), np.float32) if layer > 0 else below_x
        np.dot(slope, weights[at : at + fan_in * fan_out].reshape(fan_out, fan_in), below)
        if layer == 0:
            return
        for row in range(rows):
            for i in range(fan_in):
                y = given[row, i]
                below[row, i] *= (ONE if y > ZERO else ZERO) if rectified else ONE - y * y
        slope = below
