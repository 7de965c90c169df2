"""The values of all actions of a Discrete space at once: Q(s, ·)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.networks.image import NatureCNN
from operant.networks.masks import Allowed, MaskedBox
from operant.networks.mlp import mlp
from operant.networks.perceptron import layers_of, through


class Duelling(nn.Module):
    """V, A_1 ... A_n side by side to Q = V + A - mean A (Wang et al. 2016, eq. 9)."""

    def forward(self, output: Float[Tensor, "*B P"]) -> Float[Tensor, "*B A"]:
        value, advantage = output[..., :1], output[..., 1:]
        return value + advantage - advantage.mean(-1, keepdim=True)

    def in_numpy(self, output: NDArray[np.float32]) -> NDArray[np.float32]:
        value, advantage = output[..., :1], output[..., 1:]
        return value + advantage - advantage.mean(-1, keepdims=True)


class QNetwork(nn.Module):
    """Q(s, a) for every one of `actions` actions, in one pass of `network`. Exploration is the algorithm's business.

    If `masked`, observations end in a mask of the actions, and those that are not allowed have the least of values. Who
    asks for actions that are not greedy gets a random one with probability `epsilon`.
    """

    memory = False

    def __init__(self, network: nn.Sequential, actions: int, masked: bool = False, epsilon: float = 0.0) -> None:
        super().__init__()
        least = torch.finfo(torch.float32).min
        self.network = nn.Sequential(Allowed(network, actions, least)) if masked else network
        self.actions, self.masked, self.epsilon = actions, masked, epsilon
        self.duelling = isinstance(network[-1], Duelling)
        self.layers = layers_of(self, self.network)

    @property
    def device(self) -> torch.device:
        """Where it computes: what it is given is moved there."""
        return next(self.parameters()).device

    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "... A"]:
        return through([self.network], self, [self.layers], observation)[0]

    @torch.no_grad()
    def choose(self, observation: Shaped[Tensor, "..."], greedy: bool = True) -> Int[Tensor, "..."]:
        """argmax_a Q(s, a), or ε-greedily."""
        best = self(observation).argmax(-1)
        if greedy or not self.epsilon:
            return best
        rows = observation.flatten(0, best.ndim - 1).cpu().numpy()
        random = torch.from_numpy(self.explorer(1, best.numel())(rows, 0)).view_as(best).to(best.device)
        return torch.where(torch.rand(best.shape).to(best.device) < self.epsilon, random, best)

    def explorer(self, steps: int, rows: int) -> Callable[[NDArray[Any], int], NDArray[Any]]:
        """(observation [B, ...], step) -> one of the allowed actions, each equally likely; all chance is drawn now."""
        if not self.masked:
            random = torch.randint(self.actions, (steps, rows)).numpy()
            return lambda _, step: random[step]
        above_0 = 1 - torch.rand(steps, rows, self.actions).numpy()
        return lambda observation, step: (observation[:, -self.actions :] * above_0[step]).argmax(-1)


def q_network(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden: tuple[int, ...] = (256, 256),
    duelling: bool = False,
    activation: type[nn.Module] = nn.ReLU,
    epsilon: float = 0.0,
) -> QNetwork:
    """A network for one environment's spaces: perceptrons for numbers, the Nature CNN for images of bytes.

    With `duelling`, value and advantages are two layers on the same features. Raises `InputError` for other actions
    than Discrete ones and for observations that no network here can see.
    """
    if not isinstance(action_space, spaces.Discrete):
        raise InputError(
            f"Q-networks value each action of a Discrete space, not {action_space}: "
            "DDPG, TD3 and SAC learn values of actions from a Box"
        )
    actions = int(action_space.n)
    outputs, duel = (actions + 1, [Duelling()]) if duelling else (actions, [])
    if isinstance(observation_space, spaces.Box) and observation_space.dtype == np.uint8:
        torso = NatureCNN(observation_space.shape)
        return QNetwork(nn.Sequential(torso, nn.Linear(torso.size, outputs), *duel), actions, epsilon=epsilon)
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise InputError(
            f"a perceptron sees a Box of one dimension, not {observation_space}: "
            "flatten the observation with gymnasium.wrappers.FlattenObservation"
        )
    masked = isinstance(observation_space, MaskedBox)
    seen = observation_space.shape[0] - actions * masked
    layers = mlp((seen, *hidden, outputs), 1.0, activation, "torch")
    return QNetwork(nn.Sequential(*layers, *duel), actions, masked, epsilon)
