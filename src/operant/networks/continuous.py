"""Actors whose actions lie in a box, with critics that value one action: for DDPG, TD3 and SAC."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.networks.heads import Draw, SquashedGaussian
from operant.networks.in_numpy import in_numpy
from operant.networks.mlp import mlp
from operant.networks.perceptron import layers_of, through

Shape = tuple[tuple[int, ...], type[nn.Module]]
"""(widths of the hidden layers, what stands between the layers)."""


def _perceptron(inputs: int, shape: Shape, outputs: int) -> nn.Sequential:
    hidden, activation = shape
    return mlp((inputs, *hidden, outputs), 1.0, activation, "torch")


class Bounds(nn.Module):
    """The box of actions, [low, high], as center ± scale."""

    center: Tensor
    scale: Tensor

    def __init__(self, low: Float[Tensor, " A"], high: Float[Tensor, " A"]) -> None:
        super().__init__()
        self.register_buffer("center", (high + low) / 2)
        self.register_buffer("scale", (high - low) / 2)

    def forward(self, unit: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """[-1, 1] stretched to the box."""
        return self.center + self.scale * unit

    def inverse(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        return (action - self.center) / self.scale

    def clip(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """The nearest action within the box."""
        return torch.minimum(torch.maximum(action, self.center - self.scale), self.center + self.scale)


class Critics(nn.Module):
    """`count` networks for Q(s, a), which see actions stretched to [-1, 1]."""

    def __init__(self, observation_size: int, bounds: Bounds, shape: Shape, count: int) -> None:
        super().__init__()
        self.bounds = bounds
        inputs = observation_size + len(bounds.center)
        networks = [_perceptron(inputs, shape, 1) for _ in range(count)]
        self.networks = nn.ModuleList(networks)
        self.parts = networks, [layers_of(self, network) for network in networks]

    def forward(
        self, observation: Float[Tensor, "*B D"], action: Float[Tensor, "*B A"], count: int | None = None
    ) -> list[Float[Tensor, "*B"]]:
        """Q_i(s, a) of each critic, or of the first `count`."""
        both = torch.cat([observation, self.bounds.inverse(action)], -1)
        networks, layers = self.parts
        return [value.squeeze(-1) for value in through(networks[:count], self, layers[:count], both)]


class DeterministicActor(nn.Module):
    """a = μ(s): tanh of a perceptron, stretched to the box."""

    def __init__(self, observation_size: int, bounds: Bounds, shape: Shape) -> None:
        super().__init__()
        self.bounds = bounds
        self.network = _perceptron(observation_size, shape, len(bounds.center))
        self.layers = layers_of(self, self.network)

    def forward(self, observation: Float[Tensor, "*B D"]) -> Float[Tensor, "*B A"]:
        (output,) = through([self.network], self, [self.layers], observation)
        return self.bounds(output.tanh())

    def reflex(self, steps: int, rows: int, greedy: bool) -> Draw:
        """The same in NumPy. There is no chance in it."""
        output, center, scale = in_numpy(self.network), self.bounds.center.numpy(), self.bounds.scale.numpy()
        return lambda observation, step: center + scale * np.tanh(output(observation))


class SoftActor(nn.Module):
    """π(a|s): tanh of a Gaussian, stretched to the box. The temperature is kept here, as log α."""

    def __init__(self, observation_size: int, bounds: Bounds, shape: Shape) -> None:
        super().__init__()
        self.head = SquashedGaussian(bounds.center - bounds.scale, bounds.center + bounds.scale)
        self.network = _perceptron(observation_size, shape, self.head.size)
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.layers = layers_of(self, self.network)

    def forward(self, observation: Float[Tensor, "*B D"]) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B"]]:
        """(action, its log-density)."""
        (output,) = through([self.network], self, [self.layers], observation)
        return self.head.sample(output)

    def reflex(self, steps: int, rows: int, greedy: bool) -> Draw:
        """The action alone, in NumPy."""
        output, draw = in_numpy(self.network), self.head.reflex(steps, rows, greedy)
        return lambda observation, step: draw(output(observation), step)


class DeterministicActorCritic(nn.Module):
    """μ(s) and `critics` values Q_i(s, a)."""

    memory = False

    def __init__(self, observation_size: int, bounds: Bounds, shape: Shape, critics: int) -> None:
        super().__init__()
        self.actor = DeterministicActor(observation_size, bounds, shape)
        self.critics = Critics(observation_size, bounds, shape, critics)

    @torch.no_grad()
    def choose(self, observation: Float[Tensor, "*B D"], greedy: bool = True) -> Float[Tensor, "*B A"]:
        """μ(s), whatever `greedy` is: exploration is the algorithm's business."""
        return self.actor(observation)


class SoftActorCritic(nn.Module):
    """π(a|s) and two values Q_i(s, a)."""

    memory = False

    def __init__(self, observation_size: int, bounds: Bounds, shape: Shape) -> None:
        super().__init__()
        self.actor = SoftActor(observation_size, bounds, shape)
        self.critics = Critics(observation_size, bounds, shape, 2)

    @torch.no_grad()
    def choose(self, observation: Float[Tensor, "*B D"], greedy: bool = False) -> Float[Tensor, "*B A"]:
        """A draw of π(·|s), or the action of its mean."""
        output = self.actor.network(observation)
        return self.actor.head.mode(output) if greedy else self.actor.head.sample(output)[0]


def deterministic_actor_critic(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden: tuple[int, ...] = (256, 256),
    critics: int = 1,
    activation: type[nn.Module] = nn.ReLU,
) -> DeterministicActorCritic:
    """For DDPG (one critic) and TD3 (two). Raises `InputError` for spaces that do not fit."""
    return DeterministicActorCritic(_size(observation_space), _bounds(action_space), (hidden, activation), critics)


def soft_actor_critic(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden: tuple[int, ...] = (256, 256),
    activation: type[nn.Module] = nn.ReLU,
) -> SoftActorCritic:
    """For SAC. Raises `InputError` for spaces that do not fit."""
    return SoftActorCritic(_size(observation_space), _bounds(action_space), (hidden, activation))


def _size(space: spaces.Space[Any]) -> int:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise InputError(
            f"a perceptron sees a Box of one dimension, not {space}: "
            "flatten the observation with gymnasium.wrappers.FlattenObservation"
        )
    return space.shape[0]


def _bounds(space: spaces.Space[Any]) -> Bounds:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise InputError(f"these actors choose from a Box of one dimension, not {space}: DQN, A2C and PPO may fit")
    low, high = (np.asarray(x, dtype=np.float32) for x in (space.low, space.high))
    if not all(map(math.isfinite, [*low, *high])) or (low >= high).any():
        raise InputError(
            f"the actions {space} are not bounded on all sides, and tanh leads to bounded ones: "
            "rescale them with gymnasium.wrappers.RescaleAction, or use PPO"
        )
    return Bounds(torch.from_numpy(low), torch.from_numpy(high))
