"""What Operant's algorithms learn with their presets, three seeds each, held against published numbers.

    .venv/bin/python benchmarks/learning.py                        # classic control and Box2D: hours
    .venv/bin/python benchmarks/learning.py --suite mujoco         # MuJoCo v5 beside Stable-Baselines3: a day
    .venv/bin/python benchmarks/learning.py --only ppo-CartPole-v1 dqn-CartPole-v1 --seeds 0 1 --jobs 2
    .venv/bin/python benchmarks/learning.py --draw                 # the table and the drawings of what is there

classic   every preset of recipes/train for the environments of Gymnasium's classic control and Box2D, by
          `operant train ALGORITHM ENVIRONMENT --seed SEED`; A2C on MountainCar, where the published number was not
          reached, also by Stable-Baselines3 with its zoo's settings
mujoco    PPO for 1M steps on HalfCheetah, Hopper and Walker2d, SAC and TD3 for 200k on HalfCheetah, with the settings
          of control.toml: Operant by `operant train --config`, Stable-Baselines3 by peers/sb3.py

Each run is a process of one thread that gives way to others (nice). When it ends, its row goes to
results/control_learning.csv, its learning curve to results/control_curves.csv, and it is not run again unless its
preset changes. A run of Operant that was interrupted goes on from its last checkpoint in --runs; one of
Stable-Baselines3 starts anew. The cheapest runs come first.

`return` is the mean of greedy episodes at the end, `low` and `high` its 95% bootstrap interval. Curves are the returns
of training episodes, exploration included.
"""

import argparse
import csv
import dataclasses
import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
from learning_table import CURVES, ROWS, RUN, publish, read
from machine import commit, environment, say
from side import Task, curve, task

HERE = Path(__file__).resolve().parent
CLASSIC = ("gymnasium.envs.classic_control.", "gymnasium.envs.box2d.")
DOUBTED = ("a2c_mountaincar",)
"""Tasks whose published number Stable-Baselines3 is asked for here."""
MUJOCO = ("ppo_halfcheetah", "sac_halfcheetah", "td3_halfcheetah", "ppo_hopper", "ppo_walker2d")
FIELDS = (*RUN, "steps", "return", "low", "high", "episodes", "seconds", "steps_per_second", "commit", "date")
POINT = (*RUN, "step", "return")
EVALUATION = 100
"""Greedy episodes at the end of a run of Stable-Baselines3: as many as `operant train` plays."""
REPLAY_COST = 20
"""How much longer a step takes where every one is learned from: for the order of runs alone."""
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """One run. `config` are settings of its own in place of a preset; `task` is what Stable-Baselines3 is to do."""

    side: str
    algorithm: str
    environment: str
    seed: int
    steps: int
    settings: str
    config: tuple[tuple[str, Any], ...] = ()
    task: str = ""

    @property
    def name(self) -> str:
        return f"{self.algorithm}-{self.environment}"

    @property
    def key(self) -> tuple[str, ...]:
        """What its row begins with, `RUN`."""
        return tuple(str(getattr(self, name)) for name in RUN)

    @property
    def cost(self) -> int:
        return self.steps * (REPLAY_COST if self.algorithm in ("dqn", "ddpg", "td3", "sac", "dpg") else 1)

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.name}-{self.settings}" / str(self.seed)


