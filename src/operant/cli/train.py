"""`operant train`: learn to act in an environment with a neural network."""

import dataclasses
import functools
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Fixed, Positional, Suppress

from operant.cli.algorithms import (
    ALGORITHMS,
    find,
    make_policy,
    preset,
    preset_file,
    presets,
    require_fit,
    require_remembering,
)
from operant.cli.options import build, read_toml, take
from operant.core.errors import InputError
from operant.core.memory import require_memory

LINES, LONGEST = 400, 10_000
"""Lines of metrics of a run, and environment steps in one, at most, where the algorithm reports after every rollout:
each is then a mean over some. A run stops and saves between two lines, so a long one has more of them."""
NUMBERS = 32
"""Bytes of a decision in a rollout, besides what is seen: the action, its log-prob, value, reward and three flags."""
DERIVED = Annotated[int, Fixed, Suppress]
"""A setting that follows from others: no flag sets it, and config.toml does not have it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Learn to act in an environment with a neural network.

    operant train lists the algorithms and the presets; operant train ppo CartPole-v1 trains one. Name the algorithm and
    the environment first: the options of the algorithm come with its name (operant train ppo --help).
    """

    algorithm: Positional[str] = ""
    """How to learn; without it, a list."""
    environment: Positional[str] = ""
    """A Gymnasium environment, yours as module:Name-v0; without it, the presets of the algorithm."""
    steps: int = 100_000
    """Steps of all environments together."""
    envs: int = 8
    """Environments that are stepped together."""
    seed: int = 0
    """Seed of every random choice."""
    seeds: int = 1
    """Runs with seeds of their own, as many at once as there are cores, and one report of them all."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu", "elu"] = "tanh"
    """What stands between the layers."""
    initialisation: Literal["orthogonal", "normalised", "xavier", "torch"] = "orthogonal"
    """How the weights begin."""
    bfloat16: bool = False
    """Networks of images compute in bfloat16: PPO is a third faster where a processor has such instructions."""
    device: str = "auto"
    """Where networks of images compute: auto = an accelerator, if any; or cpu, cuda, cuda:1, mps. Small networks are
    faster on a CPU, and stay there."""
    memory: Literal["none", "lstm", "gru"] = "none"
    """What the policy remembers an episode with; it has the last of the widths. An LSTM is the faster one on a CPU."""
    normalize_observations: bool = False
    """Observations get mean 0 and deviation 1, by what was seen so far; evaluation keeps these numbers."""
    normalize_rewards: bool = False
    """Rewards are divided by the deviation of the discounted return; reported returns are the environment's own."""
    clip_actions: bool = True
    """Actions outside a Box are clipped to it for the environment."""
    env_args: dict[str, str] = dataclasses.field(default_factory=dict)
    """Settings of the environment, such as sutton_barto_reward True."""
    evaluation_episodes: int = 100
    """Episodes that the trained policy plays at the end, in environments with seeds of their own."""
    evaluation_stochastic: bool = False
    """There it draws its actions, and does not take the best one; DQN's are random as often as at the end of training.
    Usual for Atari games, which a greedy policy can play in circles."""
    threads: int = 1
    """CPU threads; small networks are fastest with one. 0 = as many as PyTorch takes."""
    checkpoint_every: int = 0
    """Steps of all environments between checkpoints, which are written with the next line of metrics (replay: see
    --report-every); 0 = by time, about every 30 seconds."""
    out: Path = Path("runs/train")
    """The run folder to write; by default runs/ALGORITHM-ENVIRONMENT."""


def options(arguments: list[str]) -> tuple[type[Options], Options | None]:
    """The options of the algorithm that is named, or that the run or settings named have, and its preset."""
    name, environment = named(arguments)
    if not name:
        return Options, None
    kind = options_of(name)
    return kind, preset_of(kind, name, environment)


def named(arguments: list[str]) -> tuple[str, str]:
    """(algorithm, environment) as they are typed, or else as they stand in the settings that are pointed to."""
    first = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    typed = [*arguments[:first], "", ""][:2]
    out, config = (take(arguments, flag)[1] for flag in ("--out", "--config"))
    file = Path(config) if config else Path(out) / "config.toml" if out and "--resume" in arguments else None
    found = read_toml(file) if file is not None and file.is_file() else {}
    if typed[0] and not config and found.get("algorithm", typed[0]) != typed[0]:
        raise InputError(f"{out} is a run of {found['algorithm']} and not of {typed[0]}: with --resume leave names out")
    return typed[0] or str(found.get("algorithm", "")), typed[1] or str(found.get("environment", ""))


