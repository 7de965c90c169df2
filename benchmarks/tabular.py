"""Known models: seconds to a proved error against QuantEcon, mdpsolver and pymdptoolbox; sweeps against the memory.

    .venv/bin/python benchmarks/tabular.py                                   # everything; half an hour on two cores
    .venv/bin/python benchmarks/tabular.py --figures solve_random_100k --repeats 5 --threads 2
    .venv/bin/python benchmarks/tabular.py --figures sweep_banded_1m

`solve_...`: every side solves the same model to an error of 1e-6 in every state, in a process of its own, once without
being timed (numba compiles then) and `--runs` times with. The sides take turns, `--repeats` times. Peers are tried with
several methods and settings. Those whose values are off by more than 1e-6 (against an optimum that Operant has proved
to 1e-9), and be it after one constant is added to all of them, are shown and do not count. The fastest that counts is
the peer's side of the ratio. Making the sides' own objects is not timed, which leaves out most of what mdpsolver needs
for its lists.

`sweep_...`: a Bellman backup of all states against the least that memory allows: one pass over the same arrays (of 12
bytes a transition), or, where successors lie anywhere, as many gathers of one float64. Both are measured in the same
process, in turns, with the same threads. `time_ratio` is the sweep's time over theirs.

Models have 4 actions and 8 successors of each, uniform rewards and probabilities. In `random` ones successors lie
anywhere, in `banded` ones within 50 states. Results go to results/tabular.jsonl, with machine, date and commit.
"""

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from machine import PEERS, ROOT, commit, environment, machine, say

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "tabular.jsonl"
ACTIONS, WIDTH, ERROR = 4, 8, 1e-6
WRONG = "true_error_but_for_a_constant"

Row = dict[str, Any]


class Figure(NamedTuple):
    kind: str
    states: int
    gamma: float = 0.95
    peers: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("modified_policy_iteration", "value_iteration")


QUANTECON = tuple(f"quantecon:mpi:{k}" for k in (10, 20, 50, 100))
MDPSOLVER = ("mdpsolver:vi:0", "mdpsolver:mpi:20", "mdpsolver:mpi:100")
PYMDPTOOLBOX = ("pymdptoolbox:vi:0", "pymdptoolbox:mpi:0")

FIGURES = {
    "solve_random_100k": Figure("random", 100_000, 0.95, (*QUANTECON, "quantecon:vi:0", *MDPSOLVER, *PYMDPTOOLBOX)),
    "solve_banded_100k": Figure("banded", 100_000, 0.95, (*QUANTECON, *MDPSOLVER)),
    "solve_random_100k_999": Figure("random", 100_000, 0.999, QUANTECON),
    "solve_random_1m": Figure("random", 1_000_000, 0.95, QUANTECON[:3]),
    "solve_random_1m_999": Figure("random", 1_000_000, 0.999, QUANTECON[1:3]),
    "solve_banded_1m": Figure("banded", 1_000_000, 0.95, QUANTECON[1:3]),
    "solve_banded_1m_999": Figure("banded", 1_000_000, 0.999, (), ("modified_policy_iteration",)),
    "solve_random_10m": Figure("random", 10_000_000, 0.95),
    "solve_random_10m_999": Figure("random", 10_000_000, 0.999, (), ("modified_policy_iteration",)),
    "solve_banded_10m": Figure("banded", 10_000_000, 0.95, (), ("modified_policy_iteration",)),
    "sweep_banded_1m": Figure("banded", 1_000_000),
    "sweep_banded_10m": Figure("banded", 10_000_000),
    "sweep_random_1m": Figure("random", 1_000_000),
    "sweep_random_10m": Figure("random", 10_000_000),
}


