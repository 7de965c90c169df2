"""Which actions environments allow: ones and zeros behind what is seen of them, which `networks.masks` obeys."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.envs.observation import MASK

Told = tuple[NDArray[Any], NDArray[np.bool_]]
"""Masks [B, A], and for which of them the environment gave one [B]."""


class ActionMasks:
    """The masks of a vector environment, as `info` of its reset shows where it gives them.

    They may be a part "action_mask" of a Dict observation, as in PettingZoo, `info["action_mask"]`, as in Gymnasium's
    Taxi, or a method `action_masks()` of each environment, as Stable-Baselines3 asks for. The masks of the several
    choices of a MultiDiscrete space stand side by side. `size` is how many places a mask has, 0 where nothing is masked
    and all that is seen is left as it is. Raises `InputError` for a part "action_mask" where actions are no choices.
    """

    def __init__(self, env: Any, info: dict[str, Any]) -> None:
        self.env, actions = env, env.single_action_space
        self.choices = _choices(actions)
        self.every = np.ones(env.num_envs, dtype=bool)
        self.told = self._where(info)
        self.size = 0 if self.told is None else sum(self.choices)

    def _where(self, info: dict[str, Any]) -> Callable[[Any, dict[str, Any]], Told] | None:
        """(observations, infos) to what they tell."""
        if not self.choices:
            if self._seen:
                raise InputError(
                    f'the part "{MASK}" of {self.env.single_observation_space} can mask Discrete and MultiDiscrete '
                    f"actions only, not {self.env.single_action_space}: leave it out, or call it something else if a "
                    "policy is to see it"
                )
            return None
        if self._seen:
            return lambda observation, _: (observation[MASK], self.every)
        if MASK in info:
            nothing = np.zeros_like(info[MASK])
            return lambda _, info: (info.get(MASK, nothing), info.get(f"_{MASK}", self.every))
        environments = getattr(self.env, "envs", [])
        if environments and all(x.has_wrapper_attr("action_masks") for x in environments):
            return lambda *_: (np.stack([x.get_wrapper_attr("action_masks")() for x in environments]), self.every)
        return None

    @property
    def _seen(self) -> bool:
        space = self.env.single_observation_space
        return isinstance(space, spaces.Dict) and MASK in space.spaces

    def behind(
        self, seen: NDArray[Any], observation: Any, info: dict[str, Any], over: NDArray[np.bool_], step: int
    ) -> NDArray[Any]:
        """`seen` [B, N] with the masks behind it, [B, N + `size`].

        Where an episode is `over` and no mask is given, or one that allows nothing, it is ones.

        Raises `InputError` for masks of another shape than the actions, and where an episode that goes on after `step`
        allows no action.
        """
        return seen if self.told is None else self._joined(seen, self.told(observation, info), over, step)

    def behind_last(
        self, seen: NDArray[Any], observation: Any, info: dict[str, Any], done: NDArray[np.bool_], step: int
    ) -> NDArray[Any]:
        """The same for what is `seen` [D, N] of the last states of the episodes that are `done`.

        `observation` and `info` are those of the step, and with SAME_STEP autoreset `observation` those [D, ...] before
        it. A method `action_masks()` cannot be asked about them then, as it speaks of the next episodes.
        """
        if self.told is None:
            return seen
        if self.env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            mask, given = self._told_before(observation, info, done)
        else:
            mask, given = (x[done] for x in self.told(observation, info))
        return self._joined(seen, (mask, given), np.ones_like(given), step)

    def _told_before(self, last: Any, info: dict[str, Any], done: NDArray[np.bool_]) -> Told:
        """What was told of the `last` states [D, ...] of episodes that have already been reset."""
        if self._seen:
            return last[MASK], self.every[done]
        before = info.get("final_info", {})
        if MASK in before:
            return before[MASK][done], before.get(f"_{MASK}", done)[done]
        return np.zeros((done.sum(), self.size)), ~self.every[done]

    def _joined(self, seen: NDArray[Any], told: Told, over: NDArray[np.bool_], step: int) -> NDArray[Any]:
        mask, given = told
        if mask.shape != (len(seen), self.size):
            raise InputError(
                f"an action mask of the shape {mask.shape[1:]} is not one of the actions {self.env.single_action_space}"
            )
        mask = (mask != 0) & given[:, None]
        nothing = ~np.logical_or.reduceat(mask, np.cumsum([0, *self.choices[:-1]]), axis=1)
        mask |= np.repeat(nothing & over[:, None], self.choices, axis=1)
        if (stuck := nothing.any(1) & ~over).any():
            raise InputError(
                f"environment {stuck.argmax()} allows no action after step {step}, where its episode goes on: its "
                "action mask needs a 1"
            )
        return np.concatenate([seen, mask], 1, dtype=np.float32)


def renewed(info: dict[str, Any], anew: dict[str, Any]) -> dict[str, Any]:
    """The masks in `info` of a step after a reset of some environments, whose own are in `anew`."""
    if MASK not in anew:
        return info
    mask, given = info.get(MASK, anew[MASK]), anew[f"_{MASK}"]
    return {MASK: np.where(given[:, None], anew[MASK], mask), f"_{MASK}": given | info.get(f"_{MASK}", given)}


def _choices(actions: spaces.Space[Any]) -> list[int]:
    """How many actions each choice of a Discrete or MultiDiscrete space has; none of any other space."""
    if isinstance(actions, spaces.Discrete):
        return [int(actions.n)]
    return actions.nvec.ravel().tolist() if isinstance(actions, spaces.MultiDiscrete) else []
