"""What `operant train` can train: the table of algorithms, their networks, and the presets in recipes/train."""

import dataclasses
import fnmatch
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operant.cli.options import flag, read_toml
from operant.core.errors import InputError


def actor_critic(world: Any, options: Any) -> Any:
    """π(a|s) and v(s)."""
    from operant.networks import actor_critic

    if options.memory != "none":
        return recurrent(world, options)
    shape = (tuple(options.hidden), activation(options), options.initialisation)
    return actor_critic.actor_critic(world.observation_space, world.actions, *shape)


def recurrent(world: Any, options: Any) -> Any:
    """π(a|s) and v(s) of all that was seen in an episode."""
    from operant.networks.recurrent import recurrent_actor_critic

    if (options.activation, options.initialisation) != ("tanh", "orthogonal"):
        raise InputError(
            f"a network with memory has tanh and orthogonal weights, not {options.activation} and "
            f"{options.initialisation}: leave out --activation and --initialisation"
        )
    if not options.hidden:
        raise InputError("--hidden is empty, and a network with memory has the last of its widths: give one")
    return recurrent_actor_critic(world.observation_space, world.actions, options.memory, options.hidden[-1])


def q_actor_critic(world: Any, options: Any) -> Any:
    """π(a|s) and Q(s, a) of every action."""
    from operant.networks import q_actor_critic

    shape = (tuple(options.hidden), activation(options), options.initialisation)
    return q_actor_critic.q_actor_critic(world.observation_space, world.actions, *shape)


def q_network(world: Any, options: Any) -> Any:
    """Q(s, a) of every action."""
    from operant.networks import action_values

    shape = (tuple(options.hidden), options.duelling, activation(options), options.epsilon_end)
    return action_values.q_network(world.observation_space, world.actions, *shape)


def deterministic(critics: int) -> Callable[[Any, Any], Any]:
    """μ(s) and Q(s, a), once or twice."""

    def network(world: Any, options: Any) -> Any:
        from operant.networks.continuous import deterministic_actor_critic

        shape = (tuple(options.hidden), critics, activation(options))
        return deterministic_actor_critic(world.observation_space, world.actions, *shape)

    return network


def soft(world: Any, options: Any) -> Any:
    """π(a|s) and two Q(s, a)."""
    from operant.networks.continuous import soft_actor_critic

    shape = (tuple(options.hidden), activation(options))
    return soft_actor_critic(world.observation_space, world.actions, *shape)


