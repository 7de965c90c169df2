"""Steps a second of every bandit algorithm, and of UCB as a plain Python loop with the same update, on one thread.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bandits.py [--runs 2000] [--arms 10] [--steps 1000] [--repeats 5]

A step is one pull in one run, with its reward and what is counted. The plain loop counts the same. Both end with the
same regret, within noise. The first steps, in which kernels are compiled, are not timed. Prints a JSON line for each
figure and writes results/bandits.json.
"""

import argparse
import json
import math
import random
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from machine import commit, machine

from operant.algorithms.bandit import (
    epsilon_greedy,
    exp3,
    gradient,
    kl_ucb,
    linear_thompson,
    linucb,
    thompson,
    ucb,
)  # fmt: skip
from operant.bandits import problems

RESULTS = Path(__file__).parent / "results" / "bandits.json"
PLAYED: dict[str, tuple[Any, Any]] = {
    "ucb, gaussian": (ucb, problems.gaussian),
    "ucb, bernoulli": (ucb, problems.bernoulli),
    "epsilon_greedy, gaussian": (epsilon_greedy, problems.gaussian),
    "gradient, gaussian": (gradient, problems.gaussian),
    "exp3, bernoulli": (exp3, problems.bernoulli),
    "thompson, gaussian": (thompson, problems.gaussian),
    "thompson, bernoulli": (thompson, problems.bernoulli),
    "kl_ucb, bernoulli": (kl_ucb, problems.bernoulli),
    "linucb, linear": (linucb, problems.linear),
    "linear_thompson, linear": (linear_thompson, problems.linear),
}


def operant(module: Any, make: Any, runs: int, arms: int, steps: int) -> tuple[float, float]:
    """(steps a second, mean regret at the end)."""
    config = module.Config()
    state = module.init(make(runs, arms, np.random.default_rng([0, 1])), config)
    list(module.train(state, config, arms + 2))
    begun = time.perf_counter()
    *_, last = module.train(state, config, steps, every=100)
    return runs * (steps - arms - 2) / (time.perf_counter() - begun), last["bandit/regret"]


def plain_loop(runs: int, arms: int, steps: int) -> tuple[float, float]:
    """The same for UCB1 on Gaussian arms in Python alone: one run after the other, a list for each array."""
    rng, missed = random.Random(0), 0.0
    begun = time.perf_counter()
    for _ in range(runs):
        mean = [rng.gauss(0, 1) for _ in range(arms)]
        best = max(mean)
        value, count, reward, optimal, regret = [0.0] * arms, [0] * arms, 0.0, 0, 0.0
        for t in range(1, steps + 1):
            log_t = math.log(t)
            index = [q + math.sqrt(2 * log_t / n) if n else math.inf for q, n in zip(value, count, strict=True)]
            top = max(index)
            ties = [k for k in range(arms) if index[k] == top]
            arm = ties[0] if len(ties) == 1 else rng.choice(ties)
            r = mean[arm] + rng.gauss(0, 1)
            count[arm] += 1
            value[arm] += (r - value[arm]) / count[arm]
            reward += r
            optimal += mean[arm] == best
            regret += best - mean[arm]
        missed += regret
    return runs * steps / (time.perf_counter() - begun), missed / runs


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("runs", 2000), ("arms", 10), ("steps", 1000), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    size, lines = (given.runs, given.arms, given.steps), []
    for name, (module, make) in PLAYED.items():
        found = [operant(module, make, *size) for _ in range(given.repeats)]
        lines.append({"figure": name, "steps_per_second": [round(speed) for speed, _ in found], "regret": found[0][1]})
        print(json.dumps(lines[-1]), flush=True)
    found = [plain_loop(max(given.runs // 50, 1), given.arms, given.steps) for _ in range(given.repeats)]
    regret = statistics.mean(missed for _, missed in found)
    lines.append({"figure": "ucb, plain Python", "steps_per_second": [round(s) for s, _ in found], "regret": regret})
    print(json.dumps(lines[-1]))
    ours, plain = (statistics.median(lines[i]["steps_per_second"]) for i in (0, -1))
    print(json.dumps({"figure": "ucb over plain Python", "ratio": round(ours / plain, 1)}))
    header = {"machine": machine(), "date": date.today().isoformat(), "commit": commit(), **vars(given)}
    RESULTS.write_text(json.dumps({**header, "figures": lines, "ucb_over_plain": ours / plain}, indent=2) + "\n")


if __name__ == "__main__":
    main()
