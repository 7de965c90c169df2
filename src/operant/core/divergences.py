"""Distances between policies, measured on samples, and the rules that hold them."""

import dataclasses
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def kl_estimate(
    log_prob_p: Float[Tensor, "*B"], log_prob_q: Float[Tensor, "*B"], estimator: Literal["k1", "k2", "k3"] = "k3"
) -> Float[Tensor, "*B"]:
    """KL(p || q) from samples of p, with ρ = q/p (Schulman 2020, "Approximating KL divergence").

    k1 = -log ρ: unbiased, can be negative. k2 = ½ (log ρ)²: biased, low variance. k3 = ρ - 1 - log ρ: unbiased, never
    negative. PPO's distance to the previous policy is `kl_estimate(old, new)`.
    """
    log_ratio = log_prob_q - log_prob_p
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio**2
    if estimator == "k3":
        return torch.expm1(log_ratio) - log_ratio
    raise ValueError(f"estimator is one of k1, k2, k3; got {estimator!r}")


def kl_shaped_reward(
    score: Float[Tensor, " B"],
    log_prob: Float[Tensor, "B T"],
    ref_log_prob: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
) -> Float[Tensor, "B T"]:
    """r_t = -β (log π - log π_ref) + [t is the last decision] score (Ziegler et al. 2019, eq. 2); 0 outside the mask.

    The sum over a response is the objective of RLHF, r(x, y) - β log π(y|x)/π_ref(y|x).
    """
    steps = torch.arange(mask.shape[-1], device=mask.device)
    last = torch.where(mask, steps, -1).amax(-1, keepdim=True)
    penalty = -beta * kl_estimate(log_prob, ref_log_prob, "k1")
    reward = penalty + torch.where(steps == last, score.unsqueeze(-1), torch.zeros_like(penalty))
    return torch.where(mask, reward, torch.zeros_like(reward))


@dataclasses.dataclass
class AdaptiveKL:
    """A penalty coefficient that steers KL towards `target`.

    "schulman" (Schulman et al. 2017, section 4): coefficient x 2 above 1.5 target, / 2 below target / 1.5.
    "ziegler" (Ziegler et al. 2019, section 2.2): coefficient x (1 + clip(KL / target - 1, ±0.2) n / horizon), where n
    is the number of episodes that the KL was measured on and KL is their mean of sums over tokens.
    "fixed" leaves the coefficient alone.
    """

    coefficient: float
    target: float = 0.01
    rule: Literal["schulman", "ziegler", "fixed"] = "schulman"
    horizon: float = 10_000.0

    def __post_init__(self) -> None:
        if self.rule not in ("schulman", "ziegler", "fixed"):
            raise ValueError(f"rule is one of schulman, ziegler, fixed; got {self.rule!r}")

    def update(self, kl: float, episodes: int = 1) -> float:
        """Move the coefficient after `kl` was measured, and return it."""
        if self.rule == "schulman":
            if kl > 1.5 * self.target:
                self.coefficient *= 2
            elif kl < self.target / 1.5:
                self.coefficient /= 2
        elif self.rule == "ziegler":
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * episodes / self.horizon
        return self.coefficient

    def state_dict(self) -> dict[str, float]:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coefficient = state["coefficient"]
