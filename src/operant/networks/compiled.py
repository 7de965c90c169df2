"""An actor and a critic of tanh layers, evaluated in two compiled calls: forwards, and back to one vector of gradients.

What `ActorCritic.evaluate` computes from a few hundred rows is a few dozen small operations of PyTorch, and as many on
the way back; most of their time is not arithmetic. Here one loop does all of it, on the vector of `core.flat`.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from operant.core.flat import Flat
from operant.core.record import Evaluation
from operant.networks.heads import Categorical, Gaussian, Head

ONE, HALF, LOG_2_PI = np.float32(1), np.float32(0.5), np.float32(np.log(2 * np.pi))
# tanh x is x p(x²) / q(x²) to 3e-7 up to here, where it is 1 but for that: the coefficients of Eigen's fast tanh.
LIMIT = np.float32(7.905311)
P = tuple(map(np.float32, (
    4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08, -8.60467152213735e-11,
    2.00018790482477e-13, -2.76076847742355e-16,
)))  # fmt: skip
Q = tuple(map(np.float32, (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)))
VECTORISED = {"contract", "nsz", "arcp"}
"""Freedom for the compiler that keeps NaN and infinity what they are."""


class Shape(NamedTuple):
    """Where the networks are in the vector, and how wide their layers are."""

    categorical: bool
    log_std: int
    """Place of the Gaussian's log σ."""
    actor: int
    critic: int
    actor_sizes: NDArray[np.int64]
    critic_sizes: NDArray[np.int64]
    actor_hidden: int
    """Units of its hidden layers together."""
    critic_hidden: int


def shape_of(module: nn.Module, head: Head, actor: nn.Sequential, critic: nn.Sequential) -> Shape | None:
    """The shape of a flattened module; None where there is another head or activation than these loops know."""
    bends = [type(x) for network in (actor, critic) for x in network if not isinstance(x, nn.Linear)]
    if not isinstance(head, Categorical | Gaussian) or any(bend is not nn.Tanh for bend in bends):
        return None
    places, at = {}, 0
    for p in module.parameters():
        places[id(p)] = at
        at += p.numel()

    def sizes(network: nn.Sequential) -> NDArray[np.int64]:
        linear = [x for x in network if isinstance(x, nn.Linear)]
        return np.array([linear[0].in_features, *(x.out_features for x in linear)])

    log_std = places[id(head.log_std)] if isinstance(head, Gaussian) else 0
    first, second = (places[id(next(network.parameters()))] for network in (actor, critic))
    of_actor, of_critic = sizes(actor), sizes(critic)
    hidden = int(of_actor[1:-1].sum()), int(of_critic[1:-1].sum())
    return Shape(isinstance(head, Categorical), log_std, first, second, of_actor, of_critic, *hidden)


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
    x, hidden = rows.contiguous().numpy(), np.empty(len(rows) * shape.critic_hidden, np.float32)
    found = _forward(x, flat.detach().numpy(), shape.critic, shape.critic_sizes, hidden)
    return torch.from_numpy(found).view(lead)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, shape: Shape, observation: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        weights, x, a = flat.detach().numpy(), observation.contiguous().numpy(), action.contiguous().numpy()
        rows = len(x)
        of_actor, of_critic = (np.empty(rows * n, np.float32) for n in (shape.actor_hidden, shape.critic_hidden))
        output = _forward(x, weights, shape.actor, shape.actor_sizes, of_actor)
        value = _forward(x, weights, shape.critic, shape.critic_sizes, of_critic)
        log_prob, entropy = np.empty(rows, np.float32), np.empty(rows, np.float32)
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
        _back(slope, x, weights, shape.actor, shape.actor_sizes, of_actor, gradient)
        _back(by_value.reshape(-1, 1), x, weights, shape.critic, shape.critic_sizes, of_critic, gradient)
        return torch.from_numpy(gradient), None, None, None


@numba.njit(cache=True, fastmath=VECTORISED, error_model="numpy")
def _tanh(x):
    """tanh of every number, in place: one loop that is vectorised, as it would not be if it looked out for 0 / 0."""
    for i in range(x.shape[0]):
        v = min(max(x[i], -LIMIT), LIMIT)
        s = v * v
        p = P[0] + s * (P[1] + s * (P[2] + s * (P[3] + s * (P[4] + s * (P[5] + s * P[6])))))
        x[i] = v * p / (Q[0] + s * (Q[1] + s * (Q[2] + s * Q[3])))


@numba.njit(cache=True)
def _forward(x, weights, at, sizes, hidden):
    """The outputs [N, sizes[-1]] of a perceptron; `hidden` gets what its layers give."""
    rows, put, last = x.shape[0], 0, len(sizes) - 2
    for layer in range(last + 1):
        fan_in, fan_out = sizes[layer], sizes[layer + 1]
        weight = weights[at : at + fan_in * fan_out].reshape(fan_out, fan_in)
        bias = weights[at + fan_in * fan_out : at + (fan_in + 1) * fan_out]
        at += (fan_in + 1) * fan_out
        if layer < last:
            given = hidden[put : put + rows * fan_out]
            put += rows * fan_out
        else:
            given = np.empty(rows * fan_out, np.float32)
        y = given.reshape(rows, fan_out)
        np.dot(x, weight.T, y)
        for row in range(rows):
            for i in range(fan_out):
                y[row, i] += bias[i]
        if layer < last:
            _tanh(given)
        x = y
    return x


@numba.njit(cache=True, fastmath=VECTORISED)
def _back(slope, x, weights, at, sizes, hidden, gradient):
    """Write the gradient of a perceptron, where its weights are in the vector, from that of its outputs."""
    rows, last = x.shape[0], len(sizes) - 2
    put = len(hidden)
    for layer in range(last + 1):
        at += (sizes[layer] + 1) * sizes[layer + 1]
    for layer in range(last, -1, -1):
        fan_in, fan_out = sizes[layer], sizes[layer + 1]
        at -= (fan_in + 1) * fan_out
        bias = gradient[at + fan_in * fan_out : at + (fan_in + 1) * fan_out]
        for row in range(rows):
            for i in range(fan_out):
                bias[i] += slope[row, i]
        if layer == 0:
            np.dot(slope.T, x, gradient[at : at + fan_in * fan_out].reshape(fan_out, fan_in))
            return
        put -= rows * fan_in
        given = hidden[put : put + rows * fan_in].reshape(rows, fan_in)
        np.dot(slope.T, given, gradient[at : at + fan_in * fan_out].reshape(fan_out, fan_in))
        below = np.empty((rows, fan_in), np.float32)
        np.dot(slope, weights[at : at + fan_in * fan_out].reshape(fan_out, fan_in), below)
        for row in range(rows):
            for i in range(fan_in):
                below[row, i] *= ONE - given[row, i] * given[row, i]
        slope = below


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
