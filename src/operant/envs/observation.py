"""What environments show, as rows of numbers: choices are one-hot, and the parts of a whole stand side by side.

The order is that of `gymnasium.spaces.utils.flatten`. A part of a Dict that is called "action_mask" is no observation:
it says which actions are allowed (`envs.masks`).
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim
from numpy.typing import NDArray

from operant.core.errors import InputError

MASK = "action_mask"
Convert = Callable[[Any], NDArray[Any]]
"""Observations of B environments, as a vector environment gives them, to an array [B, ...]."""


def numbers(space: spaces.Space[Any]) -> tuple[spaces.Box, Convert]:
    """The Box that stands for an observation space, and what makes its rows.

    A Box is left as it is, but that bytes without the three dimensions of an image become numbers. Discrete,
    MultiDiscrete and MultiBinary become one-hot numbers, a Dict or a Tuple the numbers of all its parts. Raises
    `InputError` for other spaces, for images among the parts, and for an "action_mask" inside one of them, which would
    be neither seen nor obeyed.
    """
    if isinstance(space, spaces.Box):
        if space.dtype != np.uint8 or len(space.shape) == 3:
            return space, np.asarray
        return spaces.Box(space.low, space.high, dtype=np.float32), functools.partial(np.asarray, dtype=np.float32)
    convert = _converter(space, space)
    low, high = _bounds(space)
    return spaces.Box(low, high, dtype=np.float32), convert


def _parts(space: Any) -> list[tuple[Any, spaces.Space[Any]]]:
    """(name, space) of all that is seen of a Dict or a Tuple, in Gymnasium's order."""
    if isinstance(space, spaces.Dict):
        return [(name, part) for name, part in space.spaces.items() if name != MASK]
    return list(enumerate(space.spaces))


def _converter(space: spaces.Space[Any], whole: spaces.Space[Any]) -> Convert:
    if isinstance(space, spaces.Dict) and MASK in space.spaces and space is not whole:
        raise InputError(
            f'the observation {whole} has an "{MASK}" inside one of its parts: put it into a Dict around them all, '
            "or call it something else if a policy is to see it"
        )
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = [(name, _converter(part, whole)) for name, part in _parts(space)]
        return lambda seen: np.concatenate([convert(seen[name]) for name, convert in parts], 1, dtype=np.float32)
    if isinstance(space, spaces.Discrete):
        return lambda seen: _one_hot(np.asarray(seen) - space.start, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        sizes, start = space.nvec.flatten(), space.start.flatten()
        return lambda seen: _one_hot_each(np.asarray(seen).reshape(len(seen), -1) - start, sizes)
    image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1
    if isinstance(space, spaces.Box | spaces.MultiBinary) and not image:
        return lambda seen: np.asarray(seen, dtype=np.float32).reshape(len(seen), -1)
    raise InputError(
        f"an observation {space} is no row of numbers"
        + (f", and {whole} holds one" if whole is not space else "")
        + ": Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these fit; an image has to stand alone"
    )


def _bounds(space: spaces.Space[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        low, high = zip(*(_bounds(part) for _, part in _parts(space)), strict=True)
        return np.concatenate(low), np.concatenate(high)
    if isinstance(space, spaces.Box):
        return space.low.flatten().astype(np.float32), space.high.flatten().astype(np.float32)
    return np.zeros(flatdim(space), np.float32), np.ones(flatdim(space), np.float32)


def _one_hot(index: NDArray[Any], size: int) -> NDArray[np.float32]:
    if len(wrong := ((index < 0) | (index >= size)).nonzero()[0]):
        raise InputError(
            f"environment {wrong[0]} shows number {index[wrong[0]]} of {size} choices, which are counted from 0: mend "
            "its observations, or its observation space"
        )
    return (index[:, None] == np.arange(size)).astype(np.float32)


def _one_hot_each(index: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.float32]:
    return np.concatenate([_one_hot(index[:, i], int(n)) for i, n in enumerate(sizes)], 1)
