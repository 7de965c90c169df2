"""Linear equations of a matrix that is too large to be written down, and the one that a natural gradient solves.

A x = b      A symmetric and positive definite, known by its products v -> A v
F x = g      F the Fisher matrix of a policy, g a gradient: x is the natural gradient (Amari 1998; Kakade 2001)
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from operant.core.errors import InputError

Product = Callable[[Tensor], Tensor]


def conjugate_gradient(
    product: Product, b: Float[Tensor, " N"], iterations: int = 10, tolerance: float = 1e-5
) -> Float[Tensor, " N"]:
    """x with A x = b after at most `iterations` products, sooner where |b - A x| <= tolerance |b|.

    After k of them x minimises ½ xᵀA x - bᵀx over the span of b, A b, ..., A^(k-1) b; N are exact but for rounding
    (Hestenes and Stiefel 1952). Raises `InputError` where A shows that it is not positive definite.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    length = residual @ residual
    enough = tolerance**2 * length
    for i in range(iterations):
        if length <= enough:
            break
        image = product(direction)
        curvature = direction @ image
        if not curvature > 0:
            raise InputError(
                f"product {i + 1} of conjugate gradient has the curvature {curvature:.3g}, and a positive definite "
                "matrix has one above 0: add damping to it"
            )
        step = length / curvature
        x += step * direction
        residual -= step * image
        before, length = length, residual @ residual
        direction = residual + (length / before) * direction
    return x


def fisher_product(kl: Float[Tensor, ""], parameters: Sequence[Tensor], damping: float = 0.0) -> Product:
    """v -> (F + damping I) v, with F the Hessian of `kl` in the `parameters`, as one vector, by double backward.

    Where `kl` is the mean KL(π_old || π) at π = π_old, its Hessian is the Fisher matrix E[∇log π ∇log πᵀ] of the states
    it is a mean over (Schulman et al. 2015, appendix C.1).
    """
    gradient = flat_gradient(kl, parameters, create_graph=True)
    return lambda v: flat_gradient(gradient @ v, parameters, retain_graph=True) + damping * v


def sampled_fisher_product(
    log_prob: Float[Tensor, " N"], parameters: Sequence[Tensor], damping: float = 0.0
) -> Product:
    """v -> (F + damping I) v, with F = 1/N Σ ψ ψᵀ over the actions that were taken, ψ = ∇log π(a|s).

    F x = 1/N Σ ψ Â are the normal equations of the compatible critic xᵀψ ≈ Â: its weights are the natural gradient
    (Peters and Schaal 2008, section 3).
    """
    # Σ_i u_i ψ_i is linear in u, so its derivative in u along v is ψᵀv for every decision.
    u = torch.zeros_like(log_prob, requires_grad=True)
    weighted = flat_gradient(log_prob @ u, parameters, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (along,) = torch.autograd.grad(weighted @ v, u, retain_graph=True)
        return flat_gradient(log_prob @ along, parameters, retain_graph=True) / len(log_prob) + damping * v

    return product


def flat_gradient(
    x: Float[Tensor, ""], parameters: Sequence[Tensor], create_graph: bool = False, retain_graph: bool | None = None
) -> Float[Tensor, " N"]:
    """∇x as one vector, in the order of `parameters`; 0 for those that x does not depend on."""
    gradients = torch.autograd.grad(
        x, parameters, create_graph=create_graph, retain_graph=retain_graph, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])
