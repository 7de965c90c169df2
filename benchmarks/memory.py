"""What memory is worth: PPO with and without it on CartPole that shows no velocities.

    .venv/bin/python benchmarks/memory.py                   # three seeds each, some minutes
    .venv/bin/python benchmarks/memory.py --kinds gru       # one kind more

The settings are those of recipes/train/ppo.toml for the task. `none` differs in its network alone, two perceptrons with
two layers of 64, and in its minibatch, which counts steps there, and whole rows of 128 steps where a policy remembers.
At the end each policy plays one whole greedy episode in each of 100 environments of other seeds. A row is a run: the
mean of these returns with its 95% bootstrap interval, the mean return of every tenth of the training episodes, and
seconds with one thread. Rows go to results/memory.json, in place of the run of the same kind and seed.
"""

import argparse
import dataclasses
import datetime
import json
import os
import time
import tomllib
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import gymnasium
import numpy as np
import torch
from machine import commit, machine

from operant.algorithms.policy_gradient import ppo
from operant.core.statistics import bootstrap_mean
from operant.envs.normalise import ObservationNormalizer
from operant.envs.runner import Runner
from operant.networks.actor_critic import actor_critic
from operant.networks.recurrent import recurrent_actor_critic

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "memory.json"
NAME = "operant.envs.partial:CartPole-NoVelocity-v1"
EPISODES, EVALUATION_SEED = 100, 1_000_000


def run(kind: str, seed: int, preset: dict[str, Any]) -> dict[str, Any]:
    """Train one policy and play it."""
    torch.manual_seed(seed)
    envs = preset["envs"]
    world = Runner(gymnasium.make_vec(NAME, envs), seed=seed * envs, observations=ObservationNormalizer((2,)))
    if kind == "none":
        policy: Any = actor_critic(world.observation_space, world.actions)
    else:
        policy = recurrent_actor_critic(world.observation_space, world.actions, kind, preset["hidden"][-1])  # pyright: ignore[reportArgumentType]
    names = {field.name for field in dataclasses.fields(ppo.Config)}
    config = ppo.Config(**{name: x for name, x in preset.items() if name in names})
    config = dataclasses.replace(config, iterations=-(-preset["steps"] // (envs * config.rollout)))
    if kind == "none":
        config = dataclasses.replace(config, minibatch=config.minibatch * config.rollout)
    began = time.perf_counter()
    for _ in ppo.train(ppo.init(policy, world, config), config):
        pass
    seconds = time.perf_counter() - began
    curve = [round(float(x.mean()), 1) for x in np.array_split(world.pop_returns(), 10)]
    return {
        "memory": kind,
        "seed": seed,
        "steps": world.steps * envs,
        **evaluate(policy, world, seed),
        "training_returns": curve,
        "seconds": round(seconds, 1),
    }


def evaluate(policy: Any, world: Runner, seed: int) -> dict[str, Any]:
    """One greedy episode in each of `EPISODES` environments."""
    seeds, scale = EVALUATION_SEED + seed * EPISODES, world.observations
    assert scale is not None
    stage = Runner(gymnasium.make_vec(NAME, EPISODES), seed=seeds, observations=scale.frozen())
    t = stage.episodes(policy, greedy=True)
    mean = bootstrap_mean((t.reward * t.mask).sum(1).double().numpy())
    return {"return": mean.mean, "low": mean.low, "high": mean.high, "episodes": EPISODES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=["lstm", "gru", "none"], default=["lstm", "none"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    preset = tomllib.loads((HERE.parent / "recipes/train/ppo.toml").read_text("utf-8"))[NAME]
    preset["steps"] = options.steps or preset["steps"]
    for seed in options.seeds:
        for kind in options.kinds:
            row = run(kind, seed, preset) | {
                "date": datetime.date.today().isoformat(),
                "commit": commit(),
                "machine": machine(),
            }
            print(json.dumps(row), flush=True)
            keep(row)


def keep(row: dict[str, Any]) -> None:
    rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else []
    rows = [x for x in rows if (x["memory"], x["seed"]) != (row["memory"], row["seed"])]
    RESULTS.write_text(
        json.dumps(sorted([*rows, row], key=lambda x: (x["memory"], x["seed"])), indent=1) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
