"""Log-probabilities of chosen tokens, without autograd's several copies of the [tokens, vocabulary] table of logits."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

KEPT = 16 * 1024 * 1024
"""Up to so many probabilities wait for the way back; for more, logits are computed a second time, tile by tile."""
TILE = 4 * 1024 * 1024
"""Logits that are computed together then."""
BLOCK = 128 * 1024
"""Logits that a CPU turns into probabilities together: 512 KB in float32, which stay in its cache."""


def linear_log_prob(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    target: Int[Tensor, " N"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """(log softmax(z)[target], entropy of softmax(z)) with z = (hidden Wᵀ + b) / temperature, in float32."""
    keep = torch.is_grad_enabled() and len(hidden) * len(weight) <= KEPT
    return _LinearLogProb.apply(hidden, weight, bias, target, temperature, keep)  # pyright: ignore[reportReturnType]


class _LinearLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float, keep: bool
    ):
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        log_prob, entropy, normaliser = torch.empty(3, len(hidden), device=hidden.device)
        low, shift = weight.to(dtype), None if bias is None else bias.to(dtype)
        z = None
        with torch.autocast(device, enabled=False):
            for tile in _slices(len(hidden), len(hidden) if keep else TILE // len(weight)):
                z = torch.nn.functional.linear(hidden[tile].to(dtype), low, shift)
                for block in _slices(len(z), BLOCK // len(weight) if device == "cpu" else len(z)):
                    rows = slice(tile.start + block.start, tile.start + block.stop)
                    x = z[block].to(torch.float32, copy=True)
                    x = x if temperature == 1.0 else x.div_(temperature)
                    chosen = x.gather(-1, target[rows].unsqueeze(-1)).squeeze(-1)
                    top = x.amax(-1, keepdim=True)
                    p = torch.exp(x.sub_(top))
                    total = p.sum(-1)
                    norm = total.log()
                    entropy[rows] = norm - torch.linalg.vecdot(p, x) / total  # H = log Z - E[z]
                    normaliser[rows] = norm + top.squeeze(-1)
                    log_prob[rows] = chosen - normaliser[rows]
                    if keep:
                        z[block] = p.div_(total.unsqueeze(-1))
        ctx.save_for_backward(hidden, weight, bias, target, normaliser, entropy)
        ctx.probabilities = z if keep else None
        ctx.temperature, ctx.dtype = temperature, dtype
        return log_prob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):
        grad_log_prob, grad_entropy = gradients
        hidden, weight, bias, target, normaliser, entropy = ctx.saved_tensors
        low, shift = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
        kept, ctx.probabilities = ctx.probabilities, None  # overwritten below, so of use once
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        with_entropy = bool(grad_entropy.any())
        for tile in _slices(len(hidden), len(hidden) if kept is not None else TILE // len(weight)):
            rows = hidden[tile].to(ctx.dtype)
            if kept is not None:
                p = kept
            else:
                z = torch.nn.functional.linear(rows, low, shift).float().div_(ctx.temperature)
                p = z.sub_(normaliser[tile].unsqueeze(-1)).exp_()
            # d log p_t / dz = [t] - p and dH / dz = -p (log p + H)
            chosen, spread = grad_log_prob[tile].to(p.dtype), grad_entropy[tile].to(p.dtype)
            bent = torch.xlogy(p, p).mul_(spread.unsqueeze(-1)) if with_entropy else None
            grad = p.mul_((chosen + spread * entropy[tile].to(p.dtype)).neg_().unsqueeze(-1))
            if bent is not None:
                grad -= bent
            grad[torch.arange(len(grad), device=grad.device), target[tile]] += chosen
            if ctx.temperature != 1.0:
                grad /= ctx.temperature
            grad = grad.to(ctx.dtype)
            grad_hidden[tile] = (grad @ low).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += (grad.T @ rows).to(weight.dtype)
            if grad_bias is not None:
                grad_bias += grad.sum(0).to(grad_bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _slices(count: int, size: int) -> list[slice]:
    """`count` rows in runs of `size`, which is at least 1 here."""
    size = max(size, 1)
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]
