"""What more processes are worth to A3C: seconds until CartPole-v1 is solved, with one process and with several.

    .venv/bin/python benchmarks/a3c.py                        # one process and two, ten seeds each, some minutes
    .venv/bin/python benchmarks/a3c.py --workers 1 2 4 --seeds 20

The settings are those of recipes/train/a3c.toml, the environments of a process included. A run is solved when the mean
of its last 100 training episodes is 475 or more; the time is that of the report that says so, and includes the start of
the processes. Runs take turns, seed by seed. `ratio` is the time of one process over that of so many: the ratio of the
medians over seeds, of the whole run and up to 475, where a run that never gets there counts as infinitely long and
is null. One JSON line with all of it goes to results/a3c.json.
"""

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import torch
from machine import commit, machine, say

from operant.algorithms.policy_gradient import a3c
from operant.cli.algorithms import find
from operant.cli.train import config_of, elsewhere, make_world, options_of, preset_of

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "a3c.json"
NAME, THRESHOLD, EPISODES = "CartPole-v1", 475.0, 100


def run(workers: int, seed: int) -> dict[str, float]:
    """Train once; seconds until 475 and until the end."""
    options = dataclasses.replace(preset_of(options_of("a3c"), "a3c", NAME), workers=workers, seed=seed)
    torch.manual_seed(seed)
    first = make_world(options, options.envs, seed)
    policy, config = find("a3c").network(first, options), config_of(options)
    world = elsewhere(options, first)
    state = a3c.init(policy, world, config)
    last: deque[float] = deque(maxlen=EPISODES)
    solved, began = float("inf"), time.perf_counter()
    for _ in a3c.train(state, config):
        last.extend(world.pop_returns())
        if solved == float("inf") and len(last) == EPISODES and statistics.fmean(last) >= THRESHOLD:
            solved = time.perf_counter() - began
    return {"solved": solved, "whole": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {n: [] for n in args.workers}
    for seed in range(args.seeds):
        for n in args.workers if seed % 2 == 0 else reversed(args.workers):
            found[n].append(run(n, seed))
            say(f"seed {seed}, {n} processes: " + ", ".join(f"{k} {v:.2f} s" for k, v in found[n][-1].items()))
    figure: dict[str, Any] = {"figure": "a3c", "unit": "seconds", "environment": NAME, "seeds": args.seeds}
    for key in ("solved", "whole"):
        medians = {n: statistics.median(r[key] for r in runs) for n, runs in found.items()}
        figure[key] = {
            f"{n} processes": {
                "median": round(medians[n], 2),
                "ratio": round(medians[args.workers[0]] / medians[n], 2),
                "all": [round(r[key], 2) if r[key] < float("inf") else None for r in runs],
            }
            for n, runs in found.items()
        }
    figure |= {
        "machine": machine(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
    }
    print(json.dumps(figure))
    args.out.write_text(json.dumps(figure) + "\n")


if __name__ == "__main__":
    main()
