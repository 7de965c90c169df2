"""Log-probabilities of chosen tokens, without ever holding the [tokens, vocabulary] table of logits."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 4 * 1024 * 1024
"""Logits held at once: 16 MB in float32, a few times that on the way back."""


def linear_log_prob(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    target: Int[Tensor, " N"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """(log softmax(z)[target], entropy of softmax(z)) with z = (hidden Wᵀ + b) / temperature, in float32.

    Rows go through in tiles; the way back computes each tile's logits a second time.
    """
    return _LinearLogProb.apply(hidden, weight, bias, target, temperature)  # pyright: ignore[reportReturnType]


def _tiles(rows: int, vocabulary: int) -> range:
    return range(0, rows, max(TILE // vocabulary, 1))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits if temperature == 1.0 else logits / temperature


class _LinearLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float):
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        low = weight.to(dtype)
        log_prob, entropy, normaliser = torch.empty(3, len(hidden), device=hidden.device)
        step = _tiles(len(hidden), len(weight)).step
        with torch.autocast(device, enabled=False):
            for i in _tiles(len(hidden), len(weight)):
                tile = slice(i, i + step)
                z = _logits(hidden[tile].to(dtype), low, None if bias is None else bias.to(dtype), temperature)
                chosen = z.gather(-1, target[tile].unsqueeze(-1)).squeeze(-1)
                top = z.amax(-1, keepdim=True)
                p = torch.exp(z.sub_(top))
                total = p.sum(-1)
                norm = total.log()
                entropy[tile] = norm - torch.linalg.vecdot(p, z) / total  # H = log Z - E[z]
                normaliser[tile] = norm + top.squeeze(-1)
                log_prob[tile] = chosen - normaliser[tile]
        ctx.save_for_backward(hidden, weight, bias, target, normaliser, entropy)
        ctx.temperature, ctx.dtype = temperature, dtype
        return log_prob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):
        grad_log_prob, grad_entropy = gradients
        hidden, weight, bias, target, normaliser, entropy = ctx.saved_tensors
        low = weight.to(ctx.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        with_entropy = bool(grad_entropy.any())
        step = _tiles(len(hidden), len(weight)).step
        for i in _tiles(len(hidden), len(weight)):
            tile = slice(i, i + step)
            rows = hidden[tile].to(ctx.dtype)
            z = _logits(rows, low, None if bias is None else bias.to(ctx.dtype), ctx.temperature)
            log_p = z.sub_(normaliser[tile].unsqueeze(-1))
            if with_entropy:
                p = log_p.exp()
                slope = grad_log_prob[tile].unsqueeze(-1) + grad_entropy[tile].unsqueeze(-1) * (
                    log_p + entropy[tile].unsqueeze(-1)
                )
                grad = p.mul_(slope.neg_())
            else:
                grad = log_p.exp_().mul_(-grad_log_prob[tile].unsqueeze(-1))
            grad[torch.arange(len(grad), device=grad.device), target[tile]] += grad_log_prob[tile]
            if ctx.temperature != 1.0:
                grad /= ctx.temperature
            grad = grad.to(ctx.dtype)
            grad_hidden[tile] = (grad @ low).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += (grad.T @ rows).to(weight.dtype)
            if grad_bias is not None:
                grad_bias += grad.sum(0).to(grad_bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None