def main() -> None:
    args = parse_arguments()
    if not args.draw:
        work(args)
    publish()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", choices=("classic", "mujoco"), default=["classic"])
    parser.add_argument("--only", nargs="+", metavar="ALGORITHM-ENVIRONMENT", help="these alone")
    parser.add_argument("--sides", nargs="+", choices=("operant", "sb3"), default=["operant", "sb3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--runs", type=Path, default=Path("runs/control"), help="where run folders are")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--list", action="store_true", help="print what would run, and stop")
    return parser.parse_args()


def work(args: argparse.Namespace) -> None:
    """Every run that has no row yet. Raises SystemExit(1) at the end if some failed."""
    jobs = [job for suite in args.suite for job in (classic if suite == "classic" else mujoco)(args.seeds)]
    chosen = [j for j in jobs if j.side in args.sides and (not args.only or j.name in args.only)]
    done = {tuple(row[name] for name in RUN) for row in read(ROWS)}
    left = sorted((j for j in chosen if j.key not in done), key=lambda j: (j.cost, j.name, j.side, j.seed))
    say(f"{len(left)} runs of {len(chosen)} are left")
    if args.list:
        print("\n".join(" ".join(job.key) for job in left))
        raise SystemExit
    processes, failed = Processes(), []

    def one(job: Job) -> None:
        say(f"{' '.join(job.key)}: {job.steps:,} steps")
        if not finish(job, args.runs, processes):
            failed.append(job.key)

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            list(pool.map(one, left))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
    if failed:
        raise SystemExit("failed: " + "; ".join(" ".join(key) for key in failed))


def classic(seeds: Sequence[int]) -> list[Job]:
    """Every preset for an environment of classic control or Box2D."""
    from operant.cli.algorithms import ALGORITHMS, presets
    from operant.cli.train import options_of, preset_of

    found = []
    for algorithm in ALGORITHMS:
        for name, preset in presets(algorithm).items():
            if name not in gymnasium.registry or not str(gymnasium.spec(name).entry_point).startswith(CLASSIC):
                continue
            steps = preset_of(options_of(algorithm), algorithm, name).steps
            settings = fingerprint(preset)
            found += [Job("operant", algorithm, name, seed, steps, settings) for seed in seeds]
    for name in DOUBTED:
        found += [peer(name, seed) for seed in seeds]
    return found


def mujoco(seeds: Sequence[int]) -> list[Job]:
    """Both sides of the tasks, with the same settings."""
    found = []
    for name in MUJOCO:
        asked = task(name)
        config = tuple(sorted(own_names(asked).items()))
        ours = ("operant", asked.algorithm, asked.environment)
        for seed in seeds:
            found += [Job(*ours, seed, asked.steps, fingerprint(config), config), peer(name, seed)]
    return found


def peer(name: str, seed: int) -> Job:
    """Stable-Baselines3's side of a task. What it leaves at a default does not count: a new field changes no run."""
    asked = task(name)
    usual = {field.name: field.default for field in dataclasses.fields(Task)}
    settings = fingerprint({key: x for key, x in dataclasses.asdict(asked).items() if x != usual[key]})
    return Job("sb3", asked.algorithm, asked.environment, seed, asked.steps, settings, task=name)


def own_names(asked: Task) -> Row:
    """A task as options of `operant train`."""
    from operant_control import settings

    world = {"envs": asked.envs, "steps": asked.steps, "hidden": list(asked.hidden)}
    normal = {"normalize_observations": asked.normalize, "normalize_rewards": asked.normalize}
    return settings(asked, asked.steps) | world | normal


def fingerprint(settings: Any) -> str:
    """Rows are of these settings and no others."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()


class Processes:
    """The runs under way, which end with this program."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.stopped = False
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def run(self, command: Sequence[str | Path]) -> tuple[int, str]:
        """(exit status, standard output); on failure its errors are shown."""
        if self.stopped:
            return 130, ""
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        process = subprocess.Popen(
            ["nice", "-n", "10", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | one_thread, cwd=HERE.parent,
        )  # fmt: skip
        self.running.add(process)
        out, errors = process.communicate()
        self.running.discard(process)
        if process.returncode and not self.stopped:
            say(f"{' '.join(map(str, command))}:\n{errors.strip()[-1000:]}")
        return process.returncode, out

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.running):
            process.terminate()


def finish(job: Job, runs: Path, processes: Processes) -> bool:
    """Run, or go on with, a job and keep its row and curve. False if it failed."""
    result = operant(job, runs, processes) if job.side == "operant" else sb3(job, processes)
    if result is None:
        return False
    row, points = result
    keep(job, row, points)
    return True


def operant(job: Job, runs: Path, processes: Processes) -> tuple[Row, list[tuple[int, float]]] | None:
    from operant.experiment.files import to_toml

    folder = job.folder(runs.resolve())
    if not (folder / "summary.json").is_file():
        command: list[str | Path] = [Path(sys.executable).with_name("operant"), "train"]
        if (folder / "config.toml").is_file():
            command += ["--out", folder, "--resume"]
        else:
            command += [job.algorithm, job.environment, "--seed", str(job.seed), "--out", folder]
        if job.config and "--resume" not in command:
            file = folder.parent / "settings.toml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(to_toml(dict(job.config)))
            command += ["--config", file]
        if processes.run(command)[0]:
            return None
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ended = [(x["rollout/steps"], x["rollout/episode_return"]) for x in lines if "rollout/episode_return" in x]
    value = summary.get("return", {"mean": "", "low": "", "high": ""})
    row = {name: summary[name] for name in ("steps", "episodes", "seconds", "steps_per_second")}
    return row | {"return": value["mean"], "low": value["low"], "high": value["high"]}, curve(ended, summary["steps"])


def sb3(job: Job, processes: Processes) -> tuple[Row, list[tuple[int, float]]] | None:
    from operant.core.statistics import bootstrap_mean

    script = [environment("control"), HERE / "peers" / "sb3.py", job.task]
    code, out = processes.run([*script, "--seed", str(job.seed), "--evaluate", str(EVALUATION)])
    if code:
        return None
    found = json.loads(out.strip().splitlines()[-1])
    mean, low, high = bootstrap_mean(found["returns"])
    row = {name: found[name] for name in ("steps", "seconds", "steps_per_second")}
    return row | {"return": mean, "low": low, "high": high, "episodes": len(found["returns"])}, found["curve"]


LOCK = threading.Lock()


def keep(job: Job, row: Row, points: Sequence[tuple[int, float]]) -> None:
    """The curve first, so that a row always has one."""
    own = dict(zip(RUN, job.key, strict=True))
    figures = {name: round(x, 3) if isinstance(x, float) else x for name, x in row.items()}
    today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with LOCK:
        append(CURVES, POINT, [own | {"step": step, "return": round(value, 2)} for step, value in points])
        append(ROWS, FIELDS, [own | figures | {"commit": commit(), "date": today}])


def append(file: Path, fields: Sequence[str], rows: Sequence[Row]) -> None:
    new = not file.exists()
    with file.open("a", newline="") as handle:
        writer: csv.DictWriter[str] = csv.DictWriter(handle, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
