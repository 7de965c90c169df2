"""What `ActorCritic.evaluate` computes in compiled loops, forwards and back: two perceptrons and a distribution."""

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from operant.core.flat import Flat
from operant.core.record import Evaluation
from operant.networks.heads import Categorical, Gaussian, Head
from operant.networks.perceptron import Layers, back, forward, layers_of, place

ONE, HALF, LOG_2_PI = np.float32(1), np.float32(0.5), np.float32(np.log(2 * np.pi))


class Shape(NamedTuple):
    """Where the networks are in the vector, and what they are."""

    categorical: bool
    log_std: int
    """Place of the Gaussian's log σ."""
    actor: Layers
    critic: Layers


def shape_of(module: nn.Module, head: Head, actor: nn.Sequential, critic: nn.Sequential) -> Shape | None:
    """The shape of a flattened module; None where there is another head or activation than these loops know."""
    layers = layers_of(module, actor), layers_of(module, critic)
    if not isinstance(head, Categorical | Gaussian) or layers[0] is None or layers[1] is None:
        return None
    log_std = place(module, head.log_std) if isinstance(head, Gaussian) else 0
    return Shape(isinstance(head, Categorical), log_std, layers[0], layers[1])


def evaluate(flat: Flat, shape: Shape, observation: Float[Tensor, "*B D"], action: Shaped[Tensor, "..."]) -> Evaluation:
    """log π(a|s), the policy's entropy and v(s). Gradients go to `flat`, and so to the parameters it consists of."""
    lead = observation.shape[:-1]
    rows = observation.reshape(-1, observation.shape[-1])
    choices = action.reshape(len(rows), *action.shape[len(lead) :])
    found = _Evaluate.apply(flat, shape, rows, choices)
    return Evaluation(*(x.view(lead) for x in found))  # pyright: ignore[reportOptionalIterable]


def value(flat: Flat, shape: Shape, observation: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
    """v(s), without gradients."""
    lead, rows = observation.shape[:-1], observation.reshape(-1, observation.shape[-1])
    found, _ = forward(rows.contiguous().numpy(), flat.detach().numpy(), shape.critic)
    return torch.from_numpy(found).view(lead)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, shape: Shape, observation: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        weights, x, a = flat.detach().numpy(), observation.contiguous().numpy(), action.contiguous().numpy()
        (output, of_actor), (value, of_critic) = (forward(x, weights, part) for part in (shape.actor, shape.critic))
        log_prob, entropy = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
        if shape.categorical:
            _categorical(output, a, log_prob, entropy)
        else:
            _gaussian(output, weights[shape.log_std : shape.log_std + output.shape[1]], a, log_prob, entropy)
        ctx.kept = (shape, weights, x, a, of_actor, of_critic, output, entropy)
        ctx.set_materialize_grads(False)
        return torch.from_numpy(log_prob), torch.from_numpy(entropy), torch.from_numpy(value.reshape(-1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        shape, weights, x, a, of_actor, of_critic, output, entropy = ctx.kept
        zero = np.zeros(len(x), np.float32)
        by_log_prob, by_entropy, by_value = (zero if g is None else g.contiguous().numpy() for g in gradients)
        gradient, slope = np.zeros_like(weights), output.copy()
        if shape.categorical:
            _categorical_back(slope, a, entropy, by_log_prob, by_entropy)
        else:
            own = slice(shape.log_std, shape.log_std + output.shape[1])
            _gaussian_back(slope, weights[own], by_log_prob, by_entropy, gradient[own])
        back(slope, x, weights, shape.actor, of_actor, gradient)
        back(by_value.reshape(-1, 1), x, weights, shape.critic, of_critic, gradient)
        return torch.from_numpy(gradient), None, None, None


@numba.njit(cache=True)
def _categorical(logits, action, log_prob, entropy):
    """log π(a) and the entropy of softmax(logits); `logits` become log-probabilities."""
    for row in range(logits.shape[0]):
        top = logits[row].max()
        total = np.float32(0)
        for i in range(logits.shape[1]):
            total += np.exp(logits[row, i] - top)
        offset, mean = top + np.log(total), np.float32(0)
        for i in range(logits.shape[1]):
            logits[row, i] -= offset
            mean += np.exp(logits[row, i]) * logits[row, i]
        log_prob[row], entropy[row] = logits[row, action[row]], -mean


@numba.njit(cache=True)
def _categorical_back(log_p, action, entropy, by_log_prob, by_entropy):
    """∂/∂logit_i: by log π(a) it is [i = a] - p_i, by the entropy -p_i (log p_i + H). In place of `log_p`."""
    for row in range(log_p.shape[0]):
        for i in range(log_p.shape[1]):
            p = np.exp(log_p[row, i])
            log_p[row, i] = -p * (by_log_prob[row] + by_entropy[row] * (log_p[row, i] + entropy[row]))
        log_p[row, action[row]] += by_log_prob[row]


@numba.njit(cache=True)
def _gaussian(mean, log_std, action, log_prob, entropy):
    """log N(a; mean, σ) and the entropy; `mean` becomes (a - mean) / σ."""
    spread = np.float32(0)
    for i in range(mean.shape[1]):
        spread += log_std[i] + HALF * LOG_2_PI
    for row in range(mean.shape[0]):
        squares = np.float32(0)
        for i in range(mean.shape[1]):
            mean[row, i] = (action[row, i] - mean[row, i]) * np.exp(-log_std[i])
            squares += mean[row, i] * mean[row, i]
        log_prob[row], entropy[row] = -HALF * squares - spread, spread + HALF * np.float32(mean.shape[1])


@numba.njit(cache=True)
def _gaussian_back(scaled, log_std, by_log_prob, by_entropy, by_log_std):
    """By log N: ∂/∂mean = z / σ and ∂/∂log σ = z² - 1; by the entropy ∂/∂log σ = 1. In place of `scaled`, z."""
    for row in range(scaled.shape[0]):
        for i in range(scaled.shape[1]):
            z = scaled[row, i]
            by_log_std[i] += by_log_prob[row] * (z * z - ONE) + by_entropy[row]
            scaled[row, i] = by_log_prob[row] * z * np.exp(-log_std[i])
