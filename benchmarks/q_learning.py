"""Q-learning steps a second: compiled on the model, on the Gymnasium environment, and in the usual Python loop.

    .venv/bin/python benchmarks/q_learning.py                                  # three worlds, some minutes
    .venv/bin/python benchmarks/q_learning.py --worlds Taxi-v4 --repeats 9

All make the same update with the same α, γ and ε, from the same world with its time limit:

- `compiled`     `operant.algorithms.temporal_difference.q_learning` on a `simulator` of the environment's own table
- `environment`  the same loop on the environment itself
- `python`       the loop that one writes with NumPy and Gymnasium, below: of equal actions it takes the first
- `python_ties`  the same with random ties, as Operant has them; slower, and closer to what is learned otherwise

They run in turn, `--repeats` times, in one process and with one thread, after a first turn that is not timed (numba
compiles then). Ratios are taken turn by turn over `python`; median and range are given. That they learn the same is
shown with `--learned` steps and `--seeds` seeds each: the mean of the learned Q of the start, weighted by where
episodes begin, and the exact discounted value of the greedy policy, with 95% intervals over seeds, beside the optimum.
One JSON line a world is printed and added to results/q_learning.jsonl.
"""

import argparse
import datetime
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import gymnasium
import numpy as np
from machine import commit, machine
from numpy.typing import NDArray

from operant.algorithms.planning import modified_policy_iteration
from operant.algorithms.temporal_difference import q_learning
from operant.cli.learned import exact_value
from operant.envs.world import World
from operant.mdp.model import MDP, from_gymnasium
from operant.mdp.simulator import simulator

RESULTS = Path(__file__).parent / "results" / "q_learning.jsonl"
ALPHA, GAMMA, EPSILON = 0.1, 0.99, 0.1
Learner = Callable[[int, int], NDArray[np.float64]]
"""(steps, seed) -> the table."""


def python(name: str, ties: bool) -> Learner:
    def learn(steps: int, seed: int) -> NDArray[np.float64]:
        env: Any = gymnasium.make(name)
        q = np.zeros((env.observation_space.n, env.action_space.n))
        rng, actions = np.random.default_rng(seed), env.action_space.n
        state, _ = env.reset(seed=seed)
        for _ in range(steps):
            if rng.random() < EPSILON:
                action = int(rng.integers(actions))
            elif ties:
                action = int(rng.choice(np.flatnonzero(q[state] == q[state].max())))
            else:
                action = int(np.argmax(q[state]))
            after, reward, terminated, truncated, _ = env.step(action)
            target = reward if terminated else reward + GAMMA * np.max(q[after])
            q[state, action] += ALPHA * (target - q[state, action])
            state = after
            if terminated or truncated:
                state, _ = env.reset()
        return q

    return learn


def operant(world: Callable[[int], Any]) -> Learner:
    def learn(steps: int, seed: int) -> NDArray[np.float64]:
        config = q_learning.Config(steps=steps, alpha=ALPHA, gamma=GAMMA, epsilon=EPSILON, report_every=steps)
        state = q_learning.init(world(seed), config, seed)
        for _ in q_learning.train(state, config):
            pass
        return state.w

    return learn


def known(name: str) -> tuple[MDP, NDArray[np.float64], int]:
    """(the model of an environment, where episodes begin, their limit)."""
    env: Any = gymnasium.make(name)
    begin = np.append(env.unwrapped.initial_state_distrib, 0.0)
    return from_gymnasium(env, GAMMA), begin / begin.sum(), env.spec.max_episode_steps or 0


def speed(learner: Learner, steps: int, turn: int) -> float:
    """Steps a second."""
    begun = time.perf_counter()
    learner(steps, turn)
    return steps / (time.perf_counter() - begun)


def spread(x: list[float]) -> dict[str, float]:
    return {"median": statistics.median(x), "low": min(x), "high": max(x)}


def interval(x: list[float]) -> dict[str, float]:
    half = 1.96 * float(np.std(x, ddof=1)) / len(x) ** 0.5
    return {"mean": float(np.mean(x)), "low": float(np.mean(x)) - half, "high": float(np.mean(x)) + half}


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    mdp, begin, limit = known(name)
    best = modified_policy_iteration.solve(mdp)
    learners = {
        "compiled": operant(lambda seed: simulator(mdp, begin, seed, limit)),
        "environment": operant(lambda seed: World(name, seed)),
        "python": python(name, ties=False),
        "python_ties": python(name, ties=True),
    }
    steps = {side: args.compiled_steps if side == "compiled" else args.steps for side in learners}
    for learner in learners.values():
        learner(1000, 0)
    rates: dict[str, list[float]] = {side: [] for side in learners}
    for turn in range(args.repeats):
        for side, learner in learners.items():
            rates[side].append(speed(learner, steps[side], turn))
    learned: dict[str, Any] = {"optimum": float(begin @ best.value)}
    for side, learner in learners.items():
        tables = [learner(args.learned, seed) for seed in range(args.seeds)]
        starts = [float(begin[: len(w)] @ w.max(1)) for w in tables]
        policies = [exact_value(mdp, w, begin) or 0.0 for w in tables]
        learned[side] = {"q_of_the_start": interval(starts), "value_of_the_greedy_policy": interval(policies)}
    return {
        "figure": "q_learning", "world": name, "alpha": ALPHA, "gamma": GAMMA, "epsilon": EPSILON, "threads": 1,
        "repeats": args.repeats, "steps": steps, "unit": "steps per second",
        **{side: spread(rates[side]) for side in learners},
        **{f"{side}_over_python": spread([a / b for a, b in zip(rates[side], rates["python"], strict=True)])
           for side in ("compiled", "environment")},
        "learned": {"steps": args.learned, "seeds": args.seeds, **learned},
        "machine": machine(), "date": datetime.date.today().isoformat(), "commit": commit(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=["Taxi-v4", "FrozenLake-v1", "CliffWalking-v1"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30_000, help="of each turn in Python")
    parser.add_argument("--compiled-steps", type=int, default=5_000_000)
    parser.add_argument("--learned", type=int, default=100_000, help="steps after which results are compared")
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    for name in args.worlds:
        line = json.dumps(measure(name, args))
        print(line, flush=True)
        with RESULTS.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