def options_of(name: str) -> type[Options]:
    """`Options` with what only this algorithm has; its `iterations` is no option where it follows from the steps."""
    config = find(name).load().Config
    names = {field.name for field in dataclasses.fields(config)}
    derived = [("iterations", DERIVED, dataclasses.field(default=1, init=False))] * ({"iterations", "rollout"} <= names)
    words = f"{Options.__doc__}\n    Options from --{sorted_first(config)} on are those of {name}: {find(name).words}."
    space = {"__doc__": words, "__module__": __name__}
    return dataclasses.make_dataclass("Options", derived, bases=(config, Options), frozen=True, namespace=space)


def sorted_first(config: Any) -> str:
    own = [f.name for f in dataclasses.fields(config) if f.name not in ("steps", "iterations")]
    return own[0].replace("_", "-")


def preset_of(kind: type[Options], name: str, environment: str) -> Options:
    """The options without any flag: what the algorithm has, then what its preset for the environment says."""
    words = re.sub(r"[^a-z0-9]+", "-", environment.rpartition(":")[2].lower()).strip("-")
    own = {"algorithm": name, "environment": environment, "out": Path("runs") / f"{name}-{words}".rstrip("-")}
    base = kind(**{**own, **find(name).defaults})
    return build(kind, preset(name, environment), f"{preset_file(name)} [{environment}]", base=base)


def config_of(options: Any) -> Any:
    """The algorithm's Config within the options."""
    kind = find(options.algorithm).load().Config
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(kind)}
    if "rollout" in values:
        values["iterations"] = math.ceil(options.steps / (options.envs * options.rollout))
    return kind(**values)


def run(options: Options, resume: bool) -> None:
    if not options.algorithm:
        print(overview())
    elif not options.environment:
        print(overview_of(options.algorithm))
    elif type(options) is Options:
        raise InputError(
            f"name the algorithm and the environment first: operant train {options.algorithm} {options.environment}, "
            "and then the options"
        )
    else:
        from operant.cli.folder import pending
        from operant.cli.many import train_all

        if pending(options.out, resume):
            (train_all if options.seeds > 1 else train)(options, resume)


def overview() -> str:
    """The algorithms, the presets, and where to begin."""
    width = max(map(len, ALGORITHMS))
    rows = [f"  {name:<{width}}  {'/'.join(x.actions):<26}  {x.words}" for name, x in ALGORITHMS.items()]
    known = [f"  {name:<{width}}  {'  '.join(presets(name))}" for name in ALGORITHMS if presets(name)]
    return (
        "usage: operant train ALGORITHM ENVIRONMENT [options]\n\nALGORITHM, the actions it chooses from, and what it "
        "does:\n\n" + "\n".join(rows) + "\n\nENVIRONMENT is any of Gymnasium, yours as module:Name-v0. There are "
        "presets for\n\n" + "\n".join(known) + "\n\noperant train ALGORITHM --help explains its options. Start with: "
        "operant train ppo CartPole-v1"
    )


def overview_of(name: str) -> str:
    """The presets of one algorithm."""
    tables = presets(name)
    width = max(map(len, tables), default=0)
    rows = [f"  {env:<{width}}  {', '.join(f'{k} {v}' for k, v in table.items())}" for env, table in tables.items()]
    example = next((x for x in tables if "*" not in x), "ENVIRONMENT")
    return (
        f"{name}: {find(name).words}. Actions: {', '.join(find(name).actions)}.\n\nPresets\n\n"
        + "\n".join(rows)
        + "\n\n"
        f"Train one with: operant train {name} {example}. operant train {name} --help explains the options"
    )


def begin(options: Options) -> None:
    """Seeds and threads. Before anything random happens."""
    import numpy as np
    import torch

    require_seed(options.seed)
    random.seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 (environments of others may draw from it)
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)


def require_seed(seed: int) -> None:
    """Raise `InputError` for a seed that environments, each with one of its own, could not count on from."""
    if not 0 <= seed <= 2**20:
        raise InputError(f"the seed is {seed}: give a whole number from 0 to {2**20}")


def make_world(options: Any, envs: int, seed: int) -> Any:
    """A runner of `envs` environments to train in, which begin with the seeds `seed` and on."""
    from operant.envs.normalise import ObservationNormalizer, RewardNormalizer
    from operant.envs.observation import numbers
    from operant.envs.runner import Runner

    env = make_environments(options, envs)
    shape: Any = numbers(env.single_observation_space)[0].shape
    observations = ObservationNormalizer(shape) if options.normalize_observations else None
    rewards = RewardNormalizer(envs, options.gamma) if options.normalize_rewards else None
    return Runner(env, envs, seed, options.clip_actions, observations, rewards)


