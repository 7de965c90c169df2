"""All parameters of a network as one vector: one tensor to step, to measure, to copy or to move towards another."""

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


class Flat(nn.Parameter):
    """A vector whose stretches are the parameters of a module. Its gradient's stretches are their gradients."""


_VECTORS: WeakKeyDictionary[nn.Module, tuple[Flat, nn.Parameter, bool]] = WeakKeyDictionary()
"""(vector, the first parameter in it, whether all parameters are in it) of flattened modules."""


@torch.no_grad()
def flatten(module: nn.Module) -> Flat:
    """Move the trainable parameters of `module` into one vector [N], in their order, and return it.

    From then on a step of an optimiser on the vector is a step of the module. Gradients must be set to 0 in place, as
    `descend` does: None would part them. `copy.deepcopy` and `module.to` part the parameters too; flatten what they
    give anew.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    sizes = [p.numel() for p in parameters]
    flat = Flat(torch.cat([p.flatten() for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    for p, stretch, slope in zip(parameters, flat.data.split(sizes), flat.grad.split(sizes), strict=True):
        p.data, p.grad = stretch.view_as(p), slope.view_as(p)
    _VECTORS[module] = flat, parameters[0], all(p.requires_grad for p in module.parameters())
    return flat


def vector(module: nn.Module, whole: bool = False) -> Flat | None:
    """The vector that `flatten` made of this module; None where there is none, or its parts have left it.

    If `whole`, also where some parameters, which were frozen, are not in it.
    """
    flat, first, complete = _VECTORS.get(module, (None, None, False))
    if flat is None or first is None or flat.grad is None or first.grad is None or (whole and not complete):
        return None
    joined = (first.data_ptr(), first.grad.data_ptr()) == (flat.data_ptr(), flat.grad.data_ptr())
    return flat if joined else None


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """What an optimiser of `module` steps: the one vector of a flattened module, or else its trainable parameters."""
    flat = vector(module)
    return [flat] if flat is not None else [p for p in module.parameters() if p.requires_grad]


@torch.no_grad()
def move_towards(target: Tensor, source: Tensor, tau: float) -> None:
    """target ← (1 - τ) target + τ source, for two vectors (Lillicrap et al. 2016, algorithm 1)."""
    target.lerp_(source, tau)


@torch.no_grad()
def shorten(gradient: Tensor, longest: float) -> Tensor:
    """Scale the vector `gradient` in place to a norm of at most `longest`; its norm before, []."""
    norm = torch.linalg.vector_norm(gradient)
    if math.isfinite(longest):
        gradient.mul_(shortening(norm.item(), longest))
    return norm


def shortening(norm: float, longest: float) -> float:
    """What a gradient of this norm is multiplied with to be no longer than `longest`."""
    return min(longest / (norm + 1e-6), 1.0)
