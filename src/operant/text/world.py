"""A world of prompts: the policy answers, the answer is scored, the decisions come back as a trajectory."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from operant.core.finite import require_finite
from operant.core.record import Evaluation, Trajectory, micro_batches
from operant.core.shuffle import Shuffle
from operant.text.context import Context
from operant.text.language_model import LanguageModel, RewardModel
from operant.text.rewards import Reward
from operant.text.sampling import Samples, check_prompts, decoding_copy, sample


@torch.no_grad()
def evaluate(policy: LanguageModel, context: Context, action: Tensor, budget: int = 2048) -> Evaluation:
    """`policy.evaluate` without gradients, some `budget` tokens at a time."""
    whole = Evaluation(*(torch.zeros(action.shape, device=action.device) for _ in range(3)))
    for index in micro_batches(context.extent, budget):
        for table, piece in zip(whole, policy.evaluate(context[index], action[index]), strict=True):
            table[index] = piece
    return whole


class PromptWorld:
    """Prompts in shuffled order, `completions` answers to each, and a reward for every answer.

    An answer that was cut before its stop token gets `missing_stop_score` in place of its reward (Ziegler et al. 2019);
    the end of an answer counts as terminal either way. `measures` are computed beside the reward and only logged.
    `decoding_dtype` other than the policy's own makes a copy of the weights for sampling. Where sampling computes in
    another type than the policy, log-probs and values are those of the policy itself, computed once, so that the first
    ratio is 1. Raises `InputError` without prompts, or for an empty one.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        reward: Reward,
        stop: Collection[int],
        max_new_tokens: int,
        completions: int = 1,
        missing_stop_score: float | None = -1.0,
        decoding_dtype: torch.dtype | None = None,
        measures: Mapping[str, Reward] | None = None,
        seed: int = 0,
    ) -> None:
        check_prompts(prompts, max_new_tokens, completions)
        self.prompts, self.reward, self.stop = prompts, reward, stop
        self.max_new_tokens, self.completions = max_new_tokens, completions
        self.missing_stop_score, self.decoding_dtype = missing_stop_score, decoding_dtype
        self.measures = dict(measures or {})
        self.order = Shuffle(len(prompts), seed)
        self.last: Samples | None = None
        self.rollouts = 0

    def rollout(self, policy: LanguageModel, size: int) -> Trajectory:
        """Answers to the next `size` prompts: [size * completions, T] decisions, the score on each one's last."""
        prompts = [self.prompts[i] for i in self.order.take(size)]
        actor = decoding_copy(policy, self.decoding_dtype or policy.model.dtype)
        samples = self.last = sample(actor, prompts, self.stop, self.max_new_tokens, self.completions)
        log_prob, value = samples.log_prob, samples.value
        same = actor is policy and policy.dtype == "float32"
        if not same or isinstance(policy.value, RewardModel):
            again = evaluate(policy, samples.context, samples.action)
            value = again.value
            log_prob = log_prob if same else again.log_prob
        require_finite(log_prob, "log-probability of a sampled token", self.rollouts)
        score = self.reward(samples)
        require_finite(score, "reward", self.rollouts)
        self.rollouts += 1
        if self.missing_stop_score is not None:
            score = torch.where(samples.ended, score, torch.full_like(score, self.missing_stop_score))
        mask = samples.mask
        last = torch.arange(mask.shape[1], device=mask.device) == mask.sum(-1, keepdim=True) - 1
        following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
        return Trajectory(
            observation=samples.context,
            action=samples.action,
            log_prob=log_prob,
            value=value,
            next_value=following,
            reward=torch.where(last, score.unsqueeze(-1), torch.zeros_like(value)),
            discount=(mask & ~last).float(),
            terminated=last,
            truncated=torch.zeros_like(last),
            mask=mask,
        )

    def measured(self) -> dict[str, float]:
        """What the last rollout looked like: length, share that ended, and the measures."""
        s = self.last
        if s is None:
            return {}
        shown = {
            "rollout/length": s.mask.sum(-1).float().mean().item(),
            "rollout/eos_rate": s.ended.float().mean().item(),
        }
        return shown | {name: measure(s).mean().item() for name, measure in self.measures.items()}

    def state_dict(self) -> dict:
        return {"order": self.order.state_dict(), "rollouts": self.rollouts}

    def load_state_dict(self, state: dict) -> None:
        self.order.load_state_dict(state["order"])
        self.rollouts = state["rollouts"]