def elsewhere(options: Any, world: Any) -> Any:
    """Worlds like this one, which processes make for themselves."""
    from operant.algorithms.policy_gradient.a3c import Worlds
    from operant.cli.options import as_dict

    if options.normalize_observations or options.normalize_rewards:
        raise InputError(
            f"every process of {options.algorithm} would normalise by what it sees alone: leave out "
            "--normalize-observations and --normalize-rewards, or use a2c"
        )
    return Worlds(functools.partial(make_elsewhere, as_dict(options)), options.seed, world.env)


def make_elsewhere(values: dict[str, Any], seed: int) -> Any:
    """The world of a process, from the options as plain values."""
    kind = options_of(values["algorithm"])
    options = build(kind, values, "the options", base=kind())
    return make_world(options, options.envs, seed)


def make_environments(options: Any, envs: int, training: bool = True, render_mode: str | None = None) -> Any:
    """The environments of a run. Raises `InputError` where the algorithm cannot choose from their actions."""
    from operant.envs.make import literal, make

    settings = {key: literal(x) for key, x in options.env_args.items()}
    env = make(options.environment, envs, settings, training, render_mode)
    require_fit(options.algorithm, options.environment, env.single_action_space)
    return env


def beginning(options: Any) -> tuple[Any, Any, Any]:
    """(module, settings, state) of a run before its first step. Raises `InputError` for what cannot be run or saved."""
    begin(options)
    require_remembering(options.algorithm, options.memory)
    config, module = config_of(options), find(options.algorithm).load()
    world = make_world(options, options.envs, options.seed * options.envs)
    if hasattr(config, "rollout"):
        size = config.rollout * (world.observation.nbytes + options.envs * NUMBERS)
        require_memory(size, f"a rollout of {options.envs} x {config.rollout:,} steps", "give a smaller --rollout")
    policy = make_policy(world, options)
    world = elsewhere(options, world) if find(options.algorithm).processes else world
    state = module.init(policy, world, config)
    if world.resumes:
        world.state_dict()  # what cannot be saved is said before anything is learned
    return module, config, state


def train(options: Any, resume: bool) -> None:
    """One run, from its first step or its last checkpoint to its report."""
    from operant.cli.folder import start
    from operant.cli.trained import conclude

    module, config, state = beginning(options)
    world = state.world
    folder = start(options, "train", resume, [])
    restored = folder.restore(state)
    if resume and not restored:
        print(f"{options.out} has no checkpoint yet: the run begins anew")
    if restored and not world.resumes:
        whose = "environments in other processes" if find(options.algorithm).processes else options.environment
        print(f"the state of {whose} cannot be saved: the run goes on with new episodes")
    unit, total = scale(options, config)
    every = grouped(total, unit) if unit > 1 and not hasattr(config, "report_every") else 1
    metrics = watched(state, module.train(state, config), every, total)
    saving = max(1, options.checkpoint_every // unit) if options.checkpoint_every else None
    folder.follow(state, metrics, total, every_steps=saving, show=("rollout/episode_return",), unit=unit)
    conclude(options, folder, state)


def scale(options: Any, config: Any) -> tuple[int, int]:
    """(environment steps in one step of the state, its steps in all)."""
    if hasattr(config, "rollout"):
        return options.envs * config.rollout, config.iterations
    return 1, getattr(config, "steps", None) or config.iterations


def grouped(total: int, unit: int) -> int:
    """How many of `total` steps of the state, each of `unit` environment steps, are one line of metrics."""
    return max(1, min(total // LINES, LONGEST // unit))


def watched(state: Any, metrics: Iterator[dict[str, float]], every: int, total: int) -> Iterator[dict[str, float]]:
    """The algorithm's metrics with those of its episodes; the means of every `every` steps in one."""
    envs, parts = state.world.env.num_envs, []
    before, then = state.world.steps, time.monotonic()
    for values in metrics:
        parts.append(values)
        if state.step % every and state.step < total:
            continue
        names = dict.fromkeys(name for part in parts for name in part)
        found = {name: _mean([part[name] for part in parts if name in part]) for name in names}
        returns, lengths = state.world.pop_returns(), state.world.pop_lengths()
        shown = {"rollout/episode_return": _mean(returns), "rollout/episode_length": _mean(lengths)} if returns else {}
        shown["rollout/steps"] = state.world.steps * envs
        now = time.monotonic()
        shown["time/steps_per_second"] = (state.world.steps - before) * envs / max(now - then, 1e-9)
        parts.clear()
        yield shown | found
        before, then = state.world.steps, now


def _mean(values: list[Any]) -> float:
    return math.fsum(values) / len(values)
