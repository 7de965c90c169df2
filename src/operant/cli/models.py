"""Known models by name: a classic problem, an environment of Gymnasium that tells its transitions, or a file."""

import ast
import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.experiment.drawings import END, WALL
from operant.mdp.files import SUFFIXES, read_model
from operant.mdp.model import MDP, from_gymnasium
from operant.mdp.problems import PROBLEMS

GAMMA = 0.99
"""The discount of Gymnasium's environments, which name none."""
TOY_TEXT = {
    "FrozenLake": ("←", "↓", "→", "↑"),
    "CliffWalking": ("↑", "→", "↓", "←"),
    "Taxi": ("south", "north", "east", "west", "pick up", "drop off"),
}
"""What the actions of Gymnasium's environments are called."""


@dataclasses.dataclass(frozen=True)
class Known:
    """A model, and how to speak of it."""

    name: str
    words: str
    mdp: MDP
    grid: tuple[int, int] | None = None
    action: Callable[[int], str] = str
    over: frozenset[int] = frozenset()
    """States that are no ends of the model, but at which episodes of the environment end."""

    def names(self, policy: NDArray[np.int64]) -> list[str]:
        """[S]: each action in words; END where an episode is over, WALL for a cell that nothing leads to."""
        over, wall = self.mdp.end | _nothing_left(self.mdp), self.mdp.end & (self.grid is not None)
        over[list(self.over)] = True
        wall[self.mdp.next_state] = False
        return [WALL if wall[s] else END if over[s] else self.action(a) for s, a in enumerate(policy.tolist())]


def _nothing_left(mdp: MDP) -> NDArray[np.bool_]:
    """[S]: states whose every action leads to an end and pays nothing: Gymnasium lists its ends so."""
    paid = (
        mdp.reward if mdp.transition_reward is None else np.maximum.reduceat(abs(mdp.transition_reward), mdp.start[:-1])
    )
    idle = (mdp.matrix() @ mdp.end > 1 - 1e-9) & (paid == 0)
    return np.bincount(mdp.row_states(), ~idle, mdp.states) == 0


def find(name: str, gamma: float | None, env_args: dict[str, str]) -> Known:
    """The model called `name`, discounted by `gamma` if given. Raises `InputError` where there is none."""
    if env_args and (name in PROBLEMS or Path(name).suffix in SUFFIXES):
        raise InputError(f"--env-args are for Gymnasium's environments, and {name} is none: leave them out")
    if name in PROBLEMS:
        problem = PROBLEMS[name]
        mdp = problem.make()
        return Known(
            name, problem.words, mdp if gamma is None else mdp.with_gamma(gamma), problem.grid, problem.actions
        )
    if Path(name).suffix in SUFFIXES or Path(name).exists():
        return Known(name, "a model in a file", read_model(Path(name), gamma))
    return _gymnasium(name, gamma, env_args)


def _gymnasium(name: str, gamma: float | None, env_args: dict[str, str]) -> Known:
    import gymnasium

    if name not in gymnasium.registry:
        toys = [key for key in gymnasium.registry if key.startswith(tuple(TOY_TEXT))]
        near = difflib.get_close_matches(name.lower(), [x.lower() for x in (*PROBLEMS, *toys)], 3, 0.5)
        found = [x for x in (*PROBLEMS, *toys) if x.lower() in near]
        hint = f"did you mean {' or '.join(found)}?" if found else "operant solve without arguments lists what there is"
        raise InputError(
            f"there is no problem, no .csv or .npz file and no Gymnasium environment called {name!r}; {hint}"
        )
    env = make_environment(name, env_args)
    world = env.unwrapped
    known = next((kind for kind in TOY_TEXT if name.startswith(kind)), None)
    shape = getattr(world, "shape", None) or (getattr(world, "nrow", 0), getattr(world, "ncol", 0))
    mdp = from_gymnasium(env, GAMMA if gamma is None else gamma)
    default = f"; discount {GAMMA}, as none was given" if gamma is None else ""
    words = f"an environment of Gymnasium{default}"
    action = TOY_TEXT[known].__getitem__ if known else str
    grid = (int(shape[0]), int(shape[1])) if known and all(shape) else None
    return Known(name, words, mdp, grid, action, _last(world.P))


def _last(table: Any) -> frozenset[int]:
    """States of Gymnasium's table to which every transition from another state ends the episode."""
    found = [
        (int(s), int(t), over) for s, row in table.items() for several in row.values() for _, t, _, over in several
    ]
    return frozenset(t for _, t, over in found if over) - {t for s, t, over in found if s != t and not over}


def make_environment(name: str, env_args: dict[str, str], limit: int | None = None) -> Any:
    """The Gymnasium environment, its episodes cut after `limit` steps if given. Raises `InputError` if it cannot be."""
    import gymnasium

    settings = {key: _python(value) for key, value in env_args.items()}
    try:
        return gymnasium.make(name, max_episode_steps=limit, **settings)
    except (gymnasium.error.Error, TypeError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"Gymnasium cannot make {name}: {str(error).splitlines()[0]}") from error


def _python(value: str) -> Any:
    """True, 8 and None as such, anything else as the text that it is."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def listing(command: str) -> str:
    """What there is to solve, and how to ask."""
    width = max(map(len, PROBLEMS))
    problems = "\n".join(f"  {name:<{width}}  {problem.words}" for name, problem in PROBLEMS.items())
    return (
        f"usage: operant {command} PROBLEM\n\nPROBLEM is one of these,\n\n{problems}\n\n"
        "an environment of Gymnasium that tells its transitions,\n\n"
        "  FrozenLake-v1, FrozenLake8x8-v1, CliffWalking-v1, Taxi-v4; settings as --env-args is_slippery False\n\n"
        "or a file: a .csv with the columns state,action,next_state,probability,reward,end, or an .npz of arrays.\n"
    )
