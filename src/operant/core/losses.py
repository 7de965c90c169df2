"""Losses, element-wise: the reduction is visible where a loss is used, as `masked_mean(loss, mask)`."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor


def masked_mean(
    x: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"], count: Num[Tensor, ""] | float | None = None
) -> Float[Tensor, ""]:
    """Σ x·mask / Σ mask; what stands outside the mask is never read. The mean of nothing is 0.

    Outside the mask the gradient to x is 0, which a NaN or an infinity in what x was computed from turns into NaN:
    padding that gradients flow through must be finite.

    `count` replaces Σ mask by the number of decisions in the whole batch, so that micro-batches of unequal length and
    ranks of unequal load add up to the mean of the whole.
    """
    total = torch.where(mask, x, 0.0).sum()
    return total / (mask.sum().clamp(min=1) if count is None else count)


def masked_means(
    x: Float[Tensor, "K *B T"], mask: Bool[Tensor, "*B T"], count: Num[Tensor, ""] | float | None = None
) -> Float[Tensor, " K"]:
    """`masked_mean` of each of K quantities at once."""
    total = torch.where(mask, x, 0.0).flatten(1).sum(1)
    return total / (mask.sum().clamp(min=1) if count is None else count)


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation over the mask; 0 and 0 where there is nothing."""
    kept = x[mask]
    if not len(kept):
        return x.new_zeros(()), x.new_zeros(())
    variance, mean = torch.var_mean(kept, correction=0)
    return mean, variance.sqrt()


