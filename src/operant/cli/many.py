"""`operant train --seeds`: runs that differ in their seed alone, side by side as processes, and what they come to."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from operant.cli import processes
from operant.cli.options import build, read_toml
from operant.core.errors import Diverged, InputError
from operant.core.statistics import bootstrap_mean, interquartile_mean
from operant.experiment.progress import Progress
from operant.experiment.report import write_report
from operant.experiment.run import Run


def train_all(options: Any, resume: bool) -> None:
    """All runs that are not finished, at most as many at once as there are cores; then one report."""
    from operant.cli.folder import start
    from operant.cli.train import beginning, require_seed

    require_seed(options.seed + options.seeds - 1)
    beginning(options)[2].world.env.close()  # what is wrong with the input is said once, here
    folder = start(options, "train", resume, [])
    seeds = range(options.seed, options.seed + options.seeds)
    side_by_side(options, [seed for seed in seeds if not part(options, seed).finished])
    folder.finish(summary(options, [part(options, seed) for seed in seeds]))
    write_report([options.out], options.out / "report.html")
    print(f"{folder.summary()['verdict']}.\nthe report is {options.out / 'report.html'}")


def part(options: Any, seed: int) -> Run:
    """The run of one seed, in a folder of its own."""
    return Run(options.out / f"seed_{seed}", "train", {})


def latest(run: Run) -> dict[str, float]:
    """The last whole line of the metrics of a run that may be writing them."""
    path = run.folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        lines = [line for line in deque(file, maxlen=2) if line.endswith("\n")]
    return json.loads(lines[-1]) if lines else {}


def side_by_side(options: Any, waiting: list[int]) -> None:
    """The runs of these seeds. Raises `InputError` when one fails; the others then stop at a checkpoint."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = max(1, cores // max(options.threads, 1))
    running: dict[int, subprocess.Popen[bytes]] = {}
    parts = [part(options, options.seed + i) for i in range(options.seeds)]
    total, done = options.steps * options.seeds, _steps(parts)
    try:
        with Progress(total, done, ("rollout/episode_return",)) as progress:
            while waiting or running:
                while waiting and len(running) < at_once:
                    seed, *waiting = waiting
                    log = options.out / f"seed_{seed}.log"
                    arguments = [str(options.out), str(seed)]
                    running[seed] = processes.start("operant.cli.many", arguments, log, max(options.threads, 1))
                for seed, process in list(running.items()):
                    if process.poll() is not None:
                        del running[seed]
                        _require_success(process.returncode, options, seed)
                time.sleep(0.1)
                if (now := min(_steps(parts), total)) > done:
                    done = now
                    progress.update(done, _means(parts))
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _require_success(code: int, options: Any, seed: int) -> None:
    if code:
        log = options.out / f"seed_{seed}.log"
        words = processes.last_words(log)
        raise InputError(f"the run of seed {seed} failed: {words} (all of it: {log}); --resume goes on from there")


def _steps(parts: list[Run]) -> int:
    return int(sum(latest(x).get("rollout/steps", 0) for x in parts))


def _means(parts: list[Run]) -> dict[str, float]:
    found = [latest(x).get("rollout/episode_return") for x in parts]
    known = [x for x in found if x is not None]
    return {"rollout/episode_return": sum(known) / len(known)} if known else {}


def summary(options: Any, parts: list[Run]) -> dict[str, Any]:
    """Figures over the seeds: each counts as one, however many episodes it played."""
    found = [x.summary() for x in parts]
    returns = [x["return"]["mean"] for x in found if x["episodes"]]
    title = f"{options.algorithm} on {options.environment}, {len(parts)} seeds"
    figures: dict[str, Any] = {"title": title, "episodes": sum(x["episodes"] for x in found)}
    figures["played"] = found[0].get("played", "greedily")
    for name in ("steps", "seconds"):
        figures[name] = round(sum(x[name] for x in found) / len(found), 3)
    figures["steps_per_second"] = round(figures["steps"] / figures["seconds"], 1)
    if not returns:
        return figures | {"verdict": "No episode of any evaluation came to its end: there is no return"}
    mean, middle = bootstrap_mean(returns), interquartile_mean(returns)
    figures |= {"return": mean.to_dict(), "interquartile_mean": middle.to_dict(), "returns": returns}
    figures["verdict"] = (
        f"Mean return over {len(returns)} seeds {mean.mean:.4g} (95% interval {mean.low:.4g} to {mean.high:.4g}), "
        f"interquartile mean {middle.mean:.4g}, lowest {min(returns):.4g}"
    )
    return figures


def as_process(out: str, seed: str) -> None:
    """What `side_by_side` starts: the run of one seed in the folder of all."""
    from operant.cli.train import options_of, train

    processes.end_with_parent()
    folder = Path(out)
    values = read_toml(folder / "config.toml")
    values.pop("run", None)
    options = build(options_of(values["algorithm"]), {**values, "out": out}, str(folder / "config.toml"))
    own = dataclasses.replace(options, seed=int(seed), seeds=1, out=folder / f"seed_{seed}")
    try:
        train(own, (own.out / "config.toml").is_file())
    except (InputError, Diverged) as error:
        print(" ".join(str(error).splitlines()))
        raise SystemExit(2) from None


if __name__ == "__main__":
    as_process(*sys.argv[1:])
