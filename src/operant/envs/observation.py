"""What environments show, as rows of numbers: choices are one-hot, and the parts of a whole stand side by side.

The order is that of `gymnasium.spaces.utils.flatten`. A part of a Dict that is called "action_mask" is no observation:
it says which Discrete actions are allowed.
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


Allowed = Callable[[Any, dict[str, Any]], tuple[NDArray[Any], NDArray[np.bool_]]]
"""(observations, infos) to the mask [B, A] and in which environments one was given [B]."""


def choices(actions: spaces.Space[Any]) -> list[int]:
    """How many actions each choice of a Discrete or MultiDiscrete space has; none of any other space."""
    if isinstance(actions, spaces.Discrete):
        return [int(actions.n)]
    return actions.nvec.ravel().tolist() if isinstance(actions, spaces.MultiDiscrete) else []


def action_mask(env: Any, info: dict[str, Any]) -> Allowed | None:
    """Where a vector environment says what actions are allowed, as `info` of its reset shows; None if nowhere.

    It may be a part "action_mask" of a Dict observation, as in PettingZoo, `info["action_mask"]`, as in Gymnasium's
    Taxi, or a method `action_masks()` of each environment, as Stable-Baselines3 asks for. The masks of the several
    choices of a MultiDiscrete space stand side by side. Raises `InputError` for a part "action_mask" where actions are
    no choices.
    """
    every = np.ones(env.num_envs, dtype=bool)
    if not choices(env.single_action_space):
        if _shows_mask(env):
            raise InputError(
                f'the part "{MASK}" of {env.single_observation_space} can mask Discrete and MultiDiscrete actions '
                f"only, not {env.single_action_space}: leave it out, or call it something else if a policy is to see it"
            )
        return None
    if _shows_mask(env):
        return lambda observation, _: (observation[MASK], every)
    if MASK in info:
        nothing = np.zeros_like(info[MASK])
        return lambda _, info: (info.get(MASK, nothing), info.get(f"_{MASK}", every))
    environments = getattr(env, "envs", [])
    if environments and all(x.has_wrapper_attr("action_masks") for x in environments):
        return lambda *_: (np.stack([x.get_wrapper_attr("action_masks")() for x in environments]), every)
    return None


def last_mask(
    env: Any, last: Any, info: dict[str, Any], done: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """What an `Allowed` would say of the `last` states [D, ...] of the episodes that SAME_STEP has already reset.

    `info` is that of the step. A method `action_masks()` cannot be asked any more, as it speaks of the next episodes:
    no mask is given then.
    """
    if _shows_mask(env):
        return last[MASK], np.ones(len(last[MASK]), dtype=bool)
    told = info.get("final_info", {})
    if MASK in told:
        return told[MASK][done], told.get(f"_{MASK}", done)[done]
    return np.zeros((done.sum(), sum(choices(env.single_action_space)))), np.zeros(done.sum(), dtype=bool)


def _shows_mask(env: Any) -> bool:
    space = env.single_observation_space
    return isinstance(space, spaces.Dict) and MASK in space.spaces


def renewed(info: dict[str, Any], anew: dict[str, Any]) -> dict[str, Any]:
    """The masks in `info` of a step after a reset of some environments, whose own are in `anew`."""
    if MASK not in anew:
        return info
    mask, given = info.get(MASK, anew[MASK]), anew[f"_{MASK}"]
    return {MASK: np.where(given[:, None], anew[MASK], mask), f"_{MASK}": given | info.get(f"_{MASK}", given)}
