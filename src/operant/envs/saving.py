"""The state of a Gymnasium environment as plain numbers, and back: what a checkpoint needs to go on in mid-episode.

It can be had where all of it is in plain attributes (toy text, classic control, also Gymnasium's own vector CartPole)
or in MuJoCo's data, behind wrappers that hold nothing but a step count, and for a `SyncVectorEnv` of such environments.
An environment with `state_dict` and `load_state_dict` of its own, as Operant's Atari games, is asked for it; besides
what these hold, the state of its `np_random` is kept.
"""

import importlib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from torch import Tensor

from operant.core.errors import InputError
from operant.envs.sync import LightVector

ATTRIBUTES = ("gymnasium.envs.toy_text.", "gymnasium.envs.classic_control.")
PHYSICS = "gymnasium.envs.mujoco."
TRANSFORMS = ("gymnasium.wrappers.transform_", "gymnasium.wrappers.vector.vectorize_")
VECTOR = ("_env_obs", "_rewards", "_terminations", "_truncations", "_autoreset_envs")
"""What a `SyncVectorEnv` remembers of its environments."""
DERIVED = ("xpos", "xipos", "xquat", "xmat", "site_xpos", "geom_xpos", "subtree_com")
DERIVED += ("cinert", "cvel", "cfrc_ext", "qfrc_actuator", "qfrc_constraint", "ten_length", "ten_velocity")
"""What MuJoCo computes of its state and environments read. It is of the substep before, so it cannot be done again."""


@runtime_checkable
class Stateful(Protocol):
    """An environment that knows its own state."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def resumes(env: Any) -> bool:
    """Whether the state of `env` can be saved and put back. Where it cannot, a resumed run begins new episodes."""
    if isinstance(env, SyncVectorEnv | LightVector):
        return all(map(resumes, env.envs))
    wrappers = all(
        isinstance(x, TimeLimit | OrderEnforcing | PassiveEnvChecker) or type(x).__module__.startswith(TRANSFORMS)
        for x in _wrappers(env)
    )
    inner = env.unwrapped
    return wrappers and (isinstance(inner, Stateful) or type(inner).__module__.startswith((*ATTRIBUTES, PHYSICS)))


def environment_state(env: Any) -> dict[str, Any]:
    """The state of an environment that `resumes`, in copies."""
    if isinstance(env, LightVector):
        return {"environments": [environment_state(x) for x in env.envs]}
    if isinstance(env, SyncVectorEnv):
        found = {name: getattr(env, name) for name in VECTOR}
        return deepcopy(found) | {"environments": [environment_state(x) for x in env.envs]}
    inner = env.unwrapped
    own = isinstance(inner, Stateful)
    plain = {} if own else {k: v for k, v in vars(inner).items() if not k.startswith("_") and _plain(v)}
    return {
        "attributes": deepcopy(_told(inner) if own else plain),
        "random": inner.np_random.bit_generator.state,
        "elapsed": [wrapper._elapsed_steps for wrapper in _wrappers(env) if isinstance(wrapper, TimeLimit)],
        "physics": _physics(inner) if type(inner).__module__.startswith(PHYSICS) else None,
    }


def set_environment_state(env: Any, state: dict[str, Any]) -> None:
    """Put what `environment_state` gave into an environment of the same kind that was reset."""
    state = deepcopy(state)
    if isinstance(env, SyncVectorEnv | LightVector):
        for name in VECTOR if isinstance(env, SyncVectorEnv) else ():
            setattr(env, name, state[name])
        for x, own in zip(env.envs, state["environments"], strict=True):
            set_environment_state(x, own)
        return
    inner: Any = env.unwrapped
    inner.np_random.bit_generator.state = state["random"]
    if isinstance(inner, Stateful):
        try:
            inner.load_state_dict(state["attributes"])
        except Exception as error:
            raise InputError(
                f"load_state_dict() of {type(inner).__name__} raised {type(error).__name__}: {error}; mend it, or "
                "leave both methods out: a resumed run then begins new episodes"
            ) from error
    else:
        for name, value in state["attributes"].items():
            setattr(inner, name, value)
    limits = [wrapper for wrapper in _wrappers(env) if isinstance(wrapper, TimeLimit)]
    for wrapper, elapsed in zip(limits, state["elapsed"], strict=True):
        wrapper._elapsed_steps = elapsed
    if state["physics"] is not None:
        _set_physics(inner, state["physics"])


def _told(env: Any) -> Any:
    """The state that an environment knows of itself. Raises `InputError` where a checkpoint could not hold it."""
    try:
        state = env.state_dict()
    except Exception as error:
        raise InputError(
            f"state_dict() of {type(env).__name__} raised {type(error).__name__}: {error}; mend it, or leave it out: a "
            "resumed run then begins new episodes"
        ) from error
    if (place := _misfit(state, "state_dict()")) is not None:
        raise InputError(
            f"{place[0]} of {type(env).__name__} is of type {type(place[1]).__name__}, which a checkpoint cannot hold: "
            "give numbers, texts, arrays, and lists, tuples and dicts of these"
        )
    return state


def _misfit(value: Any, place: str) -> tuple[str, Any] | None:
    """Where in `value` there is what a checkpoint cannot hold, and that."""
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return next((x for key, part in parts if (x := _misfit(part, f"{place}[{key!r}]")) is not None), None)
    return None if _plain(value) or isinstance(value, Tensor) else (place, value)


def _physics(env: Any) -> dict[str, Any]:
    """Positions, velocities, time, controls and warm start (MuJoCo's integration state), and what was derived."""
    mujoco: Any = importlib.import_module("mujoco")

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.zeros(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, integration, kind)
    return {"integration": integration} | {name: getattr(env.data, name).copy() for name in DERIVED}


def _set_physics(env: Any, physics: dict[str, Any]) -> None:
    mujoco: Any = importlib.import_module("mujoco")

    mujoco.mj_setState(env.model, env.data, physics["integration"], mujoco.mjtState.mjSTATE_INTEGRATION)
    for name in DERIVED:
        getattr(env.data, name)[...] = physics[name]


def _wrappers(env: Any) -> Iterator[Any]:
    while isinstance(env, gymnasium.Wrapper | VectorWrapper):
        yield env
        env = env.env


def _plain(value: Any) -> bool:
    """What a checkpoint can hold and a step may change."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, np.generic | np.ndarray):
        return value.dtype.kind in "biuf"
    return value is None or isinstance(value, bool | int | float | str)
