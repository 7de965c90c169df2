"""Actions that may not be taken here: their logits are -∞, so their probability is 0 and no gradient reaches them.

Huang and Ontañón 2022, "A closer look at invalid action masking in policy gradient algorithms". The mask is a part of
what is seen: behind the numbers of an observation stands a place for each action, 1 where it is allowed and else 0. So
it is recorded, replayed and cut into minibatches with the observation: the `Runner` puts it there, networks obey it,
and no algorithm knows of it.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from operant.networks.in_numpy import Function, in_numpy


class MaskedBox(spaces.Box):
    """The numbers of `seen`, and behind them a mask of `actions` actions."""

    def __init__(self, seen: spaces.Box, actions: int) -> None:
        low, high = np.zeros(actions, np.float32), np.ones(actions, np.float32)
        super().__init__(np.concatenate([seen.low, low]), np.concatenate([seen.high, high]), dtype=np.float32)
        self.actions = actions


def forbid(output: Float[Tensor, "*B A"], allowed: Shaped[Tensor, "*B A"] | None) -> Float[Tensor, "*B A"]:
    """Logits, -∞ where `allowed` is 0."""
    return output if allowed is None else output.masked_fill(allowed == 0, -torch.inf)


class Allowed(nn.Module):
    """`network` sees the numbers of an observation; of its outputs, those that the mask does not allow are `floor`."""

    def __init__(self, network: nn.Sequential, actions: int, floor: float = -torch.inf) -> None:
        super().__init__()
        self.network, self.actions, self.floor = network, actions, floor

    def forward(self, observation: Float[Tensor, "*B D"]) -> Float[Tensor, "*B A"]:
        seen, allowed = observation[..., : -self.actions], observation[..., -self.actions :]
        return self.network(seen).masked_fill(allowed == 0, self.floor)

    @property
    def in_numpy(self) -> Function:
        """The same on arrays, for `networks.in_numpy`, which asks for it once."""
        network = in_numpy(self.network)

        def forward(observation: NDArray[Any]) -> NDArray[Any]:
            seen, allowed = observation[..., : -self.actions], observation[..., -self.actions :]
            return np.where(allowed == 0, np.float32(self.floor), network(seen))

        return forward


class Unmasked(nn.Module):
    """The numbers of an observation without the mask behind them."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.actions = actions

    def forward(self, observation: Float[Tensor, "*B D"]) -> Float[Tensor, "*B N"]:
        return observation[..., : -self.actions]
