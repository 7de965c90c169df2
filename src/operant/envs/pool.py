"""Environments of EnvPool (Weng et al. 2022), which step in C++: `envpool:Acrobot-v1`."""

import difflib
import importlib
import warnings
from collections.abc import Mapping
from typing import Any

from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from operant.core.errors import InputError

PREFIX = "envpool:"
SEEDS = 2**31 - 1
"""EnvPool's seeds are below this. Those from here on, which evaluations have, are put into the upper half."""


class Pool(VectorEnv):
    """`envs` environments that step together on one thread and begin anew in the step after an end (NEXT_STEP).

    EnvPool takes a seed when it makes environments, so a reset with one makes them again. Their state cannot be saved.
    Raises `InputError` for a name or a setting that EnvPool does not know, and where it is not installed.
    """

    def __init__(self, name: str, envs: int, settings: Mapping[str, Any]) -> None:
        try:
            self.library: Any = importlib.import_module("envpool")
        except ImportError as error:
            raise InputError(f"{PREFIX}{name} needs a package: pip install 'operant[envpool]' ({error})") from error
        known = self.library.list_all_envs()
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.7)
            hint = f"did you mean {' or '.join(near)}?" if near else "envpool.list_all_envs() names those it has"
            raise InputError(f"EnvPool has no environment called {name!r}; {hint}")
        self.name, self.settings, self.num_envs = name, {**settings, "num_envs": envs, "num_threads": 1}, envs
        self.pool = self._made(0)
        self.metadata, self.spec = self.pool.metadata, EnvSpec(f"envpool/{name}")
        self.single_observation_space, self.single_action_space = self.pool.observation_space, self.pool.action_space
        self.observation_space = batch_space(self.single_observation_space, envs)
        self.action_space = batch_space(self.single_action_space, envs)

    def _made(self, seed: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that float32 does not hold exactly
            try:
                pool = self.library.make_gymnasium(self.name, seed=seed, **self.settings)
            except TypeError as error:
                raise InputError(f"EnvPool cannot make {self.name}: {error}") from error
            _ = pool.observation_space, pool.action_space  # made when they are first asked for
            return pool

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.pool = self._made(seed if seed < SEEDS // 2 else SEEDS // 2 + seed % (SEEDS // 2))
        return self.pool.reset()[0], {}

    def step(self, actions: NDArray[Any]) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        *found, _ = self.pool.step(actions)
        return *found, {}
