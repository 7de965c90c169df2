"""A policy and a value for environments with discrete actions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from operant.core.record import Evaluation
from operant.networks.distributions import categorical_entropy, categorical_log_prob, categorical_sample
from operant.networks.mlp import mlp


class ActorCritic(nn.Module):
    """Separate perceptrons for π(a|s) and v(s). A `Policy` whose decisions do not depend on one another."""

    memory = False

    def __init__(self, observation_size: int, actions: int, hidden: tuple[int, ...] = (64, 64)) -> None:
        super().__init__()
        self.actor = mlp((observation_size, *hidden, actions), gain=0.01)
        self.critic = mlp((observation_size, *hidden, 1), gain=1.0)

    @torch.no_grad()
    def act(
        self, observation: Float[Tensor, "B D"], state: None = None, greedy: bool = False
    ) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"], None]:
        logits = self.actor(observation)
        action = logits.argmax(-1) if greedy else categorical_sample(logits)
        return action, categorical_log_prob(logits, action), self.critic(observation).squeeze(-1), None

    def evaluate(self, observation: Float[Tensor, "B T D"], action: Int[Tensor, "B T"]) -> Evaluation:
        logits = self.actor(observation)
        value = self.critic(observation).squeeze(-1)
        return Evaluation(categorical_log_prob(logits, action), categorical_entropy(logits), value)
