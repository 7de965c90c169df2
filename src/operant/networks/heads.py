"""Heads: what the outputs of a policy's network mean. Each has `size`, the number of outputs it takes.

`Categorical`, `MultiCategorical` and `Gaussian` sample, name their most likely action (`mode`) and give log-probability
and entropy of actions in any leading shape. `describe` makes one tensor of all that decides the distribution, and `kl`
is the exact KL(old || new) of two such tensors. `SquashedGaussian` draws bounded actions with their log-density.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from operant.networks.distributions import (
    bounded_log_std,
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    categorical_sample,
    gaussian_entropy,
    gaussian_kl,
    gaussian_log_prob,
    gaussian_sample,
    multi_categorical_entropy,
    multi_categorical_kl,
    multi_categorical_log_prob,
    multi_categorical_sample,
    squashed_gaussian_log_prob,
)

Draw = Callable[[NDArray[Any], int], NDArray[Any]]
"""(outputs of a network [B, A], step) -> actions [B, ...]."""


def _gumbel(*shape: int) -> NDArray[np.float32]:
    """-log(-log u): the largest of logits + this is a draw from their softmax (Gumbel 1954)."""
    return -torch.empty(shape).exponential_().log_().numpy()


class Categorical(nn.Module):
    """One of `size` actions; the outputs are logits."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def sample(self, output: Float[Tensor, "*B A"]) -> Int[Tensor, "*B"]:
        return categorical_sample(output)

    def mode(self, output: Float[Tensor, "*B A"]) -> Int[Tensor, "*B"]:
        return output.argmax(-1)

    def reflex(self, steps: int, rows: int, greedy: bool) -> Draw:
        """The same choice in NumPy, with the noise of so many steps drawn at once: argmax of logits + Gumbel noise."""
        if greedy:
            return lambda output, _: output.argmax(-1)
        noise = _gumbel(steps, rows, self.size)
        return lambda output, step: (output + noise[step]).argmax(-1)

    def log_prob(self, output: Float[Tensor, "*B A"], action: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return categorical_log_prob(output, action)

    def entropy(self, output: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        return categorical_entropy(output)

    def describe(self, output: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """The logits."""
        return output

    def kl(self, old: Float[Tensor, "*B A"], new: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        return categorical_kl(old, new)


class MultiCategorical(nn.Module):
    """K independent choices among `sizes` actions each; the outputs are their logits side by side."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.size = sum(self.sizes)

    def sample(self, output: Float[Tensor, "*B A"]) -> Int[Tensor, "*B K"]:
        return multi_categorical_sample(output, self.sizes)

    def mode(self, output: Float[Tensor, "*B A"]) -> Int[Tensor, "*B K"]:
        return torch.stack([part.argmax(-1) for part in output.split(self.sizes, -1)], -1)

    def reflex(self, steps: int, rows: int, greedy: bool) -> Draw:
        """The same choice in NumPy, with the noise of so many steps drawn at once."""
        noise = np.zeros((steps, rows, self.size), np.float32) if greedy else _gumbel(steps, rows, self.size)
        ends = np.cumsum(self.sizes)[:-1]

        def draw(output: NDArray[Any], step: int) -> NDArray[Any]:
            return np.stack([part.argmax(-1) for part in np.split(output + noise[step], ends, -1)], -1)

        return draw

    def log_prob(self, output: Float[Tensor, "*B A"], action: Int[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
        return multi_categorical_log_prob(output, action, self.sizes)

    def entropy(self, output: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        return multi_categorical_entropy(output, self.sizes)

    def describe(self, output: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """The logits."""
        return output

    def kl(self, old: Float[Tensor, "*B A"], new: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        return multi_categorical_kl(old, new, self.sizes)


class Gaussian(nn.Module):
    """`size` independent real numbers; the outputs are their means, and log σ is a parameter of its own, 0 at first.

    Actions are unbounded: a world with a box clips what it executes, and the record keeps what was chosen.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.log_std = nn.Parameter(torch.zeros(size))

    def sample(self, output: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        return gaussian_sample(output, self.log_std)

    def mode(self, output: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        return output

    def reflex(self, steps: int, rows: int, greedy: bool) -> Draw:
        """The same choice in NumPy, with the noise of so many steps drawn at once."""
        if greedy:
            return lambda output, _: output
        with torch.no_grad():
            noise = (self.log_std.exp() * torch.randn(steps, rows, self.size)).numpy()
        return lambda output, step: output + noise[step]

    def log_prob(self, output: Float[Tensor, "*B A"], action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        return gaussian_log_prob(output, self.log_std, action)

    def entropy(self, output: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        return gaussian_entropy(self.log_std).expand(output.shape[:-1])

    def describe(self, output: Float[Tensor, "*B A"]) -> Float[Tensor, "*B P"]:
        """The means, then log σ: P = 2A."""
        return torch.cat([output, self.log_std.expand_as(output)], -1)

    def kl(self, old: Float[Tensor, "*B P"], new: Float[Tensor, "*B P"]) -> Float[Tensor, "*B"]:
        return gaussian_kl(*old.chunk(2, -1), *new.chunk(2, -1))


Head = Categorical | MultiCategorical | Gaussian


class SquashedGaussian(nn.Module):
    """Numbers within a box: tanh of a Gaussian, stretched to [low, high]. The outputs are means, then raw log σ.

    log σ is squashed into (`log_std_range`), (-5, 2) as in CleanRL's soft actor-critic.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self, low: Float[Tensor, " A"], high: Float[Tensor, " A"], log_std_range: tuple[float, float] = (-5.0, 2.0)
    ) -> None:
        super().__init__()
        self.size = 2 * len(low)
        self.log_std_range = log_std_range
        self.register_buffer("center", (high + low) / 2)
        self.register_buffer("scale", (high - low) / 2)

    def sample(self, output: Float[Tensor, "*B P"]) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B"]]:
        """(action, its log-density), both differentiable in `output`."""
        mean, raw = output.chunk(2, -1)
        log_std = bounded_log_std(raw, *self.log_std_range)
        latent = gaussian_sample(mean, log_std)
        log_prob = squashed_gaussian_log_prob(mean, log_std, latent, self.scale)
        return self.center + self.scale * latent.tanh(), log_prob

    def mode(self, output: Float[Tensor, "*B P"]) -> Float[Tensor, "*B A"]:
        """The action of the Gaussian's mean, for evaluation."""
        return self.center + self.scale * output.chunk(2, -1)[0].tanh()

    def reflex(self, steps: int, rows: int, greedy: bool) -> Draw:
        """The same choice in NumPy, with the noise of so many steps drawn at once."""
        low, high = self.log_std_range
        center, scale, actions = self.center.numpy(), self.scale.numpy(), self.size // 2
        noise = torch.zeros if greedy else torch.randn
        epsilon = noise(steps, rows, actions).numpy()

        def draw(output: NDArray[Any], step: int) -> NDArray[Any]:
            std = np.exp(low + 0.5 * (high - low) * (1 + np.tanh(output[:, actions:])))
            return center + scale * np.tanh(output[:, :actions] + std * epsilon[step])

        return draw
