"""Operant on one task of control.toml. Prints one JSON line; see `control.py`.

    .venv/bin/python benchmarks/operant_control.py ppo_cartpole --timed
    .venv/bin/python benchmarks/operant_control.py ppo_cartpole_preset --threshold 475 --seed 3

The library as it is called from Python: a `Runner`, a network for its spaces, `init` and `train`. A task ending in
"_preset" takes the settings of `operant train` for its algorithm and environment in place of its own. One thread.
`seconds` are those of `train` alone, after a short run of a throw-away state.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from side import Clock, Task, Threshold, parse_arguments, report, task

from operant import __version__
from operant.algorithms.policy_gradient import a2c, ppo
from operant.algorithms.temporal_difference import dqn, sac, td3
from operant.cli.algorithms import find
from operant.cli.train import config_of, make_world, options_of, preset_of
from operant.envs.atari import Atari
from operant.envs.make import make
from operant.envs.normalise import ObservationNormalizer, RewardNormalizer
from operant.envs.runner import Runner
from operant.networks.action_values import q_network
from operant.networks.actor_critic import actor_critic
from operant.networks.continuous import deterministic_actor_critic, soft_actor_critic
from operant.networks.image import compute_in_bfloat16, keep_freed_memory

ALGORITHMS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "a2c": (a2c, actor_critic), "dqn": (dqn, q_network), "ppo": (ppo, actor_critic),
    "sac": (sac, soft_actor_critic), "td3": (td3, partial(deterministic_actor_critic, critics=2)),
}  # fmt: skip
"""Each with what makes its network of (observation space, action space, hidden)."""
NAMES = {
    "n_steps": "rollout", "batch_size": "minibatch", "n_epochs": "epochs", "gamma": "gamma", "gae_lambda": "lambda_",
    "learning_rate": "learning_rate", "clip_range": "clip", "ent_coef": "entropy_coefficient",
    "vf_coef": "value_coefficient", "max_grad_norm": "max_gradient_norm", "rms_prop_eps": "rmsprop_epsilon",
}  # fmt: skip
"""Settings of algorithms on rollouts, there and here."""
REPLAY_NAMES = {
    "batch_size": "batch", "buffer_size": "capacity", "learning_starts": "learning_starts", "gamma": "gamma",
    "train_freq": "train_every", "gradient_steps": "gradient_steps", "learning_rate": "learning_rate",
    "target_update_interval": "target_every", "exploration_initial_eps": "epsilon_start",
    "exploration_final_eps": "epsilon_end", "max_grad_norm": "max_gradient_norm", "tau": "tau",
    "policy_delay": "policy_every", "target_policy_noise": "target_noise", "target_noise_clip": "target_noise_clip",
}  # fmt: skip
"""The same for algorithms on replay."""


class Learner(NamedTuple):
    """An algorithm on a task, ready to train."""

    algorithm: Any
    state: Any
    config: Any


def settings(asked: Task, steps: int) -> dict[str, Any]:
    """The task's settings in Operant's names, which are also those of `operant train`."""
    theirs = dict(asked.settings)
    if "n_steps" in theirs:
        theirs["vf_coef"] *= 2  # our value loss is half the squared error, theirs all of it
        schedules = {"schedule": asked.schedule}
        if asked.clip_schedule != "constant":
            schedules["clip_schedule"] = asked.clip_schedule
        return {NAMES[name]: value for name, value in theirs.items()} | schedules
    own: dict[str, Any] = {"noise": asked.noise} if asked.noise else {}
    if asked.algorithm == "dqn":
        own["epsilon_steps"] = round(theirs.pop("exploration_fraction") * steps)
    else:
        own["actor_learning_rate"] = own["critic_learning_rate"] = theirs.pop("learning_rate")
    return {REPLAY_NAMES[name]: value for name, value in theirs.items()} | own


def runner(asked: Task, seed: int) -> Runner:
    if asked.images:
        keep_freed_memory()  # as `operant train` does
        env: Any = Atari(asked.environment, asked.envs)
    elif asked.one_by_one:
        env = gymnasium.make_vec(asked.environment, asked.envs, "sync")
    else:
        env = make(asked.environment, asked.envs)
    shape = env.single_observation_space.shape
    observations = ObservationNormalizer(shape) if asked.normalize else None
    rewards = RewardNormalizer(asked.envs, asked.settings["gamma"]) if asked.normalize else None
    return Runner(env, seed=seed, observations=observations, rewards=rewards)


def build(asked: Task, seed: int, steps: int | None = None) -> Learner:
    torch.manual_seed(seed)
    steps = steps or asked.steps
    algorithm, network = ALGORITHMS[asked.algorithm]
    values, world = settings(asked, steps), runner(asked, seed)
    length = {"iterations": -(-steps // (asked.envs * values["rollout"]))} if "rollout" in values else {"steps": steps}
    config = algorithm.Config(**values, **length)
    policy = network(world.env.single_observation_space, world.env.single_action_space, asked.hidden)
    if asked.bfloat16:
        compute_in_bfloat16(policy)
    return Learner(algorithm, algorithm.init(policy, world, config), config)


def preset(asked: Task, seed: int, steps: int | None = None) -> Learner:
    """What `operant train` makes of the same command; it is as long as the preset says, or `steps`."""
    torch.manual_seed(seed)
    options = preset_of(options_of(asked.algorithm), asked.algorithm, asked.environment)
    options = dataclasses.replace(options, seed=seed, steps=steps or options.steps)
    world, config = make_world(options, options.envs, seed * options.envs), config_of(options)
    found = find(asked.algorithm)
    return Learner(found.load(), found.load().init(found.network(world, options), world, config), config)


def greedy(learner: Learner) -> Callable[[NDArray[Any]], NDArray[Any]]:
    policy, world = learner.state.policy, learner.state.world
    see = None if world.observations is None else world.observations.frozen()

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        seen = observation.astype(np.float32) if see is None else see(observation)
        return world._executed(policy.choose(torch.from_numpy(seen), greedy=True).numpy())

    return act


def main() -> None:
    args = parse_arguments(__doc__)
    torch.set_num_threads(1)
    asked, clock = task(args.task.removesuffix("_preset"), args.timed), Clock()
    make_learner = preset if args.task.endswith("_preset") else build
    throwaway = make_learner(asked, args.seed, asked.warmup)
    for _ in throwaway.algorithm.train(throwaway.state, throwaway.config):
        pass
    learner = make_learner(asked, args.seed, args.steps)
    threshold = Threshold(args.threshold, asked.environment, clock) if args.threshold else None
    act, world, episodes = greedy(learner), learner.state.world, []
    clock.start()
    for _ in learner.algorithm.train(learner.state, learner.config):
        done = world.steps * world.env.num_envs
        episodes += [(done, value) for value in world.pop_returns()]
        if threshold is not None and threshold.reached(done, act, [value for _, value in episodes]):
            break
    clock.stop()
    report("operant", __version__, asked, args, world.steps * world.env.num_envs, clock, episodes, threshold, act)


if __name__ == "__main__":
    main()
