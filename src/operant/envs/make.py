"""Gymnasium environments by name, and what is wrong with a name or a setting in one message."""

import ast
import difflib
import functools
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv, sync_vector_env
from gymnasium.wrappers import FlattenObservation

from operant.core.errors import InputError
from operant.core.memory import require_memory
from operant.envs import sync
from operant.envs.atari import games, is_atari
from operant.envs.observation import MASK
from operant.envs.pool import PREFIX, Pool
from operant.envs.sync import LightVector

EXTRAS = {
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.box2d": "box2d",
    "gymnasium.envs.classic_control": "classic",
    "gymnasium.envs.toy_text": "classic",
    "ale_py": "atari",
}
"""Which extra of Operant brings what the environments of a module need; classic ones need it to be drawn."""
LOOPS = (sync.__file__, sync_vector_env.__file__)
"""Where environments are stepped in turns."""
RAISED = (Exception, SystemExit)
"""What an environment may raise; SystemExit would end a run without a word."""
SIZE = 2000
"""Bytes that the smallest environment takes, and more."""
NATIVE = 4
"""From so many environments on, a vector implementation of their own is faster than one environment after another."""


def make(
    name: str,
    envs: int,
    settings: Mapping[str, Any] | None = None,
    training: bool = True,
    render_mode: str | None = None,
) -> VectorEnv:
    """`envs` environments that step together, by Gymnasium's name or as module:Name-v0 where `module` registers it.

    As envpool:Name-v0 it is EnvPool's; to be drawn it is Gymnasium's of that name. A vector implementation is used
    where one is registered. Observations that are tables become one row of numbers. Atari games are played as
    `operant.envs.atari` says; only in `training` does a life end an episode there, and are rewards cut to their sign.
    Raises `InputError` for a name that is not known, for settings that the environment does not take, where a package
    is missing, and whenever an environment raises in `reset` or `step`.
    """
    require_memory(envs * SIZE, f"{envs:,} environments", "give a smaller --envs")
    if name.startswith(PREFIX) and render_mode is None:
        return Pool(name.removeprefix(PREFIX), envs, settings or {})
    name = name.removeprefix(PREFIX)
    spec = find(name)
    if is_atari(name):
        return games(name, envs, settings or {}, training)
    if spec.vector_entry_point is not None and envs >= NATIVE and render_mode is None:
        return _made(name, lambda: gymnasium.make_vec(name, envs, "vector_entry_point", **(settings or {})))
    made = [_flat(make_one(name, settings, render_mode)) for _ in range(envs)]
    makers = [functools.partial(_itself, env) for env in made]
    masks = MASK in _first_info(made[0]) or made[0].has_wrapper_attr("action_masks")
    tells = masks or not isinstance(made[0].observation_space, spaces.Box)
    return Vector(makers) if tells or render_mode is not None else Light(makers)


def make_one(name: str, settings: Mapping[str, Any] | None = None, render_mode: str | None = None) -> gymnasium.Env:
    """A single environment. Raises `InputError` as `make` does."""
    find(name)
    modes = {} if render_mode is None else {"render_mode": render_mode}
    return _made(name, lambda: gymnasium.make(name, **modes, **(settings or {})))


def require_pygame(name: str) -> None:
    """Raise `InputError` where an environment is drawn by a package that is not installed."""
    entry = str(find(name).entry_point)
    extra = next((extra for module, extra in EXTRAS.items() if entry.startswith(module)), None)
    if extra in ("classic", "box2d") and importlib.util.find_spec("pygame") is None:
        raise _missing(name, extra)


def find(name: str) -> Any:
    """What Gymnasium knows of an environment. Raises `InputError` with the nearest names if it knows none."""
    if ":" in name:
        _import(name)
    if not is_atari(name) and name.startswith("ALE/") and importlib.util.find_spec("ale_py") is None:
        raise _missing(name, "atari")
    try:
        return gymnasium.spec(name.rpartition(":")[2])
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
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return value


class Named:
    """A vector environment that says which of its environments raised, and in which step."""

    taken = 0

    def reset(self, **options: Any) -> Any:
        try:
            return super().reset(**options)  # pyright: ignore[reportAttributeAccessIssue]
        except RAISED as error:
            raise _failed(error, "when it was reset") from error

    def step(self, actions: Any) -> Any:
        self.taken += 1
        try:
            return super().step(actions)  # pyright: ignore[reportAttributeAccessIssue]
        except RAISED as error:
            raise _failed(error, f"in step {self.taken}") from error


class Light(Named, LightVector):
    """Environments one after another, quickly: those that show a Box and tell nothing else."""


class Vector(Named, SyncVectorEnv):
    """Environments one after another: those that can be drawn, or that tell more than a Box."""


def _failed(error: BaseException, when: str) -> InputError:
    """What an environment raised, with its number: that of the turn in the loop over them."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    turns = [frame.f_locals["i"] for frame in frames if frame.f_code.co_filename in LOOPS and "i" in frame.f_locals]
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InputError(
        f"environment {turns[0] if turns else 0} raised {type(error).__name__}: {error} {when} "
        f"({place.filename}:{place.lineno}); mend the environment, or the settings it was given"
    )


def _first_info(env: gymnasium.Env) -> dict[str, Any]:
    """What it tells with its first state. Raises `InputError` unless `reset` gives what Gymnasium asks for."""
    try:
        found: Any = env.reset()
    except RAISED as error:
        raise _failed(error, "when it was reset") from error
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)):
        raise InputError("the environment's reset() gives no pair of an observation and a dict: mend the environment")
    space = env.observation_space
    if isinstance(space, spaces.Box) and np.shape(found[0]) != space.shape:
        raise InputError(
            f"the environment's reset() gives an observation of the shape {np.shape(found[0])}, and its space says "
            f"{space.shape}: mend one of them"
        )
    return found[1]


def _itself(env: gymnasium.Env) -> gymnasium.Env:
    return env


def _made(name: str, build: Any) -> Any:
    try:
        return build()
    except gymnasium.error.DependencyNotInstalled as error:
        entry = str(find(name).entry_point)
        extra = next((extra for module, extra in EXTRAS.items() if entry.startswith(module)), None)
        if extra is None:
            raise InputError(f"{name} needs a package that is not installed: {_first_line(error)}") from error
        raise _missing(name, extra) from error
    except InputError:
        raise
    except RAISED as error:
        raise InputError(f"Gymnasium cannot make {name}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or repr(error)


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
    """Tables of numbers become rows; images stay."""
    seen = env.observation_space
    table = isinstance(seen, spaces.Box) and (len(seen.shape) == 2 or (len(seen.shape) > 2 and seen.dtype != np.uint8))
    return FlattenObservation(env) if table else env
