"""Returns and advantages. Under all of them lies one recurrence, y_t = x_t + a_t y_{t+1}.

Every function works on the last axis, so it takes [B, T] records and a single [T] trace alike. `discount` is a tensor:
γ where the trace goes on, 0 where the next state is terminal, negative where the opponent moves next. `done` only cuts
the trace; the last column is always cut. Where a factor is 0, what it would multiply is never read (0 · NaN is NaN).
Records of several shapes raise `ValueError`: a value [B, 1] against a reward [B, T] would broadcast without a word.
"""

import numba
import torch
from jaxtyping import Bool, Float
from torch import Tensor

NUMPY = (torch.float32, torch.float64)


def _times(factor: Tensor, x: Tensor) -> Tensor:
    """factor * x, and 0 where the factor is 0 whatever stands in x; the gradients of both are safe in the same way."""
    return factor * torch.where(factor == 0, torch.zeros_like(x), x)


def discounted_sum(x: Float[Tensor, "*B T"], decay: Float[Tensor, "*B T"] | float) -> Float[Tensor, "*B T"]:
    """Solve y_t = x_t + decay_t y_{t+1}, with y_T = 0 past the end.

    The recurrence is a composition of affine maps, so it is solved by doubling: log2(T) passes over the array instead
    of T steps (Blelloch 1990, "Prefix sums and their applications", section 1.4). On a CPU, where no gradient is
    wanted, it is one compiled loop.
    """
    y = x
    a = torch.as_tensor(decay, dtype=x.dtype, device=x.device).expand_as(x)
    if x.numel() and x.device.type == "cpu" and x.dtype in NUMPY and not (x.requires_grad or a.requires_grad):
        y = x.clone(memory_format=torch.contiguous_format)
        _solve(y.view(-1, x.shape[-1]).numpy(), a.reshape(-1, x.shape[-1]).numpy())
        return y
    span, steps = 1, x.shape[-1]
    while span < steps:
        y = torch.cat([y[..., :-span] + _times(a[..., :-span], y[..., span:]), y[..., -span:]], -1)
        a = torch.cat([_times(a[..., :-span], a[..., span:]), torch.zeros_like(a[..., -span:])], -1)
        span *= 2
    return y


@numba.njit(cache=True)
def _solve(y, decay):
    """y [N, T] holds x and becomes the solution; what a decay of 0 would multiply is not read."""
    for row in range(y.shape[0]):
        for t in range(y.shape[1] - 2, -1, -1):
            if decay[row, t] != 0:
                y[row, t] += decay[row, t] * y[row, t + 1]


def td_error(
    reward: Float[Tensor, "*B T"],
    value: Float[Tensor, "*B T"],
    next_value: Float[Tensor, "*B T"],
    discount: Float[Tensor, "*B T"],
) -> Float[Tensor, "*B T"]:
    """δ_t = r_t + γ_t v(s_{t+1}) - v(s_t) (Sutton and Barto 2018, eq. 6.5)."""
    _require_one_shape(reward=reward, value=value, next_value=next_value, discount=discount)
    return reward + _times(discount, next_value) - value


def n_step_return(
    reward: Float[Tensor, "*B T"],
    next_value: Float[Tensor, "*B T"],
    discount: Float[Tensor, "*B T"],
    done: Bool[Tensor, "*B T"],
    n: int,
) -> Float[Tensor, "*B T"]:
    """G_t = r_t + γ_t r_{t+1} + ... + γ_t⋯γ_{t+n-1} v(s_{t+n}), sooner where the trace is cut (S&B eq. 7.1)."""
    if n < 1:
        raise ValueError(f"n_step_return needs n >= 1, got {n}")
    _require_one_shape(reward=reward, next_value=next_value, discount=discount, done=done)
    target = reward + _times(discount, next_value)
    cut = _cut(done)
    for _ in range(min(n, done.shape[-1]) - 1):
        following = torch.cat([target[..., 1:], next_value[..., -1:]], -1)
        target = reward + _times(discount, torch.where(cut, next_value, following))
    return target


def lambda_return(
    reward: Float[Tensor, "*B T"],
    next_value: Float[Tensor, "*B T"],
    discount: Float[Tensor, "*B T"],
    done: Bool[Tensor, "*B T"],
    lambda_: Float[Tensor, "*B T"] | float,
) -> Float[Tensor, "*B T"]:
    """G_t = r_t + γ_t [(1 - λ) v(s_{t+1}) + λ G_{t+1}]; λ counts as 0 where the trace is cut (S&B eq. 12.18)."""
    _require_one_shape(reward=reward, next_value=next_value, discount=discount, done=done)
    trace = _trace(lambda_, discount, done)
    return discounted_sum(reward + _times(discount * (1 - trace), next_value), discount * trace)


def gae(
    reward: Float[Tensor, "*B T"],
    value: Float[Tensor, "*B T"],
    next_value: Float[Tensor, "*B T"],
    discount: Float[Tensor, "*B T"],
    done: Bool[Tensor, "*B T"],
    lambda_: Float[Tensor, "*B T"] | float,
) -> Float[Tensor, "*B T"]:
    """Â_t = δ_t + γ_t λ Â_{t+1}: generalised advantage estimation (Schulman et al. 2016, eq. 16).

    Equal to `lambda_return` minus `value`; the target of the critic is Â_t + v(s_t).
    """
    _require_one_shape(reward=reward, done=done)
    return discounted_sum(td_error(reward, value, next_value, discount), discount * _trace(lambda_, discount, done))


def vtrace(
    reward: Float[Tensor, "*B T"],
    value: Float[Tensor, "*B T"],
    next_value: Float[Tensor, "*B T"],
    discount: Float[Tensor, "*B T"],
    done: Bool[Tensor, "*B T"],
    ratio: Float[Tensor, "*B T"],
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
) -> Float[Tensor, "*B T"]:
    """v_t = V(s_t) + ρ_t δ_t + γ_t c_t (v_{t+1} - V(s_{t+1})), ρ = min(ρ̄, ratio), c = min(c̄, ratio).

    `ratio` is π(a|s) / μ(a|s) of target over behaviour policy (Espeholt et al. 2018, remark 1).
    """
    _require_one_shape(reward=reward, done=done, ratio=ratio)
    delta = _times(ratio.clamp(max=clip_rho), td_error(reward, value, next_value, discount))
    return value + discounted_sum(delta, _times(discount * _trace(1.0, discount, done), ratio.clamp(max=clip_c)))


def _require_one_shape(**records: Tensor) -> None:
    if len({x.shape for x in records.values()}) > 1:
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in records.items())
        raise ValueError(f"records of one trace have one shape, not {shapes}")


def _cut(done: Tensor) -> Tensor:
    """`done`, and the last column."""
    cut = done.clone()
    cut[..., -1:] = True
    return cut


def _trace(lambda_: Tensor | float, discount: Tensor, done: Tensor) -> Tensor:
    """λ where the trace goes on, 0 where it is cut, as exact as `discount`."""
    lambda_ = torch.as_tensor(lambda_, dtype=discount.dtype, device=discount.device)
    return torch.where(_cut(done), torch.zeros_like(lambda_), lambda_)
