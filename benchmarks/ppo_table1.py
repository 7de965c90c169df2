"""Table 1 of the PPO paper (Schulman et al. 2017, arXiv 1707.06347, section 6.1) on MuJoCo v5.

    .venv/bin/python benchmarks/ppo_table1.py                    # the four rows of the summary, 84 runs of 1M steps
    .venv/bin/python benchmarks/ppo_table1.py --rows all         # all eleven rows, 231 runs
    .venv/bin/python benchmarks/ppo_table1.py --jobs 2 --seeds 0 --tasks Hopper HalfCheetah
    .venv/bin/python benchmarks/ppo_table1.py --table            # the scores of what is there

Each run is a process with one thread. One that is stopped goes on from its last checkpoint in runs/table1; one that
has ended is a row of results/ppo_table1.csv and is not run again.

Settings are the paper's where it gives them: 2 x 64 tanh, separate value network, log σ a parameter, T = 2,048, Adam
3e-4, 10 epochs, minibatches of 64, γ 0.99, λ 0.95, no entropy bonus, 1M steps, three seeds. Most of what it leaves open
is as in the first public code of the same month (openai/baselines da99706, pposgd_simple): observations normalised and
clipped to ±5, weights of length 1 into each unit (policy 0.01), advantages standardised over a batch, no gradient
clipping, no scaling of rewards, actions not clipped, a time limit counted as an end, constant step size.

What is other than in that code: values are not clipped (it was taken out a month later), Adam's ε is 1e-5 (there 1e-8),
statistics of observations are updated at every step (there before every update), the KL in the loss is estimated from
the actions taken (there it is the exact one).

The score of a run is the mean return of its last 100 training episodes. Per task 0 is a random policy (N(0, 1), not
clipped) and 1 the best run; a setting's score is the mean over tasks and seeds. `--table` prints it also with "best"
as the best setting's mean, and with random actions drawn uniformly.
"""

import argparse
import csv
import dataclasses
import datetime
import math
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS, RANDOM, RUNS = (
    HERE / "results" / "ppo_table1.csv",
    HERE / "results" / "ppo_table1_random.csv",
    Path("runs/table1"),
)
TASKS = ("HalfCheetah", "Hopper", "InvertedDoublePendulum", "InvertedPendulum", "Reacher", "Swimmer", "Walker2d")
STEPS, HORIZON, LAST, SAVE_EVERY = 1_000_000, 2048, 100, 40
ROWS: dict[str, dict[str, Any]] = {
    "no clipping": {"clip": math.inf},
    "clip 0.2": {"clip": 0.2},
    "adaptive KL 0.01": {"objective": "kl", "old_policy_target": 0.01},
    "fixed KL 1": {"objective": "kl", "old_policy_beta": 1.0},
    "clip 0.1": {"clip": 0.1},
    "clip 0.3": {"clip": 0.3},
    "adaptive KL 0.003": {"objective": "kl", "old_policy_target": 0.003},
    "adaptive KL 0.03": {"objective": "kl", "old_policy_target": 0.03},
    "fixed KL 0.3": {"objective": "kl", "old_policy_beta": 0.3},
    "fixed KL 3": {"objective": "kl", "old_policy_beta": 3.0},
    "fixed KL 10": {"objective": "kl", "old_policy_beta": 10.0},
}
MAIN = tuple(ROWS)[:4]
PAPER = {
    "no clipping": -0.39, "clip 0.1": 0.76, "clip 0.2": 0.82, "clip 0.3": 0.70, "adaptive KL 0.003": 0.68,
    "adaptive KL 0.01": 0.74, "adaptive KL 0.03": 0.71, "fixed KL 0.3": 0.62, "fixed KL 1": 0.71, "fixed KL 3": 0.72,
    "fixed KL 10": 0.69,
}  # fmt: skip
FIELDS = ("row", "task", "seed", "steps", "return", "episodes", "diverged_at", "seconds", "commit", "date")


