"""Steps a second, and time until CartPole is solved, of Operant over Stable-Baselines3 2.9.2, in turns on one thread.

    .venv/bin/python benchmarks/control.py                           # all figures; half an hour on a quiet machine
    .venv/bin/python benchmarks/control.py --figures ppo_cartpole --repeats 5
    .venv/bin/python benchmarks/control.py --figures time_to_475 --seeds 5

Steps a second
--------------
A figure is a task of `control.toml`: the same algorithm, environment, networks, batch sizes, updates and schedules on
both sides, which is the zoo's setting for it (PPO on HalfCheetah: the paper's). Each run is a fresh process with one
thread. A throw-away run first reaches the first update; then a whole run is timed, from the first reset to the last
update: environments, acting, learning and each library's own records of episodes, but no evaluation and no writing.
A step is a step of one environment (Atari: four frames). The sides run in turns, `--repeats` times, the first one
alternating; the ratio is taken turn by turn, and median and range are given. `ratio_in_cpu_seconds` is the same in
seconds of the processor, which a busy machine disturbs less.

What differs, since each library is used as it comes:

- How environments are stepped. Stable-Baselines3 calls Python environments one by one (`DummyVecEnv`); Operant takes
  Gymnasium's vector environment where there is one, which of these is CartPole alone. `ppo_cartpole_one_by_one` is
  PPO with environments that are called one by one on both sides.
- In the figures ending in `_bfloat16` Operant's network computes in that format (`--bfloat16 True`), which
  Stable-Baselines3 has no setting for: its side is the one in float32.
- Random steps before the first update are made few for SAC, TD3 and the Atari DQN: at 10,000 of 20,000 steps they
  would hide what is measured, to the advantage of neither.
- DQN's target network is copied every 10 steps in the zoo, and updated from once in 256. Stable-Baselines3 makes all
  those copies, Operant the last of them: the same targets come out.
- Before its first update Stable-Baselines3's DQN acts at random, Operant's by ε, which is near 1 then.
- RMSProp's ε is inside the root in Operant, as in TensorFlow, and outside in PyTorch's, which Stable-Baselines3 takes.
- The value loss is ½ of the squared error in Operant and all of it in Stable-Baselines3: its weight is doubled here
  for PPO and A2C. TD3's critics have an Adam of their own, which does not see such a factor.
- SAC's log σ is squashed into (-5, 2) in Operant and clipped to [-20, 2] in Stable-Baselines3.

Time to 475
-----------
Seconds of learning until CartPole-v1 is solved, each library at its best setting: Stable-Baselines3 with the zoo's, to
the letter, and Operant with its preset for `operant train ppo CartPole-v1`. About every 2,500 environment steps,
between an update and the next rollout, the clock stops and two rules are looked at, the same for both sides:

- `evaluation`  20 greedy episodes, from the same seeds for both, have a mean return of at least 475
- `training`    the last 100 training episodes have it. This lags behind by up to 50,000 steps

A run ends when both are met, or with its last step. A run that never meets a rule counts as infinitely long.

One JSON line a figure is printed and added to results/control.jsonl.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import commit, environment, machine, say
from side import task

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "control.jsonl"
SPEED = (
    "ppo_cartpole", "ppo_cartpole_one_by_one", "ppo_halfcheetah", "a2c_cartpole", "dqn_cartpole", "sac_pendulum",
    "td3_pendulum", "sac_halfcheetah", "td3_halfcheetah", "ppo_pong", "dqn_pong",
    "ppo_pong_bfloat16", "dqn_pong_bfloat16",
)  # fmt: skip
THRESHOLD = 475.0
Row = dict[str, Any]


def main() -> None:
    args = parse_arguments()
    for figure in args.figures:
        found = solve(args) if figure == "time_to_475" else speed(figure, args)
        row = {
            "figure": figure, **found, "threads": 1, "machine": machine(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "commit": commit(),
        }  # fmt: skip
        line = json.dumps(row)
        print(line, flush=True)
        with args.out.open("a") as file:
            file.write(line + "\n")


def parse_arguments() -> argparse.Namespace:
    figures = (*SPEED, "time_to_475")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", nargs="+", choices=figures, default=list(figures))
    parser.add_argument("--repeats", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each side to the threshold")
    parser.add_argument("--steps", type=int, help="environment steps of each run; otherwise the task's")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def run(side: str, name: str, *options: str) -> Row:
    """What a side printed, run in a fresh process."""
    program = {
        "operant": (sys.executable, HERE / "operant_control.py"),
        "sb3": (environment("control"), HERE / "peers" / "sb3.py"),
    }
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run([*program[side], name, *options], capture_output=True, text=True, env=os.environ | one_thread)
    if done.returncode:
        raise SystemExit(f"{side} {name}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def speed(name: str, args: argparse.Namespace) -> Row:
    asked, steps = task(name, timed=True), ["--steps", str(args.steps)] if args.steps else []
    rows: dict[str, list[Row]] = {"operant": [], "sb3": []}
    for turn in range(args.repeats):
        for side in list(rows) if turn % 2 == 0 else reversed(rows):
            say(f"{name}: turn {turn + 1} of {args.repeats}, {side}")
            rows[side].append(run(side, name, "--timed", "--seed", str(turn), *steps))
    rates = {side: [row["steps_per_second"] for row in own] for side, own in rows.items()}
    busy = {side: [row["steps"] / row["cpu_seconds"] for row in own] for side, own in rows.items()}
    ratios, busy_ratios = (
        [ours / theirs for ours, theirs in zip(x["operant"], x["sb3"], strict=True)] for x in (rates, busy)
    )
    return {
        "unit": "environment steps per second", "algorithm": asked.algorithm, "environment": asked.environment,
        "envs": asked.envs, "settings": asked.settings, "repeats": args.repeats,
        **{side: spread(own) | {"steps": rows[side][0]["steps"]} for side, own in rates.items()},
        "peer_version": rows["sb3"][0]["version"], "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "ratio_in_cpu_seconds": round(statistics.median(busy_ratios), 2),
    }  # fmt: skip


def solve(args: argparse.Namespace) -> Row:
    names = {"operant": "ppo_cartpole_preset", "sb3": "ppo_cartpole"}
    steps = ["--steps", str(args.steps)] if args.steps else []
    found: dict[str, list[Row]] = {side: [] for side in names}
    for seed in range(args.seeds):
        for side in list(names) if seed % 2 == 0 else reversed(names):
            say(f"time_to_475: seed {seed}, {side}")
            row = run(side, names[side], "--threshold", str(THRESHOLD), "--seed", str(seed), *steps)
            found[side].append(row["reached"])
    rules: Row = {}
    for rule in ("evaluation", "training"):
        rules[rule] = {side: reached(rows, rule) for side, rows in found.items()}
        ours, theirs = (rules[rule][side]["seconds"] for side in ("operant", "sb3"))
        rules[rule]["times_sooner"] = round(theirs / ours, 2) if ours and theirs else None
    return {"unit": "seconds to a mean return of 475", "seeds": args.seeds, **rules, "runs": found}


def reached(rows: list[Row], rule: str) -> Row:
    """How many runs met the rule, and the middle one's seconds and steps, null where that one never did."""
    met = [row[rule] for row in rows if row[rule] is not None]
    seconds = sorted(one["seconds"] for one in met)
    steps = sorted(one["steps"] for one in met)
    middle = len(rows) // 2
    return {
        "solved": len(met), "seconds": seconds[middle] if middle < len(met) else None,
        "steps": steps[middle] if middle < len(met) else None, "range": [seconds[0], seconds[-1]] if met else None,
    }  # fmt: skip


def spread(x: list[float]) -> Row:
    return {"median": round(statistics.median(x), 1), "range": [round(min(x), 1), round(max(x), 1)]}


if __name__ == "__main__":
    main()
