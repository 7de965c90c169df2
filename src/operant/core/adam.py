"""Adam on one vector: a step is one compiled loop, and so is the length of the gradient."""

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import nn

from operant.core.flat import Flat

F = np.float32


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` of one `Flat` on a CPU, which is saved like it and can shorten the gradient as it steps.

    For the small networks of control most of a step of PyTorch's is the way to the arithmetic.
    """

    def norm(self) -> float:
        """The length of the gradient."""
        return float(_sum_of_squares(self.param_groups[0]["params"][0].grad.numpy())) ** 0.5

    def shortened_step(self, factor: float) -> None:
        """m ← β₁ m + (1 - β₁) f g,  v ← β₂ v + (1 - β₂) f² g²,  w ← w - α m̂ / (√v̂ + ε) (Kingma and Ba 2015, alg. 1)."""
        group = self.param_groups[0]
        flat = group["params"][0]
        if not (state := self.state[flat]):
            mean, mean_square = torch.zeros_like(flat.data), torch.zeros_like(flat.data)
            state |= {"step": torch.zeros(()), "exp_avg": mean, "exp_avg_sq": mean_square}
        step = state["step"].numpy()
        step += 1
        t, (beta_1, beta_2) = float(step), group["betas"]
        arrays = flat.data.numpy(), flat.grad.numpy(), state["exp_avg"].numpy(), state["exp_avg_sq"].numpy()
        size, inverse_bias = group["lr"] / (1 - beta_1**t), (1 - beta_2**t) ** -0.5
        _step(*arrays, F(factor), F(1 - beta_1), F(beta_2), F(size), F(inverse_bias), F(group["eps"]))


def adam(parameters: Sequence[nn.Parameter], learning_rate: float, epsilon: float = 1e-8) -> torch.optim.Optimizer:
    """Adam, the compiled one for a vector on a CPU."""
    first = parameters[0]
    if len(parameters) == 1 and isinstance(first, Flat) and (first.device.type, first.dtype) == ("cpu", torch.float32):
        return Adam(parameters, lr=learning_rate, eps=epsilon)
    return torch.optim.Adam(parameters, lr=learning_rate, eps=epsilon, fused=True)


@numba.njit(cache=True, fastmath={"contract", "nsz", "arcp", "reassoc"})
def _sum_of_squares(x):
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    return total


@numba.njit(cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
def _step(w, gradient, m, v, factor, new, old_square, size, inverse_bias, epsilon):
    for i in range(len(w)):
        g = factor * gradient[i]
        m[i] += new * (g - m[i])
        v[i] = old_square * v[i] + (np.float32(1) - old_square) * g * g
        w[i] -= size * m[i] / (np.sqrt(v[i]) * inverse_bias + epsilon)