def play(row: str, task: str, seed: int, steps: int) -> dict[str, Any]:
    """One run, from its last checkpoint if there is one."""
    import gymnasium
    import torch
    from gymnasium.wrappers import TimeLimit

    from operant.algorithms.policy_gradient import ppo
    from operant.core.errors import Diverged
    from operant.core.losses import standardize
    from operant.envs.normalise import ObservationNormalizer
    from operant.envs.runner import Runner
    from operant.envs.sync import LightVector
    from operant.experiment import checkpoint
    from operant.networks.actor_critic import ActorCritic, head

    class EndAtLimit(TimeLimit):
        """A time limit that counts as an end."""

        def step(self, action: Any) -> Any:
            seen, reward, terminated, truncated, info = super().step(action)
            return seen, reward, terminated or truncated, False, info

    @dataclasses.dataclass
    class State:
        learner: ppo.State
        last: list[float]
        episodes: int = 0
        seconds: float = 0.0
        step: int = 0

    torch.set_num_threads(1)
    torch.manual_seed(seed)

    def make() -> Any:
        spec = gymnasium.spec(f"{task}-v5")
        bare = gymnasium.make(spec, disable_env_checker=True, max_episode_steps=-1)
        return EndAtLimit(bare, spec.max_episode_steps or 1000)

    vector = LightVector([make])
    shape = vector.single_observation_space.shape or ()
    world = Runner(vector, seed=seed, clip_actions=False, observations=ObservationNormalizer(shape, limit=5.0))
    policy = ActorCritic(shape[0], head(vector.single_action_space), initialisation="normalised")
    config = ppo.Config(
        iterations=steps // HORIZON, rollout=HORIZON, epochs=10, minibatch=64, learning_rate=3e-4, schedule="constant",
        value_coefficient=2.0, entropy_coefficient=0.0, standardize_advantages=False, max_gradient_norm=math.inf,
        **ROWS[row],
    )  # fmt: skip
    state = State(ppo.init(policy, world, config), [])
    folder = RUNS / f"{row}-{task}-{seed}".replace(" ", "_")
    if (folder / "state.json").exists():
        checkpoint.load(folder, state)
    began, before, last, diverged = time.monotonic(), state.seconds, deque(state.last, LAST), ""
    while state.step < config.iterations:
        trajectory = world.rollout(policy, HORIZON)
        batch = ppo.prepare(trajectory, config)
        batch = dataclasses.replace(batch, advantage=standardize(batch.advantage, trajectory.mask))
        try:
            ppo.update(state.learner, batch, config)
        except Diverged:
            diverged = str(state.step * HORIZON)
            break
        state.step = state.learner.step = state.learner.step + 1
        returns = world.pop_returns()
        last.extend(returns)
        state.episodes += len(returns)
        state.seconds = before + time.monotonic() - began
        if state.step % SAVE_EVERY == 0:
            state.last = list(last)
            checkpoint.save(folder, state)
    return {
        "row": row, "task": task, "seed": seed, "steps": state.step * HORIZON, "return": round(float(np.mean(last)), 3),
        "episodes": state.episodes, "diverged_at": diverged, "seconds": round(state.seconds),
    }  # fmt: skip


def random_returns(task: str, normal: bool, episodes: int = 20) -> float:
    """Mean return of actions drawn from N(0, 1), or uniformly from the box."""
    import gymnasium

    env: Any = gymnasium.make(f"{task}-v5", disable_env_checker=True)
    rng, total = np.random.default_rng(0), 0.0
    for episode in range(episodes):
        env.reset(seed=episode)
        over = False
        while not over:
            low, high = env.action_space.low, env.action_space.high
            action = rng.normal(size=low.shape) if normal else rng.uniform(low, high)
            _, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            over = terminated or truncated
    return total / episodes


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def done() -> set[tuple[str, str, int]]:
    return {(x["row"], x["task"], int(x["seed"])) for x in read(RESULTS)} if RESULTS.exists() else set()


def append(row: dict[str, Any]) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def scores() -> Iterator[dict[str, Any]]:
    """For every row: runs, and the normalised score in four ways. A task counts as one, with the seeds it has."""
    runs = [x for x in read(RESULTS) if int(x["steps"]) >= STEPS - HORIZON or x["diverged_at"]]
    floors = {x["task"]: x for x in read(RANDOM)}
    found: dict[str, dict[str, list[float]]] = {}
    for x in runs:
        found.setdefault(x["task"], {}).setdefault(x["row"], []).append(float(x["return"]))
    for row in ROWS:
        tasks = {task: rows for task, rows in found.items() if row in rows}
        if not tasks:
            continue
        ways: dict[str, list[float]] = {}
        for task, rows in tasks.items():
            tops = {"best run": max(map(max, rows.values())), "best setting": max(map(np.mean, rows.values()))}
            for kind in ("normal", "uniform"):
                floor = float(floors[task][kind])
                for best, top in tops.items():
                    ways.setdefault(f"{kind}, {best}", []).append((np.mean(rows[row]) - floor) / (top - floor))
        count = sum(len(rows[row]) for rows in tasks.values())
        yield {"row": row, "paper": PAPER[row], "runs": count} | {
            way: round(float(np.mean(x)), 2) for way, x in ways.items()
        }


def table() -> str:
    rows = list(scores())
    if not rows:
        return "no run has ended yet"
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([str(row[name]) for name in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def one(job: tuple[str, str, int], steps: int) -> None:
    row, task, seed = job
    command = [sys.executable, __file__, "--one", row, task, str(seed), "--steps", str(steps)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(MAIN), help="names of rows, or all")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--table", action="store_true", help="print the scores of the runs that are there")
    parser.add_argument("--one", nargs=3, metavar=("ROW", "TASK", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        from machine import commit

        found = play(args.one[0], args.one[1], int(args.one[2]), args.steps)
        row = found | {"commit": commit(), "date": datetime.date.today().isoformat()}
        print(row, flush=True)
        if args.steps == STEPS:
            append(row)
        return
    if args.table:
        print(table())
        return
    if not RANDOM.exists():
        with RANDOM.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("task", "normal", "uniform"))
            writer.writerows((t, *(round(random_returns(t, kind), 3) for kind in (True, False))) for t in TASKS)
    rows = list(ROWS) if args.rows == ["all"] else args.rows
    jobs = [(row, task, seed) for seed in args.seeds for task in args.tasks for row in rows]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: one(job, args.steps), [job for job in jobs if job not in done()]))
    print(table())


if __name__ == "__main__":
    main()
