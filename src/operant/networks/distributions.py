"""Distributions as functions of their parameters: faster in inner loops than `torch.distributions`, and equal to it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def categorical_sample(logits: Float[Tensor, "*B A"]) -> Int[Tensor, "*B"]:
    """One draw a row by inverting the cumulative distribution: several times faster than `torch.multinomial`."""
    cumulative = logits.float().softmax(-1).cumsum(-1)
    point = torch.rand_like(cumulative[..., :1]) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def categorical_log_prob(logits: Float[Tensor, "*B A"], action: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """log softmax(logits)[action], without holding the softmax."""
    return logits.gather(-1, action.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def categorical_entropy(logits: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
    """-Σ p log p, in nats."""
    log_p = logits.log_softmax(-1)
    # The -inf of a forbidden action is removed before it is multiplied: afterwards its gradient would be 0 · inf.
    return -(log_p.exp() * torch.where(log_p == -torch.inf, 0.0, log_p)).sum(-1)
