"""What `operant train` can train: the table of algorithms, their networks, and the presets in recipes/train."""

import dataclasses
import fnmatch
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operant.cli.options import read_toml
from operant.core.errors import InputError


def actor_critic(env: Any, options: Any) -> Any:
    """π(a|s) and v(s)."""
    from operant.networks import actor_critic

    shape = (tuple(options.hidden), activation(options), options.initialisation)
    return actor_critic.actor_critic(env.single_observation_space, env.single_action_space, *shape)


def q_network(env: Any, options: Any) -> Any:
    """Q(s, a) of every action."""
    from operant.networks import action_values

    shape = (tuple(options.hidden), options.duelling, activation(options))
    return action_values.q_network(env.single_observation_space, env.single_action_space, *shape)


def activation(options: Any) -> Any:
    from torch import nn

    return {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}[options.activation]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """How an algorithm is found, and what it fits."""

    module: str
    """Its file, below operant.algorithms."""
    words: str
    """What it does, in a line."""
    actions: tuple[str, ...]
    """The spaces of Gymnasium it chooses from: names of classes."""
    network: Callable[[Any, Any], Any]
    """(vector environment, options) -> the policy, not yet trained. Imports its network when it is called."""
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options that have another default here than in `train.Options`."""

    def load(self) -> Any:
        return importlib.import_module(f"operant.algorithms.{self.module}")


ANY, CHOICES, BOX = ("Discrete", "MultiDiscrete", "Box"), ("Discrete",), ("Box",)

# One entry for each algorithm, and recipes/train/NAME.toml with a table of settings for each environment it is known
# to learn. The fields of its Config become options of their own names. `iterations` is worked out from --steps where
# there is a `rollout`; a Config that has `steps` is given --steps itself.
ALGORITHMS = {
    "ppo": Algorithm("policy_gradient.ppo", "clipped or KL-penalised policy gradient, some epochs", ANY, actor_critic),
    "a2c": Algorithm("policy_gradient.a2c", "one step on every short rollout", ANY, actor_critic),
    "trpo": Algorithm("policy_gradient.trpo", "the natural step, as far as a line search lets it", ANY, actor_critic),
    "natural_actor_critic": Algorithm(
        "policy_gradient.natural_actor_critic", "policy gradient in units of KL, without a check", ANY, actor_critic
    ),
}


def find(name: str) -> Algorithm:
    """Raises `InputError` with the nearest names if there is no such algorithm."""
    if name not in ALGORITHMS:
        import difflib

        near = difflib.get_close_matches(name.lower(), ALGORITHMS, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(ALGORITHMS)}"
        raise InputError(f"there is no algorithm {name!r} to train; {hint}")
    return ALGORITHMS[name]


def require_fit(name: str, environment: str, space: Any) -> None:
    """Raise `InputError` unless the algorithm chooses from such a space of actions; those that do are named."""
    kind = type(space).__name__
    if kind not in ALGORITHMS[name].actions:
        fit = [other for other, algorithm in ALGORITHMS.items() if kind in algorithm.actions]
        raise InputError(
            f"{name} learns to choose from {' or '.join(ALGORITHMS[name].actions)} actions, and those of {environment} "
            f"are {space}: {', '.join(fit) + ' fit' if fit else 'no algorithm here fits'}"
        )


def preset_file(name: str) -> Path:
    """Where the presets of an algorithm are, in an installed package or in a checkout of the project."""
    package = Path(__file__).parents[1]
    installed = package / "recipes" / "train"
    return (installed if installed.is_dir() else package.parents[1] / "recipes" / "train") / f"{name}.toml"


def presets(name: str) -> dict[str, dict[str, Any]]:
    """Settings of an algorithm by environment; a name with a * is that of several."""
    path = preset_file(name)
    return read_toml(path) if path.is_file() else {}


def preset(name: str, environment: str) -> dict[str, Any]:
    """The preset of this environment, or else of the longest pattern that it matches; none is empty."""
    tables = presets(name)
    fitting = [pattern for pattern in tables if fnmatch.fnmatchcase(environment, pattern)]
    return tables[max(fitting, key=lambda x: (x == environment, len(x)))] if fitting else {}
