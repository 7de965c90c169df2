"""Attention for learning on a CPU: rows strung together in one, and a way back that is fast in 16 bits.

A network calls `scaled_dot_product_attention`; within `OwnAttention` it gets one of these two instead.

- Rows behind one another in a single row (`pack(..., flat=True)`): each stretch attends to its prompt and to itself,
  which is a third of the table that padded rows with a mask would compute, and no place is padding.
- Padded rows: torch's own attention, but in 16 bits its backward takes up to four times as long as these products.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

BLOCK = 256
"""Queries taken at once: more waste the keys after them, fewer waste calls."""
MULTIPLE = 32
"""Lengths of products are rounded up to this: a CPU makes a new 16-bit kernel for every shape."""


class OwnAttention(TorchFunctionMode):
    """Within it, attention is that of `spans` where they are given, and else has a fast way back in 16 bits."""

    def __init__(self, spans: Int[Tensor, "S 4"] | None) -> None:
        super().__init__()
        self.spans = spans

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func is not scaled_dot_product_attention or not (self.spans is not None or _is_slow(args, options)):
            return func(*args, **options)
        query, key, value = args[:3]
        if torch.is_autocast_enabled(query.device.type):
            query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in args)
        if options.get("enable_gqa"):
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scale = float(options.get("scale") or query.shape[-1] ** -0.5)
        if self.spans is not None:
            return span_attention(query, key, value, self.spans, scale)
        return _Attention.apply(query, key, value, options.get("attn_mask"), options.get("is_causal", False), scale)


def _is_slow(args: tuple[Any, ...], options: dict[str, Any]) -> bool:
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


@torch.library.custom_op("operant::span_attention", mutates_args=())
def span_attention(query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float) -> Tensor:
    """softmax(scale · Q Kᵀ) V where, for each (a, b, c, d) of `spans`, c to d see a to b and those before them from c.

    Tensors are [1, H, N, D], heads by places by width, and spans [S, 4]. The result is 0 at places of no span. It is
    an operator of its own so that a compiler leaves it whole.
    """
    _, heads, places, _ = query.shape
    # The network joins the heads of a place next, so they lie side by side.
    found = query.new_zeros(places, heads, value.shape[-1])
    with torch.autocast("cpu", enabled=False):
        for prompt, own in _stretches(spans):
            q = _gather(query, slice(0, 0), own).mul_(scale)
            k, v = _gather(key, prompt, own), _gather(value, prompt, own)
            for block, seen, p in _probabilities(q, k, prompt, own):
                count = min(block.stop, own.stop - own.start) - block.start
                out = torch.bmm(p, v[:, :seen])[:, :count]
                found[own.start + block.start : own.start + block.start + count] = out.transpose(0, 1)
    return found.unsqueeze(0).transpose(1, 2)


@span_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float) -> Tensor:
    _, heads, places, _ = query.shape
    return query.new_empty(1, places, heads, value.shape[-1]).transpose(1, 2)


@torch.library.custom_op("operant::span_attention_backward", mutates_args=())
def _span_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to query, key and value; the softmax is computed again instead of kept."""
    grad_query, grad_key, grad_value = (torch.zeros_like(x) for x in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        for prompt, own in _stretches(spans):
            q = _gather(query, slice(0, 0), own).mul_(scale)
            g = _gather(grad, slice(0, 0), own)
            k, v = _gather(key, prompt, own), _gather(value, prompt, own)
            grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
            for block, seen, p in _probabilities(q, k, prompt, own):
                count = min(block.stop, own.stop - own.start) - block.start
                grad_v[:, :seen] += torch.bmm(p.mT, g[:, block])
                grad_score = torch._softmax_backward_data(torch.bmm(g[:, block], v[:, :seen].mT), p, -1, p.dtype)
                grad_k[:, :seen] += torch.bmm(grad_score.mT, q[:, block])
                part = torch.bmm(grad_score, k[:, :seen])[:, :count].mul_(scale)
                grad_query[0, :, own.start + block.start : own.start + block.start + count] = part
            before, length = prompt.stop - prompt.start, own.stop - own.start
            for whole, part in ((grad_key, grad_k), (grad_value, grad_v)):
                if before:
                    whole[0, :, prompt] += part[:, :before]
                whole[0, :, own] += part[:, before : before + length]
    return grad_query, grad_key, grad_value


@_span_attention_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_span_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None, None


span_attention.register_autograd(_backward, setup_context=_save)


def _stretches(spans: Tensor) -> Iterator[tuple[slice, slice]]:
    """The prompt's places and the own places of each span."""
    for a, b, c, d in spans.tolist():
        yield slice(a, b), slice(c, d)


def _up(n: int) -> int:
    return -(-n // MULTIPLE) * MULTIPLE


def _gather(x: Tensor, prompt: slice, own: slice) -> Float[Tensor, "H n D"]:
    """The prompt's places, then the own ones, then zeros up to a round number that covers every block's keys."""
    before, length = prompt.stop - prompt.start, own.stop - own.start
    found = x.new_empty(x.shape[1], _up(before + _up(length)), x.shape[-1])
    if before:
        found[:, :before] = x[0, :, prompt]
    found[:, before : before + length] = x[0, :, own]
    found[:, before + length :] = 0
    return found


def _probabilities(q: Tensor, k: Tensor, prompt: slice, own: slice) -> Iterator[tuple[slice, int, Tensor]]:
    """(queries, number of keys they may see, attention) block by block; `q` is scaled.

    Query i sees keys up to `before` + i. Zeros that fill up `k` stand later than that for every query that counts.
    """
    before, length = prompt.stop - prompt.start, _up(own.stop - own.start)
    bias = q.new_full((min(BLOCK, length), min(BLOCK, length) + MULTIPLE), float("-inf")).triu_(1)
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        seen = _up(before + stop)
        score = torch.bmm(q[:, start:stop], k[:, :seen].mT)
        last = score[:, :, before + start :]
        last += bias[: stop - start, : last.shape[-1]]
        yield slice(start, stop), seen, torch.softmax(score, -1)