def main() -> None:
    args = parse_arguments()
    if args.side:
        print(json.dumps(solve(args.side, FIGURES[args.figures[0]], args.runs)))
        return
    os.environ |= {"NUMBA_NUM_THREADS": str(args.threads), "OMP_NUM_THREADS": str(args.threads)}
    numba.set_num_threads(args.threads)
    for name in args.figures:
        figure = FIGURES[name]
        found = compare(name, figure, args) if name.startswith("solve") else sweep(figure, args)
        row = {
            "figure": name, "states": figure.states, "actions": ACTIONS, "successors": WIDTH, "threads": args.threads,
            **found, "machine": machine(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(),
        }  # fmt: skip
        line = json.dumps(row)
        print(line, flush=True)
        with RESULTS.open("a") as file:
            file.write(line + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--repeats", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of a side in each turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def arrays(kind: str, states: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(next_state [S, A, K], probability [S, A, K], reward [S, A])."""
    generator, shape = np.random.default_rng(0), (states, ACTIONS, WIDTH)
    if kind == "random":
        after = generator.integers(0, states, shape, dtype=np.uint32)
    else:
        near = generator.integers(-50, 51, shape, dtype=np.int64)
        near += np.arange(states)[:, None, None]
        after = (near % states).astype(np.uint32)
    after.sort(axis=2)
    probability = generator.random(shape)
    probability /= probability.sum(2, keepdims=True)
    return after, probability, generator.random(shape[:2])


def model(figure: Figure) -> Any:
    from operant.mdp.model import MDP

    after, probability, reward = arrays(figure.kind, figure.states)
    rows = figure.states * ACTIONS
    return MDP(
        np.arange(0, rows + 1, ACTIONS), np.tile(np.arange(ACTIONS, dtype=np.int32), figure.states),
        np.arange(0, rows * WIDTH + 1, WIDTH), after.ravel(), probability.ravel(), reward.ravel(), figure.gamma,
        np.zeros(figure.states, dtype=bool),
    )  # fmt: skip


def solve(method: str, figure: Figure, runs: int) -> Row:
    """Operant's side, in a process of its own."""
    from importlib import import_module

    solver = import_module(f"operant.algorithms.planning.{method}")
    mdp = model(figure)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    config = solver.Config(error=ERROR)
    solver.solve(mdp, solver.Config(error=1e3))
    found = [solver.solve(mdp, config) for _ in range(runs)]
    return {
        "seconds": [one.seconds for one in found], "sweeps": found[0].sweeps, "proved_error": found[0].error,
        "reached": all(one.reached for one in found), "memory_of_the_model_mb": round(held),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def write_model(figure: Figure, file: Path) -> None:
    """What the peers read: the arrays, and an optimum that is proved to 1e-9."""
    from operant.algorithms.planning import modified_policy_iteration

    mdp = model(figure)
    found = modified_policy_iteration.solve(mdp, modified_policy_iteration.Config(error=1e-9))
    shape = (figure.states, ACTIONS, WIDTH)
    np.savez(
        file, next_state=mdp.next_state.reshape(shape), probability=mdp.probability.reshape(shape), gamma=mdp.gamma,
        reward=mdp.reward.reshape(shape[:2]), optimum=found.value, proved=found.error,
    )  # fmt: skip


def run(command: Sequence[str | Path]) -> Row | None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        say(f"  {' '.join(map(str, command))} failed: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(name: str, figure: Figure, args: argparse.Namespace) -> Row:
    """Every setting of a peer once, then the fastest that counts and Operant's methods in turns."""
    file = PEERS / f"{name}.npz"
    operant: dict[str, list[Row]] = {method: [] for method in figure.methods}
    peer: list[Row] = []
    tried, best = {}, None
    script = (environment("tabular"), HERE / "peers" / "tabular.py", file, "--error", str(ERROR))
    if figure.peers:
        write_model(figure, file)
        for setting in figure.peers:
            say(f"{name}: trying {setting}")
            if (found := run([*script, "--runs", "1", "--solver", setting])) is not None:
                errors = {key: found[key] for key in found if key.startswith("true_error")}
                tried[setting] = {"seconds": min(found["seconds"]), **errors}
        counts = {name: row["seconds"] for name, row in tried.items() if row[WRONG] <= ERROR}
        best = min(counts, key=counts.__getitem__) if counts else None
    for turn in range(args.repeats):
        say(f"{name}: turn {turn + 1} of {args.repeats}")
        for method in figure.methods:
            side = [sys.executable, __file__, "--figures", name, "--side", method, "--runs", str(args.runs)]
            if (found := run(side)) is None:
                raise SystemExit(f"{name}: Operant's side failed")
            operant[method].append(found)
        if best and (found := run([*script, "--solver", best, "--runs", str(args.runs)])) is not None:
            peer.append(found)
    file.unlink(missing_ok=True)
    quickest = min(figure.methods, key=lambda method: statistics.median(_seconds(operant[method])))
    row: Row = {
        "unit": "seconds to a proved error of 1e-6", "gamma": figure.gamma, "repeats": args.repeats,
        "operant": {method: _summary(rows) for method, rows in operant.items()}, "operant_best": quickest,
    }  # fmt: skip
    if peer:
        pairs = zip(peer, operant[quickest], strict=True)
        ratios = [statistics.median(a["seconds"]) / statistics.median(b["seconds"]) for a, b in pairs]
        row |= {"peer": {"setting": best, "version": peer[0]["version"], **_summary(peer)}, "tried": tried}
        row |= {
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return row


def _seconds(rows: list[Row]) -> list[float]:
    return [second for row in rows for second in row["seconds"]]


def _summary(rows: list[Row]) -> Row:
    seconds = _seconds(rows)
    rest = {key: value for key, value in rows[0].items() if key not in ("seconds", "peer", "version")}
    return {"median": statistics.median(seconds), "range": [min(seconds), max(seconds)], **rest}


@numba.njit(parallel=True, fastmath=True)
def _read(probability: np.ndarray, next_state: np.ndarray) -> Any:
    """One pass over the arrays of transitions."""
    total = 0.0
    for i in numba.prange(len(probability)):
        total += probability[i] + next_state[i]
    return total


@numba.njit(parallel=True, fastmath=True)
def _gather(value: np.ndarray, next_state: np.ndarray) -> Any:
    """One float64 for each transition, from where it leads."""
    total = 0.0
    for i in numba.prange(len(next_state)):
        total += value[next_state[i]]
    return total


def sweep(figure: Figure, args: argparse.Namespace) -> Row:
    """A backup of every state against what memory allows."""
    from operant.mdp.backup import NO_COPY, NONE, optimal_backup

    mdp = model(figure)
    value, out = np.random.default_rng(1).random(mdp.states), np.empty(mdp.states)
    tasks = {
        "sweep": lambda: optimal_backup(mdp.rows, 0.95, value, out, NONE, NO_COPY),
        "pass": lambda: _read(mdp.probability, mdp.next_state),
        "gather": lambda: _gather(value, mdp.next_state),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(max(10, 3 * args.repeats)):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - started)
    size, best = len(mdp.probability), {name: min(times) for name, times in seconds.items()}
    limit = "pass" if figure.kind == "banded" else "gather"
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "unit": "transitions per second", "transitions_per_second": size / middle["sweep"],
        "transitions_per_second_best": size / best["sweep"], "bandwidth_gb_per_second": 12 * size / best["pass"] / 1e9,
        "gathers_per_second": size / best["gather"], "limit": limit,
        "time_ratio": round(statistics.median(a / b for a, b in zip(seconds["sweep"], seconds[limit], strict=True)), 2),
    }  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    main()
