"""A policy and the values of all its actions, for environments with Discrete actions."""

from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.core.record import Evaluation
from operant.networks.heads import Categorical, Draw
from operant.networks.in_numpy import in_numpy
from operant.networks.masks import Allowed, MaskedBox, Unmasked
from operant.networks.mlp import Initialisation, mlp


class QActorCritic(nn.Module):
    """Separate perceptrons for π(a|s) and Q(s, ·). What a state is worth follows: v(s) = Σ_a π(a|s) Q(s, a).

    If `masked`, a mask of the actions stands behind the `observation_size` numbers of an observation.
    """

    memory = False

    def __init__(
        self,
        observation_size: int,
        actions: int,
        hidden: tuple[int, ...] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        initialisation: Initialisation = "orthogonal",
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.head = Categorical(actions)
        self.actor = mlp((observation_size, *hidden, actions), 0.01, activation, initialisation)
        self.critic = mlp((observation_size, *hidden, actions), 1.0, activation, initialisation)
        if masked:
            self.actor = nn.Sequential(Allowed(self.actor, actions))
            self.critic = nn.Sequential(Unmasked(actions), *self.critic)

    @torch.no_grad()
    def choose(self, observation: Float[Tensor, "*B D"], greedy: bool = False) -> Int[Tensor, "*B"]:
        """The action alone."""
        output = self.actor(observation)
        return self.head.mode(output) if greedy else self.head.sample(output)

    def reflex(self, steps: int, rows: int, greedy: bool) -> Draw:
        """`choose` in NumPy, on the same weights, for so many steps of so many rows."""
        compute, draw = in_numpy(self.actor), self.head.reflex(steps, rows, greedy)
        return lambda observation, step: draw(compute(observation), step)

    def action_value(self, observation: Float[Tensor, "*B D"], action: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Q(s, a)."""
        return self.critic(observation).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def value(self, observation: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """v(s) = Σ_a π(a|s) Q(s, a)."""
        return (self.actor(observation).softmax(-1) * self.critic(observation)).sum(-1)

    @torch.no_grad()
    def act(
        self, observation: Float[Tensor, "B D"], state: None = None, greedy: bool = False
    ) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"], None]:
        action = self.choose(observation, greedy)
        return action, self.head.log_prob(self.actor(observation), action), self.value(observation), None

    def evaluate(self, observation: Float[Tensor, "B T D"], action: Int[Tensor, "B T"]) -> Evaluation:
        output = self.actor(observation)
        return Evaluation(self.head.log_prob(output, action), self.head.entropy(output), self.value(observation))


def q_actor_critic(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden: tuple[int, ...] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    initialisation: Initialisation = "orthogonal",
) -> QActorCritic:
    """A policy for one environment's spaces. With a `MaskedBox`, actions that are not allowed have probability 0.

    Raises `InputError` for spaces that it cannot see or act in.
    """
    if not isinstance(action_space, spaces.Discrete):
        raise InputError(f"a Q actor-critic values each action of a Discrete space, not {action_space}: A2C fits")
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise InputError(
            f"a perceptron sees a Box of one dimension, not {observation_space}: "
            "flatten the observation with gymnasium.wrappers.FlattenObservation"
        )
    actions, masked = int(action_space.n), isinstance(observation_space, MaskedBox)
    seen = observation_space.shape[0] - actions * masked
    return QActorCritic(seen, actions, hidden, activation, initialisation, masked)
