"""Gymnasium environments by name, and what is wrong with a name or a setting in one message."""

import ast
import difflib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv, sync_vector_env
from gymnasium.wrappers import FlattenObservation

from operant.core.errors import InputError
from operant.envs.atari import games, is_atari

EXTRAS = {
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.box2d": "box2d",
    "gymnasium.envs.classic_control": "classic",
    "gymnasium.envs.toy_text": "classic",
    "ale_py": "atari",
}
"""Which extra of Operant brings what the environments of a module need; classic ones need it to be drawn."""
NATIVE = 4
"""From so many environments on, a vector implementation of their own is faster than one environment after another."""


def make(name: str, envs: int, settings: Mapping[str, Any] | None = None, training: bool = True) -> VectorEnv:
    """`envs` environments that step together, by Gymnasium's name or as module:Name-v0 where `module` registers it.

    A vector implementation is used where one is registered. Observations that are numbers of states, tuples or tables
    become one row of numbers. Atari games are played as `operant.envs.atari` says; only in `training` does a life end
    an episode there, and are rewards cut to their sign. Raises `InputError` for a name that is not known, for settings
    that the environment does not take, where a package is missing, and whenever an environment raises in `reset` or
    `step`.
    """
    spec = find(name)
    if is_atari(name):
        return games(name, envs, settings or {}, training)
    if spec.vector_entry_point is not None and envs >= NATIVE:
        return _made(name, lambda: gymnasium.make_vec(name, envs, "vector_entry_point", **(settings or {})))
    return Vector([lambda: _flat(make_one(name, settings)) for _ in range(envs)])


def make_one(name: str, settings: Mapping[str, Any] | None = None, render_mode: str | None = None) -> gymnasium.Env:
    """A single environment. Raises `InputError` as `make` does."""
    find(name)
    return _made(name, lambda: gymnasium.make(name, render_mode=render_mode, **(settings or {})))


def find(name: str) -> Any:
    """What Gymnasium knows of an environment. Raises `InputError` with the nearest names if it knows none."""
    if ":" in name:
        _import(name)
    if not is_atari(name) and name.startswith("ALE/") and importlib.util.find_spec("ale_py") is None:
        raise _missing(name, "atari")
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error:
        pass
    wanted = name.rpartition(":")[2].lower()
    known = {known.lower(): known for known in gymnasium.registry}
    stems = {x: re.sub(r"-v\d+$", "", x) for x in (wanted, *known)}
    same = [x for x in known if stems[x] == stems[wanted]]
    near = sorted(same)[-1:] or difflib.get_close_matches(wanted, known, 3, 0.7)
    hint = f"did you mean {' or '.join(known[x] for x in near)}?" if near else "operant train lists some that there are"
    raise InputError(f"there is no Gymnasium environment called {name!r}; {hint}")


def literal(value: str) -> Any:
    """True, 8 and None as such, anything else as the text that it is."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


class Vector(SyncVectorEnv):
    """Environments one after another. One that raises is named, with the step of the run."""

    taken = 0

    def reset(self, **options: Any) -> Any:
        try:
            return super().reset(**options)
        except Exception as error:
            raise _failed(error, "when it was reset") from error

    def step(self, actions: Any) -> Any:
        self.taken += 1
        try:
            return super().step(actions)
        except Exception as error:
            raise _failed(error, f"in step {self.taken}") from error


def _failed(error: Exception, when: str) -> InputError:
    frames = list(traceback.walk_tb(error.__traceback__))
    loop = next((frame for frame, _ in frames if frame.f_code.co_filename == sync_vector_env.__file__), None)
    index = "" if loop is None else f" {loop.f_locals.get('i', 0)}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InputError(
        f"environment{index} raised {type(error).__name__}: {error} {when} ({place.filename}:{place.lineno}); mend the "
        "environment, or the settings it was given"
    )


def _made(name: str, build: Any) -> Any:
    try:
        return build()
    except gymnasium.error.DependencyNotInstalled as error:
        entry = str(gymnasium.spec(name).entry_point)
        extra = next((extra for module, extra in EXTRAS.items() if entry.startswith(module)), None)
        if extra is None:
            raise InputError(f"{name} needs a package that is not installed: {str(error).splitlines()[0]}") from error
        raise _missing(name, extra) from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"Gymnasium cannot make {name}: {str(error).splitlines()[0] or repr(error)}") from error


def _missing(name: str, extra: str) -> InputError:
    return InputError(f"{name} needs a package that is not installed: pip install 'operant[{extra}]'")


def _import(name: str) -> None:
    """Import the module that registers an environment of one's own; the present folder may hold it."""
    module = name.partition(":")[0]
    if str(Path.cwd()) not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as error:
        raise InputError(
            f"{name}: the module {module} cannot be imported ({type(error).__name__}: {error}); give the name of a "
            "Python module that registers the environment, here or installed"
        ) from error


def _flat(env: gymnasium.Env) -> gymnasium.Env:
    seen = env.observation_space
    plain = isinstance(seen, spaces.Box) and (len(seen.shape) == 1 or len(seen.shape) == 3)
    return env if plain or isinstance(seen, spaces.Dict) else FlattenObservation(env)
