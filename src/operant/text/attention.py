"""Attention that is fast on the way back in 16 bits on a CPU.

There torch's own backward of scaled dot-product attention takes up to four times as long as these matrix products.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class FastBackward(TorchFunctionMode):
    """Within it, attention under a CPU's 16-bit autocast is differentiated by `_Attention`; the rest is as it was."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func is scaled_dot_product_attention and _applies(args, options):
            query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in args)
            if options.get("enable_gqa"):
                groups = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            scale = options.get("scale") or query.shape[-1] ** -0.5
            return _Attention.apply(
                query, key, value, options.get("attn_mask"), options.get("is_causal", False), float(scale)
            )
        return func(*args, **options)


def _applies(args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Three tensors on a CPU that autocasts, of which a gradient is wanted, and no dropout."""
    return (
        len(args) == 3
        and args[0].device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and not options.get("dropout_p")
    )


class _Attention(torch.autograd.Function):
    """softmax(scale · Q Kᵀ + mask) V; the way back computes the softmax again instead of keeping it."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.causal, ctx.scale = causal, scale
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):
        (grad,) = gradients
        query, key, value, mask = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            score = (query * ctx.scale) @ key.mT
            if ctx.causal:
                score += torch.full(score.shape[-2:], float("-inf"), dtype=score.dtype).triu_(1)
            elif mask is not None and mask.dtype == torch.bool:
                score.masked_fill_(~mask, float("-inf"))
            elif mask is not None:
                score += mask.to(score.dtype)
            p = torch.softmax(score, -1)
            grad_value = p.mT @ grad
            grad_score = torch._softmax_backward_data(grad @ value.mT, p, -1, p.dtype)
            grad_query = (grad_score @ key).mul_(ctx.scale)
            grad_key = (grad_score.mT @ query).mul_(ctx.scale)
        return grad_query, grad_key, grad_value, None, None, None
