"""All parameters of a network as one vector: one tensor to step, to measure, to copy or to move towards another."""

import torch
from torch import Tensor, nn


class Flat(nn.Parameter):
    """A vector whose stretches are the parameters of a module. Its gradient's stretches are their gradients."""


@torch.no_grad()
def flatten(module: nn.Module) -> Flat:
    """Move the trainable parameters of `module` into one vector [N], in their order, and return it.

    From then on a step of an optimiser on the vector is a step of the module. Gradients must be set to 0 in place, as
    `descend` does: None would part them. `copy.deepcopy` and `module.to` part the parameters too; flatten what they
    give anew.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    vector = torch.cat([p.flatten() for p in parameters])
    for p, stretch in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        p.data = stretch.view_as(p)
    return _vector(parameters, vector)


@torch.no_grad()
def trainable(module: nn.Module) -> list[nn.Parameter]:
    """What an optimiser of `module` steps: the one vector of a flattened module, or else its trainable parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    starts = [p.data_ptr() for p in parameters]
    ends = [p.data_ptr() + p.nbytes for p in parameters]
    total = sum(p.nbytes for p in parameters)
    if len(parameters) < 2 or starts[1:] != ends[:-1] or parameters[0].untyped_storage().nbytes() != total:
        return parameters
    vector = torch.empty(0, dtype=parameters[0].dtype).set_(parameters[0].untyped_storage())  # pyright: ignore
    return [_vector(parameters, vector)]


def _vector(parameters: list[nn.Parameter], vector: Tensor) -> Flat:
    flat = Flat(vector)
    flat.grad = torch.zeros_like(vector)
    for p, stretch in zip(parameters, flat.grad.split([p.numel() for p in parameters]), strict=True):
        p.grad = stretch.view_as(p)
    return flat


@torch.no_grad()
def move_towards(target: Tensor, source: Tensor, tau: float) -> None:
    """target ← (1 - τ) target + τ source, for two vectors (Lillicrap et al. 2016, algorithm 1)."""
    target.lerp_(source, tau)
