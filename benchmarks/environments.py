"""Environment steps a second: those that `operant train` makes, against EnvPool's.

    .venv/bin/python benchmarks/environments.py                                     # some minutes; first an environment
    .venv/bin/python benchmarks/environments.py --names Hopper-v5 --envs 8 --turns 5

Both sides step the same task on one thread with the same random actions drawn beforehand, in processes of their own
that alternate; EnvPool's has `num_threads=1`. Ratios are EnvPool's over Operant's, turn by turn: median and range. One
JSON line a task and number of environments is printed and added to results/environments.jsonl.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "environments.jsonl"
NAMES = ["CartPole-v1", "Acrobot-v1", "LunarLander-v3", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]
SECONDS, DRAWN = 2.0, 64
THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
Row = dict[str, Any]


def rate(side: str, name: str, envs: int) -> float:
    """Steps of all environments a second."""
    if side == "operant":
        from operant.envs.make import make

        env: Any = make(name, envs)
    else:
        import envpool  # pyright: ignore[reportMissingImports]

        env = envpool.make_gymnasium(name, num_envs=envs, num_threads=1, seed=0)
    space = env.single_action_space
    space.seed(0)
    actions = [np.stack([space.sample() for _ in range(envs)]) for _ in range(DRAWN)]
    env.reset()
    for action in actions:  # not timed
        env.step(action)
    steps, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < SECONDS:
        for action in actions:
            env.step(action)
        steps += DRAWN * envs
    return steps / passed


def spread(x: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(x), 3), "low": round(min(x), 3), "high": round(max(x), 3)}


def measure(name: str, envs: int, turns: int, pythons: dict[str, Path]) -> Row:
    from machine import commit, machine

    rates: dict[str, list[float]] = {side: [] for side in pythons}
    for _ in range(turns):
        for side, python in pythons.items():
            command = [python, "-W", "ignore", __file__, "--side", side, "--names", name, "--envs", str(envs)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **THREAD})
            rates[side].append(float(done.stdout.splitlines()[-1]))
    ratios = [theirs / ours for ours, theirs in zip(rates["operant"], rates["envpool"], strict=True)]
    return {
        "figure": "environments", "environment": name, "envs": envs, "unit": "steps per second", "threads": 1,
        "turns": turns, **{side: spread(x) for side, x in rates.items()}, "envpool_over_operant": spread(ratios),
        "peer_version": "1.2.5", "machine": machine(), "date": datetime.date.today().isoformat(), "commit": commit(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=("operant", "envpool"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(rate(args.side, args.names[0], args.envs[0]))
        return
    from machine import environment

    pythons = {"operant": Path(sys.executable), "envpool": environment("envpool")}
    for name in args.names:
        for envs in args.envs:
            row = json.dumps(measure(name, envs, args.turns, pythons))
            print(row, flush=True)
            with RESULTS.open("a") as file:
                file.write(row + "\n")


if __name__ == "__main__":
    main()