def linear(world: Any, options: Any) -> Any:
    """μ(s) and v(s), linear in tiles."""
    from operant.cli.train import Options
    from operant.networks.linear import LinearActorCritic

    for name in ("hidden", "activation", "initialisation", "bfloat16"):
        if getattr(options, name) != getattr(Options, name):
            raise InputError(f"{flag(Options, name)} is for networks, and {options.algorithm} is linear in tiles")
    return LinearActorCritic(world.observation_space, world.actions, options.tilings, options.across)


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
    """(runner, options) -> the policy, not yet trained. Imports its network when it is called."""
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options that have another default here than in `train.Options`."""
    memory: bool = False
    """Whether it learns policies that remember."""
    processes: bool = False
    """Whether its environments are in processes of their own."""

    def load(self) -> Any:
        return importlib.import_module(f"operant.algorithms.{self.module}")


Q = {"hidden": (256, 256), "activation": "relu", "envs": 4}
ONE = Q | {"envs": 1}
ANY, CHOICES, BOX = ("Discrete", "MultiDiscrete", "Box"), ("Discrete",), ("Box",)

# One entry for each algorithm, and recipes/train/NAME.toml with a table of settings for each environment it is known
# to learn. The fields of its Config become options of their own names. `iterations` is worked out from --steps where
# there is a `rollout`; a Config that has `steps` is given --steps itself.
ALGORITHMS = {
    "ppo": Algorithm(
        "policy_gradient.ppo", "clipped or KL-penalised policy gradient, some epochs", ANY, actor_critic, memory=True
    ),
    "a2c": Algorithm("policy_gradient.a2c", "one step on every short rollout", ANY, actor_critic),
    "a3c": Algorithm(
        "policy_gradient.a3c", "A2C by processes that do not wait", ANY, actor_critic, {"envs": 1}, processes=True
    ),
    "reinforce": Algorithm("policy_gradient.reinforce", "returns of whole episodes", ANY, actor_critic),
    "actor_critic": Algorithm(
        "policy_gradient.actor_critic", "TD(λ) with traces, a step at a time", ANY, actor_critic, {"envs": 1}
    ),
    "q_actor_critic": Algorithm(
        "policy_gradient.q_actor_critic", "an actor that follows the values of actions", CHOICES, q_actor_critic
    ),
    "trpo": Algorithm("policy_gradient.trpo", "the natural step, as far as a line search lets it", ANY, actor_critic),
    "natural_actor_critic": Algorithm(
        "policy_gradient.natural_actor_critic", "policy gradient in units of KL, without a check", ANY, actor_critic
    ),
    "dqn": Algorithm("temporal_difference.dqn", "Q-learning with replay and a target network", CHOICES, q_network, Q),
    "ddpg": Algorithm(
        "temporal_difference.ddpg", "an actor that finds the best action of a critic", BOX, deterministic(1), ONE
    ),
    "td3": Algorithm("temporal_difference.td3", "DDPG with two critics and a slower actor", BOX, deterministic(2), ONE),
    "sac": Algorithm("temporal_difference.sac", "rewards and entropy, from replay", BOX, soft, ONE),
    "dpg": Algorithm("temporal_difference.dpg", "deterministic policy gradient, linear in tiles", BOX, linear),
}


def find(name: str) -> Algorithm:
    """Raises `InputError` with the nearest names if there is no such algorithm."""
    if name not in ALGORITHMS:
        import difflib

        near = difflib.get_close_matches(name.lower(), ALGORITHMS, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(ALGORITHMS)}"
        raise InputError(f"there is no algorithm {name!r} to train; {hint}")
    return ALGORITHMS[name]


def make_policy(world: Any, options: Any) -> Any:
    """The policy, not yet trained, where it is to compute and in what format.

    Raises `InputError` for a device or a format that is for networks of images alone.
    """
    from operant.core.device import device
    from operant.networks.image import compute_in_bfloat16, keep_freed_memory, torsos

    algorithm = find(options.algorithm)
    policy = algorithm.network(world, options)
    if options.bfloat16:
        compute_in_bfloat16(policy)
    place = device(options.device)
    if torsos(policy) and not algorithm.processes:
        keep_freed_memory()
        return policy.to(place)
    if options.device != "auto" and place.type != "cpu":
        who = f"{options.algorithm}, whose processes share the CPU's memory" if torsos(policy) else "a small network"
        raise InputError(f"--device {options.device} is not for {who}: leave it out")
    return policy


def require_fit(name: str, environment: str, space: Any) -> None:
    """Raise `InputError` unless the algorithm chooses from such a space of actions; those that do are named."""
    kind = type(space).__name__
    if kind not in ALGORITHMS[name].actions:
        fit = [other for other, algorithm in ALGORITHMS.items() if kind in algorithm.actions]
        raise InputError(
            f"{name} learns to choose from {' or '.join(ALGORITHMS[name].actions)} actions, and those of {environment} "
            f"are {space}: {', '.join(fit) + ' fit' if fit else 'no algorithm here fits'}"
        )


def require_remembering(name: str, memory: str) -> None:
    """Raise `InputError` for a memory that the algorithm cannot train."""
    if memory != "none" and not find(name).memory:
        fit = " and ".join(other for other, algorithm in ALGORITHMS.items() if algorithm.memory)
        raise InputError(f"{name} learns without memory, not with --memory {memory}: {fit} can have one")


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
    """The preset of this environment, or else of the longest pattern that it matches; none is empty.

    EnvPool's environments have those of Gymnasium's.
    """
    tables, environment = presets(name), environment.removeprefix("envpool:")
    fitting = [pattern for pattern in tables if fnmatch.fnmatchcase(environment, pattern)]
    return tables[max(fitting, key=lambda x: (x == environment, len(x)))] if fitting else {}
