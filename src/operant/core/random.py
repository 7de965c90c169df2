"""Random numbers inside compiled loops: splitmix64 (Steele, Lea and Flood 2014), one word of state that can be saved.

    state <- state + 0x9E3779B97F4A7C15;  the output is the state, mixed

A stream is an array [1] of uint64, changed by every draw.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Stream = NDArray[np.uint64]


def stream(seed: int, n: int = 0) -> Stream:
    """The n-th stream of a seed; different ones do not meet in practice."""
    return np.random.SeedSequence([seed, n]).generate_state(1, np.uint64).astype(np.uint64)


@numba.njit(cache=True, inline="always")
def uniform(random: Stream) -> float:
    """A number in [0, 1), with all 53 bits."""
    word = random[0] + np.uint64(0x9E3779B97F4A7C15)
    random[0] = word
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return np.float64(word >> np.uint64(11)) * 1.1102230246251565e-16


@numba.njit(cache=True, inline="always")
def below(random: Stream, n: int) -> int:
    """A whole number from 0 to n - 1."""
    return int(uniform(random) * n)


@numba.njit(cache=True)
def draw(random: Stream, chance: NDArray[np.float64]) -> int:
    """A place of `chance`, probabilities that sum to 1."""
    left = uniform(random)
    for i in range(len(chance) - 1):
        left -= chance[i]
        if left < 0:
            return i
    return len(chance) - 1
