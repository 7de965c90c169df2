"""Best of n: sample n responses and keep the one that the reward model likes best (Stiennon et al. 2020).

No training, and a hard baseline to beat. Its distance from the policy is at most log n - (n - 1)/n nats.
"""

import math
from collections.abc import Collection, Sequence

import torch

from operant.text.language_model import LanguageModel
from operant.text.rewards import Reward
from operant.text.sampling import sample


def kl_bound(n: int) -> float:
    """log n - (n - 1)/n: an upper bound on KL(best of n || policy) (Beirami et al. 2024)."""
    return math.log(n) - (n - 1) / n


def best_of_n(
    policy: LanguageModel,
    reward: Reward,
    prompts: Sequence[Sequence[int]],
    stop: Collection[int],
    max_new_tokens: int,
    n: int,
) -> tuple[list[list[int]], torch.Tensor]:
    """(responses, their scores): the best of `n` for each prompt."""
    samples = sample(policy, prompts, stop, max_new_tokens, completions=n)
    score, choice = reward(samples).view(len(prompts), n).max(-1)
    return [samples.responses[p * n + int(k)] for p, k in enumerate(choice)], score
