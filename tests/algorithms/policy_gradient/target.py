"""A world of one step with real actions: the reward is minus the squared distance to a number that is seen."""

import torch
from torch import Tensor

from operant.core.record import Policy, Trajectory
from operant.networks.actor_critic import ActorCritic
from operant.networks.heads import Gaussian


class Target:
    """Sees x in [-1, 1] and pays -(a - 2x)². A deviation of 1 costs 1 or more a step."""

    def __init__(self) -> None:
        self.scores: list[float] = []

    def rollout(self, policy: Policy, size: int) -> Trajectory:
        observation = torch.rand(8, size, 1) * 2 - 1
        action, log_prob, value, _ = policy.act(observation.flatten(0, 1))
        reward = -(action.view(8, size) - 2 * observation.squeeze(-1)).square()
        self.scores.append(reward.mean().item())
        return Trajectory(
            observation=observation,
            action=action.view(8, size, 1),
            log_prob=log_prob.view(8, size),
            value=value.view(8, size),
            next_value=torch.zeros(8, size),
            reward=reward,
            discount=torch.zeros(8, size),
            terminated=torch.ones(8, size, dtype=torch.bool),
            truncated=torch.zeros(8, size, dtype=torch.bool),
            mask=torch.ones(8, size, dtype=torch.bool),
        )


def pointer(hidden: tuple[int, ...] = (16,)) -> ActorCritic:
    return ActorCritic(1, Gaussian(1), hidden)


def parameters(policy: ActorCritic) -> list[Tensor]:
    return [p.detach().clone() for p in policy.parameters()]
