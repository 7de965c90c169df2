"""A policy that `operant train` trained: how good it is, and how it comes back from its run folder."""

import dataclasses
from pathlib import Path
from typing import Any

from operant.cli.algorithms import make_policy
from operant.cli.options import build, read_toml
from operant.cli.train import make_environments, make_world, options_of, require_seed
from operant.core.errors import InputError
from operant.core.statistics import bootstrap_mean

EVALUATION_ENVIRONMENTS = 16
EVALUATION_SEEDS = 2**31
"""Environments of evaluations are seeded from here on, those of training below."""


def stage(options: Any, observations: Any, envs: int, seed: int, render_mode: str | None = None) -> Any:
    """A runner to evaluate in: environments of their own, seen on the scale that training ended with."""
    from operant.envs.runner import Runner

    env = make_environments(options, envs, training=False, render_mode=render_mode)
    frozen = None if observations is None else observations.frozen()
    return Runner(env, envs, EVALUATION_SEEDS + seed * envs, options.clip_actions, frozen)


def figures(policy: Any, observations: Any, options: Any, episodes: int, greedy: bool, seed: int) -> dict[str, Any]:
    """Mean return and length of episodes, with bootstrap intervals."""
    import numpy as np
    import torch

    from operant.envs.evaluation import play
    from operant.experiment.progress import Progress

    require_seed(seed)
    torch.manual_seed(seed)
    runner = stage(options, observations, min(episodes, EVALUATION_ENVIRONMENTS), seed)
    played: list[tuple[float, int]] = []
    with Progress(episodes, unit="episode", brief=True) as progress:
        for result in play(policy, runner, episodes, greedy):
            played.append(result)
            progress.update(len(played), {})
    runner.env.close()
    if not played:
        return {"episodes": 0}
    returns, lengths = (bootstrap_mean(x).to_dict() for x in np.array(played, dtype=np.float64).T)
    return {"return": returns, "length": lengths, "episodes": len(played)}


def conclude(options: Any, folder: Any, state: Any) -> None:
    """Evaluation, summary and report; the figures are printed."""
    from operant.cli.folder import last_metrics
    from operant.experiment.report import write_report

    last = last_metrics(folder)
    summary: dict[str, Any] = {"title": f"{options.algorithm} on {options.environment}"}
    greedy = not options.evaluation_stochastic
    scales, episodes = state.world.observations, options.evaluation_episodes
    summary |= figures(state.policy, scales, options, episodes, greedy, options.seed)
    summary["played"] = "greedily" if greedy else "with actions drawn"
    summary |= {"steps": int(last["rollout/steps"]), "seconds": last["time/seconds"]}
    summary["steps_per_second"] = round(summary["steps"] / summary["seconds"], 1)
    summary["verdict"] = verdict(summary)
    folder.finish(summary)
    write_report([options.out], options.out / "report.html")
    rate = f"{summary['steps']:,} steps in {summary['seconds']:.1f} s ({summary['steps_per_second']:,.0f} a second)"
    print(f"{summary['verdict']}. {rate}.\nthe report is {options.out / 'report.html'}")


def verdict(found: dict[str, Any]) -> str:
    """The figures in words."""
    if not found["episodes"]:
        return "No episode of the evaluation came to its end: there is no return"
    mean, low, high = (found["return"][key] for key in ("mean", "low", "high"))
    spread = f" (95% interval {low:.4g} to {high:.4g})" if high > low else ""
    return f"Mean return {mean:.4g}{spread} in {found['episodes']} episodes of evaluation, played {found['played']}"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A policy with what it needs to see and act."""

    options: Any
    policy: Any
    observations: Any
    step: int


def load(run: Path) -> Trained:
    """The policy in the newest good checkpoint of a run. Raises `InputError` where there is none."""
    from operant.experiment import structure
    from operant.experiment.run import Run

    if not (run / "config.toml").is_file():
        raise InputError(f"there is no run in {run}: give the folder of a run of operant train")
    values = read_toml(run / "config.toml")
    about = values.pop("run", {})
    ran = about.get("algorithm") if isinstance(about, dict) else None
    if ran != "train":
        what = f"a run of operant {ran}, not of operant train" if ran else "no run of operant train"
        raise InputError(f"{run} is {what}: it holds no policy to play")
    values |= {"out": str(run), "device": "auto"}  # it may have been trained on another machine
    options = build(options_of(str(values.get("algorithm"))), values, str(run / "config.toml"))
    if options.seeds > 1:
        raise InputError(f"{run} holds the runs of {options.seeds} seeds: name one, such as {run}/seed_{options.seed}")
    saved = Run(run, "train", values).newest(("state.policy", "state.world"))
    if saved is None:
        raise InputError(f"{run} has no checkpoint yet: wait for the first, or train with a smaller --checkpoint-every")
    world = make_world(options, 1, 0)
    policy = make_policy(world, options)
    world.env.close()
    node = saved.document["state"]["values"]
    if problems := list(structure.differences(node["policy"], policy, "policy", saved.tensors)):
        raise InputError(f"the checkpoint {saved.folder} does not fit {options.environment}: {'; '.join(problems[:3])}")
    structure.place(node["policy"], policy, saved.tensors)
    if world.observations is not None:
        statistics = node["world"]["state"]["observations"]
        if statistics is None:
            raise InputError(f"{run} was trained without --normalize-observations: its config.toml says otherwise")
        world.observations.load_state_dict(structure.place(statistics, None, saved.tensors))
    return Trained(options, policy, world.observations, saved.document["step"])
