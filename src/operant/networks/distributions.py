"""Distributions as functions of their parameters: faster in inner loops than `torch.distributions`, and equal to it."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

LOG_2_PI = math.log(2 * math.pi)


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


def categorical_kl(logits: Float[Tensor, "*B A"], other: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
    """KL(p || q) = Σ p (log p - log q), in nats, of the logits of p and those of q = `other`."""
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    # What p never takes adds nothing, whatever q says of it: 0 · (-inf + inf) would be NaN.
    return (log_p.exp() * torch.where(log_p == -torch.inf, 0.0, log_p - log_q)).sum(-1)


def multi_categorical_sample(logits: Float[Tensor, "*B A"], sizes: Sequence[int]) -> Int[Tensor, "*B K"]:
    """One draw from each of K independent categoricals, whose logits stand side by side: A = Σ sizes."""
    return torch.stack([categorical_sample(part) for part in logits.split(list(sizes), -1)], -1)


def multi_categorical_log_prob(
    logits: Float[Tensor, "*B A"], action: Int[Tensor, "*B K"], sizes: Sequence[int]
) -> Float[Tensor, "*B"]:
    """Σ_k log π_k(a_k)."""
    parts = zip(logits.split(list(sizes), -1), action.unbind(-1), strict=True)
    return torch.stack([categorical_log_prob(part, chosen) for part, chosen in parts]).sum(0)


def multi_categorical_entropy(logits: Float[Tensor, "*B A"], sizes: Sequence[int]) -> Float[Tensor, "*B"]:
    """Σ_k H(π_k), in nats."""
    return torch.stack([categorical_entropy(part) for part in logits.split(list(sizes), -1)]).sum(0)


def multi_categorical_kl(
    logits: Float[Tensor, "*B A"], other: Float[Tensor, "*B A"], sizes: Sequence[int]
) -> Float[Tensor, "*B"]:
    """Σ_k KL(p_k || q_k): what is independent adds up."""
    parts = zip(logits.split(list(sizes), -1), other.split(list(sizes), -1), strict=True)
    return torch.stack([categorical_kl(p, q) for p, q in parts]).sum(0)


def gaussian_sample(mean: Float[Tensor, "*B A"], log_std: Float[Tensor, "*#B A"]) -> Float[Tensor, "*B A"]:
    """mean + σ ε with ε ~ N(0, I); gradients flow to both parameters."""
    return mean + log_std.exp() * torch.randn_like(mean)


def gaussian_log_prob(
    mean: Float[Tensor, "*B A"], log_std: Float[Tensor, "*#B A"], action: Float[Tensor, "*B A"]
) -> Float[Tensor, "*B"]:
    """Σ_i -((a_i - mean_i) / σ_i)² / 2 - log σ_i - log(2π) / 2 over the independent components."""
    scaled = (action - mean) * (-log_std).exp()
    return -(0.5 * scaled.square() + log_std + 0.5 * LOG_2_PI).sum(-1)


def gaussian_entropy(log_std: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
    """Σ_i log σ_i + (1 + log 2π) / 2, in nats."""
    return (log_std + 0.5 * (1 + LOG_2_PI)).sum(-1)


def gaussian_kl(
    mean: Float[Tensor, "*B A"],
    log_std: Float[Tensor, "*#B A"],
    other_mean: Float[Tensor, "*B A"],
    other_log_std: Float[Tensor, "*#B A"],
) -> Float[Tensor, "*B"]:
    """KL(p || q) = Σ_i log σ'_i/σ_i + (σ_i² + (mean_i - mean'_i)²) / 2σ'_i² - ½, in nats, where q has mean' and σ'."""
    variance_ratio = (2 * (log_std - other_log_std)).exp()
    apart = ((mean - other_mean) * (-other_log_std).exp()).square()
    return (other_log_std - log_std + 0.5 * (variance_ratio + apart - 1)).sum(-1)


def squashed_gaussian_log_prob(
    mean: Float[Tensor, "*B A"],
    log_std: Float[Tensor, "*#B A"],
    latent: Float[Tensor, "*B A"],
    scale: Float[Tensor, " A"],
) -> Float[Tensor, "*B"]:
    """log density of the action centre + scale · tanh(u), where u = `latent` is Gaussian.

    log N(u) - Σ_i log scale_i + 2 (log 2 - u_i - softplus(-2 u_i)): the last term is log(1 - tanh² u) without its loss
    of digits where tanh u is near ±1 (Haarnoja et al. 2018, "Soft actor-critic algorithms and applications", app. C).
    """
    slope = scale.log() + 2 * (math.log(2) - latent - softplus(-2 * latent))
    return gaussian_log_prob(mean, log_std, latent) - slope.sum(-1)


def bounded_log_std(output: Float[Tensor, "*B"], low: float, high: float) -> Float[Tensor, "*B"]:
    """A network's output squashed smoothly into (low, high): a clamp would stop the gradient outside."""
    return low + 0.5 * (high - low) * (1 + output.tanh())
