"""What both sides of `control.py` share, so that they measure the same: the task, the clock, episodes and evaluation.

Imported by `operant_control.py` and by `peers/sb3.py`, each in its own environment; it needs NumPy and Gymnasium alone.
"""

import argparse
import dataclasses
import json
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

TASKS = Path(__file__).with_name("control.toml")
EVALUATION_SEED = 1_000_000
POINTS = 50
"""Of a learning curve."""
CHECK_EVERY, CHECK_EPISODES, TRAINING_EPISODES = 2_500, 20, 100
"""Environment steps between looks at the threshold; episodes of an evaluation, and of the mean over training."""
Act = Callable[[NDArray[Any]], NDArray[Any]]
"""Observations [B, ...] -> greedy actions [B, ...]."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A table of control.toml."""

    name: str
    algorithm: str
    environment: str
    envs: int
    steps: int
    schedule: str
    settings: dict[str, Any]
    hidden: tuple[int, ...] = ()
    normalize: bool = False
    one_by_one: bool = False
    clip_schedule: str = "constant"
    noise: float = 0.0
    bfloat16: bool = False

    @property
    def images(self) -> bool:
        return "NoFrameskip" in self.environment

    @property
    def warmup(self) -> int:
        """Steps that reach the first update."""
        settings = self.settings
        if "n_steps" in settings:
            return self.envs * settings["n_steps"]
        return settings["learning_starts"] + 2 * settings["train_freq"]


def task(name: str, timed: bool = False) -> Task:
    """The task `name`; `timed` as it is when only its speed is measured."""
    tables = tomllib.loads(TASKS.read_text())
    table = tables[name]
    if "like" in table:
        parent = tables[table.pop("like")]
        table = parent | table | {"settings": parent["settings"] | table.get("settings", {})}
    changes = table.pop("timed", {})
    if timed:
        table["steps"] = changes.pop("steps", table["steps"])
        table["settings"] |= changes
    return Task(name, **table | {"hidden": tuple(table.get("hidden", ()))})


class Clock:
    """Seconds of learning, from `start` to `stop`, without what happens in `pause`; and those of the processor."""

    def start(self) -> None:
        self.begun, self.paused = _now(), np.zeros(2)

    def stop(self) -> None:
        self.seconds, self.cpu_seconds = self.so_far().tolist()

    def so_far(self) -> NDArray[np.float64]:
        """(seconds, seconds of the processor)."""
        return _now() - self.begun - self.paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        begun = _now()
        yield
        self.paused += _now() - begun


def _now() -> NDArray[np.float64]:
    return np.array([time.perf_counter(), time.process_time()])


class Threshold:
    """When the task was first solved, by two rules: a greedy evaluation, and the last 100 training episodes.

    The clock stands while it is looked at.
    """

    def __init__(self, value: float, environment: str, clock: Clock) -> None:
        self.value, self.environment, self.clock = value, environment, clock
        self.found: dict[str, dict[str, float] | None] = {"evaluation": None, "training": None}
        self.looked = 0

    def reached(self, step: int, act: Act, returns: Sequence[float]) -> bool:
        """Whether both rules have been met by now; `returns` are those of all training episodes so far."""
        if step - self.looked < CHECK_EVERY:
            return False
        seconds, cpu_seconds = self.clock.so_far().tolist()
        with self.clock.pause():
            self.looked = step
            here = {"steps": step, "seconds": seconds, "cpu_seconds": cpu_seconds}
            if len(returns) >= TRAINING_EPISODES and np.mean(returns[-TRAINING_EPISODES:]) >= self.value:
                self.found["training"] = self.found["training"] or here
            if self.found["evaluation"] is None:
                evaluation = play(self.environment, act, CHECK_EPISODES, EVALUATION_SEED)
                self.found["evaluation"] = here if np.mean(evaluation) >= self.value else None
        return all(self.found.values())


def play(environment: str, act: Act, episodes: int, seed: int) -> list[float]:
    """Returns of `episodes` episodes, side by side, each from a seed of its own."""
    env: Any = gymnasium.make_vec(environment, num_envs=episodes)
    observation, _ = env.reset(seed=seed)
    running, total = np.ones(episodes, dtype=bool), np.zeros(episodes)
    while running.any():
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total += np.where(running, reward, 0.0)
        running &= ~(terminated | truncated)
    env.close()
    return total.tolist()


def curve(episodes: Sequence[tuple[int, float]], steps: int, points: int = POINTS) -> list[tuple[int, float]]:
    """(step, mean return of the episodes that ended in the stretch up to it) for stretches in which any did."""
    if not episodes:
        return []
    ended, returns = np.array([step for step, _ in episodes]), np.array([value for _, value in episodes])
    stretch = np.ceil(ended * points / steps).clip(1, points).astype(int)
    return [(i * steps // points, float(returns[stretch == i].mean())) for i in range(1, points + 1) if i in stretch]


def parse_arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a table of control.toml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="environment steps; otherwise the task's")
    parser.add_argument("--timed", action="store_true", help="the task as it is for its speed alone")
    parser.add_argument("--threshold", type=float, help="stop when both rules find this mean return")
    parser.add_argument("--evaluate", type=int, default=0, help="episodes of a greedy evaluation at the end")
    return parser.parse_args()


def report(
    side: str, version: str, asked: Task, args: argparse.Namespace, steps: int, clock: Clock,
    episodes: Sequence[tuple[int, float]], threshold: Threshold | None, act: Act,
) -> None:  # fmt: skip
    """Print the one JSON line."""
    row: dict[str, Any] = {
        "task": asked.name, "side": side, "version": version, "seed": args.seed, "steps": steps,
        "seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "steps_per_second": steps / clock.seconds,
    }  # fmt: skip
    if threshold is not None:
        row["reached"] = threshold.found
    if args.evaluate:
        row["returns"] = play(asked.environment, act, args.evaluate, EVALUATION_SEED)
        row["curve"] = curve(episodes, steps)
    print(json.dumps(row))