def standardize(x: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"], epsilon: float = 1e-8) -> Float[Tensor, "*B T"]:
    """(x - mean) / std over the mask, population variance; 0 outside the mask."""
    mean, std = _moments(x, mask)
    return torch.where(mask, (x - mean) / (std + epsilon), torch.zeros_like(x))


def rescale(x: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"], epsilon: float = 1e-8) -> Float[Tensor, "*B T"]:
    """(x - mean) / std + mean: unit deviation, the mean kept; 0 outside the mask."""
    mean, std = _moments(x, mask)
    return torch.where(mask, (x - mean) / (std + epsilon) + mean, torch.zeros_like(x))


def policy_gradient_loss(log_prob: Float[Tensor, "*B"], advantage: Float[Tensor, "*B"] | float) -> Float[Tensor, "*B"]:
    """-Â log π(a|s), Â held constant (Williams 1992). With Â = 1 it is the loss of imitation: maximum likelihood."""
    advantage = advantage.detach() if isinstance(advantage, Tensor) else advantage
    return -log_prob * advantage


def importance_ratio(log_prob: Float[Tensor, "*B"], old_log_prob: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """π(a|s) / π_old(a|s)."""
    return torch.exp(log_prob - old_log_prob)


def ppo_clip_loss(
    log_prob: Float[Tensor, "*B"], old_log_prob: Float[Tensor, "*B"], advantage: Float[Tensor, "*B"], clip: float
) -> Float[Tensor, "*B"]:
    """-min(ρ Â, clip(ρ, 1 - ε, 1 + ε) Â) with ρ = π / π_old (Schulman et al. 2017, eq. 7)."""
    ratio = importance_ratio(log_prob, old_log_prob)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def ppo_kl_loss(
    log_prob: Float[Tensor, "*B"],
    old_log_prob: Float[Tensor, "*B"],
    advantage: Float[Tensor, "*B"],
    kl: Float[Tensor, "*B"],
    beta: float,
) -> Float[Tensor, "*B"]:
    """-ρ Â + β KL(π_old || π) (Schulman et al. 2017, eq. 8)."""
    return -importance_ratio(log_prob, old_log_prob) * advantage + beta * kl


def value_loss(
    value: Float[Tensor, "*B"],
    target: Float[Tensor, "*B"],
    old_value: Float[Tensor, "*B"] | None = None,
    clip: float | None = None,
) -> Float[Tensor, "*B"]:
    """½ (v - G)²; with `clip`, ½ max((v - G)², (clip(v, v_old - c, v_old + c) - G)²), as OpenAI's ppo2 computes it."""
    loss = 0.5 * (value - target) ** 2
    if clip is None:
        return loss
    if old_value is None:
        raise ValueError("value_loss clips around old_value: pass it, or leave clip out")
    clipped = torch.clamp(value, old_value - clip, old_value + clip)
    return torch.maximum(loss, 0.5 * (clipped - target) ** 2)


def bradley_terry_loss(
    chosen: Float[Tensor, "*B"],
    rejected: Float[Tensor, "*B"],
    margin: Float[Tensor, "*B"] | float = 0.0,
    target: Float[Tensor, "*B"] | float = 1.0,
) -> Float[Tensor, "*B"]:
    """-p log σ(d) - (1 - p) log σ(-d), d = chosen - rejected - margin (Bradley and Terry 1952; InstructGPT eq. 1).

    `target` p is the probability that the label is right: 0.5 is a tie, 1 - ε is label smoothing.
    """
    d = chosen - rejected - margin
    return -target * F.logsigmoid(d) - (1 - target) * F.logsigmoid(-d)


def ranking_loss(
    scores: Float[Tensor, "*B K"], ranks: Int[Tensor, "*B K"], ties: Literal["drop", "half"] = "drop"
) -> Float[Tensor, "*B"]:
    """Mean of `bradley_terry_loss` over the pairs of each prompt (Ouyang et al. 2022, eq. 1).

    Rank 1 is best, rank 0 is no response. Tied pairs are dropped, or kept with target ½. What is left is divided by
    its number; a prompt with no pair left gives 0.
    """
    if ties not in ("drop", "half"):
        raise ValueError(f"ties is drop or half; got {ties!r}")
    present = (ranks > 0).unsqueeze(-1) & (ranks > 0).unsqueeze(-2)
    better = present & (ranks.unsqueeze(-1) < ranks.unsqueeze(-2))
    tied = present & (ranks.unsqueeze(-1) == ranks.unsqueeze(-2))
    tied = torch.triu(tied, diagonal=1) if ties == "half" else torch.zeros_like(tied)
    pair = better | tied
    # Absent responses may hold anything; they are read in no pair.
    scores = torch.where(ranks > 0, scores, torch.zeros_like(scores))
    first, second = torch.broadcast_tensors(scores.unsqueeze(-1), scores.unsqueeze(-2))
    loss = bradley_terry_loss(first, second, target=torch.where(tied, 0.5, 1.0))
    return torch.where(pair, loss, torch.zeros_like(loss)).sum((-2, -1)) / pair.sum((-2, -1)).clamp(min=1)


def dpo_loss(
    chosen: Float[Tensor, "*B"],
    rejected: Float[Tensor, "*B"],
    ref_chosen: Float[Tensor, "*B"],
    ref_rejected: Float[Tensor, "*B"],
    beta: float,
    target: Float[Tensor, "*B"] | float = 1.0,
) -> Float[Tensor, "*B"]:
    """-log σ(β [log π/π_ref (y_w) - log π/π_ref (y_l)]) (Rafailov et al. 2023, eq. 7).

    Each argument is the log-probability of a whole response, summed over its tokens. `target` < 1 is conservative DPO
    (Mitchell 2023). DPO is the Bradley-Terry loss of the implicit reward β log π/π_ref, and is computed as such.
    """
    return bradley_terry_loss(beta * (chosen - ref_chosen), beta * (rejected - ref_rejected), target=target)


def ipo_loss(
    chosen: Float[Tensor, "*B"],
    rejected: Float[Tensor, "*B"],
    ref_chosen: Float[Tensor, "*B"],
    ref_rejected: Float[Tensor, "*B"],
    beta: float,
) -> Float[Tensor, "*B"]:
    """(h - 1/(2β))², h = log π/π_ref (y_w) - log π/π_ref (y_l), log-probs summed (Azar et al. 2023, eq. 17)."""
    return ((chosen - ref_chosen) - (rejected - ref_rejected) - 1 / (2 * beta)) ** 2
