"""A policy and a value for environments with Discrete, MultiDiscrete and Box actions."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.core.flat import flatten
from operant.core.record import Evaluation
from operant.networks import compiled
from operant.networks.heads import Categorical, Draw, Gaussian, Head, MultiCategorical
from operant.networks.image import ImageActorCritic
from operant.networks.in_numpy import Function, in_numpy
from operant.networks.masks import Allowed, MaskedBox, Unmasked
from operant.networks.mlp import Initialisation, mlp
from operant.networks.perceptron import compilable


class ActorCritic(nn.Module):
    """Separate perceptrons for π(a|s) and v(s). A `Policy` whose decisions do not depend on one another.

    `actions` is the head that makes a distribution of the actor's outputs; a number n stands for `Categorical(n)`.
    Behind the `observation_size` numbers of an observation stand `masked` more, which say what actions are allowed.
    """

    memory = False

    def __init__(
        self,
        observation_size: int,
        actions: int | Head,
        hidden: tuple[int, ...] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        initialisation: Initialisation = "orthogonal",
        masked: int = 0,
    ) -> None:
        super().__init__()
        self.head: Head = Categorical(actions) if isinstance(actions, int) else actions
        self.actor = mlp((observation_size, *hidden, self.head.size), 0.01, activation, initialisation)
        self.critic = mlp((observation_size, *hidden, 1), 1.0, activation, initialisation)
        if masked:
            self.actor = nn.Sequential(Allowed(self.actor, masked))
            self.critic = nn.Sequential(Unmasked(masked), *self.critic)
        flatten(self)
        self.shape = compiled.shape_of(self, self.head, self.actor, self.critic)
        self.quick: tuple[int, Function] | None = None

    @torch.no_grad()
    def choose(self, observation: Float[Tensor, "*B D"], greedy: bool = False) -> Shaped[Tensor, "..."]:
        """The action alone. What else a record needs, `evaluate` says of a whole rollout at once."""
        output = self.actor(observation)
        return self.head.mode(output) if greedy else self.head.sample(output)

    def reflex(self, steps: int, rows: int, greedy: bool) -> Draw:
        """`choose` in NumPy, on the same weights, for so many steps of so many rows."""
        place = next(self.actor.parameters()).data_ptr()
        if self.quick is None or self.quick[0] != place:
            self.quick = (place, in_numpy(self.actor))
        compute, draw = self.quick[1], self.head.reflex(steps, rows, greedy)
        return lambda observation, step: draw(compute(observation), step)

    def value(self, observation: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        if self.shape is not None and not torch.is_grad_enabled() and (flat := compilable(self)) is not None:
            return compiled.value(flat, self.shape, observation)
        return self.critic(observation).squeeze(-1)

    @torch.no_grad()
    def act(
        self, observation: Float[Tensor, "B D"], state: None = None, greedy: bool = False
    ) -> tuple[Shaped[Tensor, "B ..."], Float[Tensor, " B"], Float[Tensor, " B"], None]:
        output = self.actor(observation)
        action = self.head.mode(output) if greedy else self.head.sample(output)
        return action, self.head.log_prob(output, action), self.value(observation), None

    def evaluate(self, observation: Float[Tensor, "B T D"], action: Shaped[Tensor, "B T ..."]) -> Evaluation:
        if self.shape is not None and (flat := compilable(self)) is not None:
            return compiled.evaluate(flat, self.shape, observation, action)
        output = self.actor(observation)
        return Evaluation(self.head.log_prob(output, action), self.head.entropy(output), self.value(observation))


def actor_critic(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden: tuple[int, ...] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    initialisation: Initialisation = "orthogonal",
) -> ActorCritic | ImageActorCritic:
    """A policy for one environment's spaces: perceptrons for numbers, the Nature CNN for images of bytes.

    With a `MaskedBox`, actions that are not allowed have probability 0. Raises `InputError` for spaces that neither can
    see or act in.
    """
    if isinstance(observation_space, spaces.Box) and observation_space.dtype == np.uint8:
        return ImageActorCritic(observation_space.shape, head(action_space))
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise InputError(
            f"a perceptron sees a Box of one dimension, not {observation_space}: "
            "flatten the observation with gymnasium.wrappers.FlattenObservation"
        )
    masked = observation_space.actions if isinstance(observation_space, MaskedBox) else 0
    seen = observation_space.shape[0] - masked
    return ActorCritic(seen, head(action_space), hidden, activation, initialisation, masked)


def head(action_space: spaces.Space[Any]) -> Head:
    """The head for an action space: a choice, several choices, or real numbers."""
    if isinstance(action_space, spaces.Discrete):
        return Categorical(int(action_space.n))
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        return MultiCategorical(action_space.nvec.tolist())
    if isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        return Gaussian(action_space.shape[0])
    raise InputError(f"no policy for the actions {action_space}: Discrete, MultiDiscrete and Box of one dimension fit")
