"""Least-squares TD, LSTD(λ) (Bradtke and Barto 1996; Boyan 2002): the fixed point of TD on all that was seen, at once.

    A^-1 <- I / ridge, b <- 0;  e <- 0 at the start of an episode
    repeat
        act by π, observe r, s';  d = x(s) - γ x(s')
        e <- γλ e + x(s)
        A^-1 <- A^-1 - (A^-1 e)(dᵀ A^-1) / (1 + dᵀ A^-1 e)       (Sherman and Morrison; Sutton and Barto, eq. 9.22)
        b <- b + r e
    w = A^-1 b                                                     (equation 9.20: Σ e dᵀ w = Σ r e)

No step size; F² numbers and as much work a step. At an end x(s') is 0; where an episode was only cut off, it counts. On
a table with λ = 0 this is batch TD: the values of the likeliest model of what was seen (section 6.3).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.prediction import Policy, act, add_all, shrink, weights
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.linear import Features, add_to, value_of
from operant.core.random import Stream, stream
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    lambda_: float = 0.0
    """λ: 0 = the fixed point of TD(0), 1 = least-squares Monte Carlo."""
    ridge: float = 1e-3
    """What A begins with in each place of its diagonal; it draws values to 0, less the more is seen."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s), as of the last report."""
    inverse: NDArray[np.float64]
    """[X, X]: A^-1."""
    b: NDArray[np.float64]
    """[X, 1]."""
    e: NDArray[np.float64]
    """[X, 1]: the traces."""
    room: NDArray[np.float64]
    """[X, 2]: where a step computes."""
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, config: Config, seed: int = 0) -> State:
    w = weights(world, config, policy)
    inverse = np.eye(len(w)) / config.ridge
    return State(world, policy, w, inverse, np.zeros_like(w), np.zeros_like(w), np.zeros((len(w), 2)), stream(seed, 1))


@numba.njit(cache=True)
def update(
    inverse: NDArray[np.float64],
    b: NDArray[np.float64],
    e: NDArray[np.float64],
    room: NDArray[np.float64],
    x: Features,
    reward: float,
    discount: float,
    after: Features,
    decay: float,
) -> None:
    """A += e dᵀ, b += r e, with A kept as its inverse; `decay` is γλ, and the discount is 0 at an end."""
    shrink(e, decay)
    add_to(e, x, 0, 1.0)
    room[:, 0] = 0.0
    for i in range(len(e)):
        if e[i, 0] != 0:
            for j in range(len(e)):
                room[j, 0] += inverse[j, i] * e[i, 0]
    for j in range(len(e)):
        room[j, 1] = value_of(inverse, x, j) - (discount * value_of(inverse, after, j) if discount > 0 else 0.0)
    scale = 1 + value_of(room, x, 0) - (discount * value_of(room, after, 0) if discount > 0 else 0.0)
    for i in range(len(e)):
        if room[i, 0] != 0:
            for j in range(len(e)):
                inverse[i, j] -= room[i, 0] * room[j, 1] / scale
    add_all(b, reward, e)


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    inverse: NDArray[np.float64],
    b: NDArray[np.float64],
    e: NDArray[np.float64],
    room: NDArray[np.float64],
    gamma: float,
    lambda_: float,
    random: Stream,
    steps: int,
) -> None:
    x = current(world)
    for _ in range(steps):
        reward, after, terminated, truncated = step(world, act(world, policy, random))
        update(inverse, b, e, room, x, reward, 0.0 if terminated else gamma, after, gamma * lambda_)
        x = after
        if terminated or truncated:
            shrink(e, 0.0)
            x = reset(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run, gamma = loop_on(state.world, learn), discount_of(state.world, config)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(
            state.world, state.policy, state.inverse, state.b, state.e, state.room, gamma, config.lambda_,
            state.random, steps,
        )  # fmt: skip
        state.w[:] = state.inverse @ state.b
        state.step += steps
        yield finished(state.world, episodes)
