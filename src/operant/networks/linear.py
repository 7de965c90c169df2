"""A deterministic policy and a value that are linear in tiles: a few weights are looked up and added, no network."""

from typing import Any

import numba
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.core.features import place_tiles, tiles
from operant.core.record import Evaluation
from operant.networks.distributions import gaussian_entropy, gaussian_log_prob

MOST = 10_000_000
"""Tiles at most."""


class LinearActorCritic(nn.Module):
    """μ(s) = centre + scale θᵀx(s) and v(s) = vᵀx(s), where x_i(s) = 1 if s lies in tile i. A `Policy` without memory.

    centre ± scale is the box of actions; μ may leave it. To learn, it acts with μ(s) + scale ε, ε ~ N(0, exploration²).
    Raises `InputError` for spaces without finite bounds, and where there would be more than ten million tiles.
    """

    memory = False
    center: Tensor
    scale: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        tilings: int = 8,
        across: int = 8,
        exploration: float = 0.5,
    ) -> None:
        super().__init__()
        for space, what in ((observation_space, "observations"), (action_space, "actions")):
            if not (isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded()):
                raise InputError(
                    f"tiles need {what} in a Box of one dimension with finite bounds, not {space}: "
                    "give it bounds with a wrapper of Gymnasium, or use an algorithm with networks, such as DDPG"
                )
        assert isinstance(observation_space, spaces.Box)
        assert isinstance(action_space, spaces.Box)
        if (count := tilings * (across + 1) ** observation_space.shape[0]) > MOST:
            raise InputError(
                f"{tilings} tilings of {across} tiles a dimension over {observation_space.shape[0]} dimensions are "
                f"{count:.3g} tiles, more than {MOST}: use fewer, or an algorithm with networks, such as DDPG"
            )
        self.tiles = tiles(observation_space.low, observation_space.high, tilings, across)
        self.tilings, self.across, self.exploration = tilings, across, exploration
        self.register_buffer("center", torch.from_numpy((action_space.high + action_space.low) / 2).float())
        self.register_buffer("scale", torch.from_numpy((action_space.high - action_space.low) / 2).float())
        self.actor = nn.Parameter(torch.zeros(self.tiles.size, *action_space.shape), requires_grad=False)
        self.critic = nn.Parameter(torch.zeros(self.tiles.size), requires_grad=False)

    def features(self, observation: Float[Tensor, "*B D"]) -> Int[Tensor, "*B n"]:
        """The tiles that an observation lies in, one of each tiling."""
        rows = observation.reshape(-1, observation.shape[-1]).numpy().astype(np.float64)
        index = np.empty((len(rows), self.tilings), dtype=np.int64)
        _place_rows(self.tiles.low, self.tiles.span, self.tiles.across, self.tiles.shift, rows, index)
        return torch.from_numpy(index).view(*observation.shape[:-1], self.tilings)

    def mean(self, observation: Float[Tensor, "*B D"]) -> Float[Tensor, "*B A"]:
        """μ(s)."""
        return self._mean(self.features(observation))

    def _mean(self, x: Int[Tensor, "*B n"]) -> Float[Tensor, "*B A"]:
        return self.center + self.scale * linear(self.actor, x)

    def choose(self, observation: Float[Tensor, "*B D"], greedy: bool = False) -> Float[Tensor, "*B A"]:
        mean = self.mean(observation)
        return mean if greedy else mean + self.exploration * self.scale * torch.randn_like(mean)

    def value(self, observation: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """v(s), which is Q(s, μ(s))."""
        return linear(self.critic, self.features(observation))

    def act(
        self, observation: Float[Tensor, "B D"], state: None = None, greedy: bool = False
    ) -> tuple[Shaped[Tensor, "B A"], Float[Tensor, " B"], Float[Tensor, " B"], None]:
        action = self.choose(observation, greedy)
        log_prob, _, value = self.evaluate(observation, action)
        return action, log_prob, value, None

    def evaluate(self, observation: Float[Tensor, "*B D"], action: Float[Tensor, "*B A"]) -> Evaluation:
        """Log-density and entropy are those of exploring."""
        x, log_std = self.features(observation), (self.exploration * self.scale).log()
        entropy = gaussian_entropy(log_std).expand(action.shape[:-1])
        return Evaluation(gaussian_log_prob(self._mean(x), log_std, action), entropy, linear(self.critic, x))


def linear(weights: Float[Tensor, "F *A"], x: Int[Tensor, "*B n"]) -> Float[Tensor, "..."]:
    """wᵀx for features that are 1 at `x` and 0 elsewhere: [*B, *A]."""
    return weights[x].sum(x.ndim - 1)


def step_linear(weights: Float[Tensor, "F *A"], x: Int[Tensor, "*B n"], step: Float[Tensor, "..."]) -> None:
    """w ← w + Σ x stepᵀ over all examples, in place: step [*B, *A]."""
    each = step.unsqueeze(x.ndim - 1).expand(*x.shape, *weights.shape[1:])
    weights.index_put_((x,), each, accumulate=True)


@numba.njit(cache=True)
def _place_rows(
    low: NDArray[np.float64],
    span: NDArray[np.float64],
    across: NDArray[np.int64],
    shift: NDArray[np.float64],
    rows: NDArray[np.float64],
    index: NDArray[np.int64],
) -> None:
    for i in range(len(rows)):
        place_tiles(low, span, across, shift, rows[i], index[i])
