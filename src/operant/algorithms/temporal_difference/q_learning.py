"""Q-learning (Watkins 1989): learn what the greedy policy is worth while following another one.

    choose a ε-greedily in Q, observe r, s'
    Q(s, a) <- Q(s, a) + α [ r + γ max_a' Q(s', a') - Q(s, a) ]          (Sutton and Barto, equation 6.8)

where the maximum is 0 if the episode terminated at s', and counts where it was only cut off there.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import njit_loop
from operant.core.linear import Features, add_to, epsilon_greedy, largest, value_of
from operant.core.random import Stream
from operant.mdp.simulator import actions, current, reset, step


@numba.njit(cache=True)
def update(
    w: NDArray[np.float64], x: Features, a: int, reward: float, discount: float, after: Features, n: int, alpha: float
) -> None:
    """Q(s, a) += α (r + discount max Q(s', ·) - Q(s, a)); s' has n actions, and the discount is 0 at an end."""
    target = reward + discount * largest(w, after, n) if discount > 0 else reward
    add_to(w, x, a, alpha * (target - value_of(w, x, a)))


@njit_loop
def learn(
    world: Any, w: NDArray[np.float64], gamma: float, alpha: float, epsilon: float, random: Stream, steps: int
) -> None:
    x, n = current(world), actions(world)
    for _ in range(steps):
        a = epsilon_greedy(w, x, n, epsilon, random)
        reward, after, terminated, truncated = step(world, a)
        n = actions(world)
        update(w, x, a, reward, 0.0 if terminated else gamma, after, n, alpha)
        x = after
        if terminated or truncated:
            x = reset(world)
            n = actions(world)
