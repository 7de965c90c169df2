"""A known model solved by a peer: QuantEcon, mdpsolver or pymdptoolbox. Prints one JSON line (`tabular.py`).

    python tabular.py MODEL.npz --solver quantecon:mpi:20 --runs 3

Only solving is timed, not the making of the peer's own objects. A solver's object is made anew for every run where it
keeps the last answer as a start.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy import sparse

Solve = Callable[[], tuple[float, np.ndarray]]
"""One run: (seconds, values)."""


def quantecon(model: dict[str, Any], method: str, k: int, error: float) -> Solve:
    from quantecon.markov import DiscreteDP

    states, actions, _ = model["next_state"].shape
    process = DiscreteDP(
        model["reward"].ravel(),
        _matrix(model["probability"], model["next_state"]),
        float(model["gamma"]),
        np.repeat(np.arange(states), actions),
        np.tile(np.arange(actions), states),
    )

    def run() -> tuple[float, np.ndarray]:
        started = time.perf_counter()
        found = process.solve(method, epsilon=error, max_iter=10**9, k=k)
        return time.perf_counter() - started, found.v

    return run


def mdpsolver(model: dict[str, Any], method: str, k: int, error: float) -> Solve:
    import mdpsolver as peer

    reward, chance, after = (model[name].tolist() for name in ("reward", "probability", "next_state"))

    def run() -> tuple[float, np.ndarray]:
        solver = peer.model()
        solver.mdp(discount=float(model["gamma"]), rewards=reward, tranMatProbs=chance, tranMatColumns=after)
        started = time.perf_counter()
        solver.solve(algorithm=method, tolerance=error, parIterLim=k, parallel=True, postProcessing=False)
        return time.perf_counter() - started, np.array(solver.getValueVector())

    return run


def pymdptoolbox(model: dict[str, Any], method: str, k: int, error: float) -> Solve:
    from mdptoolbox import mdp as peer

    actions = model["reward"].shape[1]
    matrices = [_matrix(model["probability"][:, [a]], model["next_state"][:, [a]]) for a in range(actions)]
    gamma = float(model["gamma"])

    def run() -> tuple[float, np.ndarray]:
        if method == "vi":
            solver = peer.ValueIteration(matrices, model["reward"], gamma, error, 10**6)
        else:
            solver = peer.PolicyIterationModified(matrices, model["reward"], gamma, error, 10**6)
        started = time.perf_counter()
        solver.run()
        return time.perf_counter() - started, np.array(solver.V)

    return run


def _matrix(probability: np.ndarray, next_state: np.ndarray) -> sparse.csr_matrix:
    """[rows, S], one row for every state and action."""
    states, actions, width = probability.shape
    start = np.arange(0, states * actions * width + 1, width)
    arrays = (probability.ravel(), next_state.ravel().astype(np.int32), start)
    found = sparse.csr_matrix(arrays, shape=(states * actions, states))
    found.sum_duplicates()
    return found


PEERS = {"quantecon": quantecon, "mdpsolver": mdpsolver, "pymdptoolbox": pymdptoolbox}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--solver", required=True, help="peer:method:k")
    parser.add_argument("--error", type=float, default=1e-6)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    name, method, k = args.solver.split(":")
    with np.load(args.model) as file:
        model = dict(file)
    run = PEERS[name](model, method, int(k), args.error)
    _, value = run()  # compiles what is compiled at first use
    seconds = [run()[0] for _ in range(args.runs)]
    wrong = value - model["optimum"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {
        "peer": name, "version": version(name), "seconds": seconds, "true_error": float(np.abs(wrong).max()),
        "true_error_but_for_a_constant": float(wrong.max() - wrong.min()) / 2, "peak_memory_mb": round(memory),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
