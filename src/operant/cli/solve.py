"""`operant solve`: the best policy of a known model, and how far its values can be from the optimum."""

import csv
import dataclasses
import importlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from operant.cli.models import Known, find, listing
from operant.cli.options import as_dict
from operant.core.errors import InputError
from operant.core.memory import require_memory
from operant.mdp.episodic import unit_of_rounding
from operant.mdp.model import MDP
from operant.mdp.problems import PROBLEMS, treasure_walk
from operant.mdp.solution import Solution

Method = Literal[
    "auto",
    "value_iteration",
    "modified_policy_iteration",
    "policy_iteration",
    "gauss_seidel",
    "prioritized_sweeping",
]
WORDS = {"gauss_seidel": "Gauss-Seidel", "prioritized_sweeping": "prioritised sweeping"}
"""Methods that are not called as their files are."""
DISCOUNTED = ("value_iteration", "modified_policy_iteration")
"""Methods that need a discount."""
Lines = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Solve a known model: the best policy, and values with a proven distance from the optimum.

    operant solve lists the problems, operant solve cliff solves one. In its place may stand a .csv or .npz file, or an
    environment of Gymnasium that tells its transitions.
    """

    problem: Annotated[Positional[str], tyro.conf.arg(metavar="[PROBLEM]")] = ""
    """A classic problem, a Gymnasium environment, or a file; without it, a list."""
    method: Method = "auto"
    """How; auto = modified policy iteration or, without a discount, policy iteration."""
    gamma: float | None = None
    """The discount of a step; none = what the problem has."""
    error: float = 1e-6
    """The largest distance from the optimal values that is accepted, in every state."""
    horizon: int | None = None
    """Only this many steps, solved backwards and exactly; none = until an end, or for ever."""
    policy: Path | None = None
    """A .csv with the columns state and action: find the values of this policy, not of the best one."""
    env_args: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE ...")] = dataclasses.field(
        default_factory=dict
    )
    """Settings of a Gymnasium environment, such as is_slippery False."""
    rows: int = 20
    """States that are listed in the terminal."""
    threads: int = 0
    """Threads of the sweeps at most; 0 = as many as there are cores. Fewer are used where more are no help."""
    out: Path | None = None
    """A run folder to write values, figures and a report to; none = only print."""


def run(options: Options, resume: bool) -> None:
    from rich.console import Console

    from operant.experiment.drawings import Answer, in_terminal

    if not options.problem:
        print(listing("solve"))
        return
    if options.error == math.inf:
        raise InputError("--error is inf: give a finite number")
    if options.out is not None:
        require_place(options.out)
    known = find(options.problem, options.gamma, options.env_args)
    mdp, given = (known.mdp, None) if options.policy is None else _under(known.mdp, options.policy)
    method = _method(options, mdp.gamma)
    _set_threads(options.threads)
    print(f"{known.name}: {known.words}\n{size(mdp)}\n")
    found, lines = _solved(options, mdp, method)
    policy = found.policy if given is None else given
    answer = Answer(found.value.tolist(), found.error, policy.tolist(), known.names(policy), known.grid)
    console = Console(highlight=False)
    for part in in_terminal(answer, options.rows, console):
        console.print(part)
    for line in notes(known, answer):
        print(line)
    said = verdict(found, options.error, given is not None)
    print(f"{_words(method)}: {found.sweeps} sweeps, {found.seconds:.3g} s\n{said}")
    if options.out is not None:
        _write(options, known, method, found, lines, answer, said)


def require_place(out: Path) -> None:
    """Raises `InputError` unless a run folder can be made in `out`; asked before any work."""
    try:
        if (out / "config.toml").exists():
            raise InputError(f"the run folder {out} exists: another --out starts a new one")
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out} is a file: give the name of a folder")
        if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise InputError(f"--out {out} holds something that is no run: another --out starts a new one")
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        for folder in made:  # it was a trial: who is interrupted leaves nothing behind
            folder.rmdir()
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}; give another folder") from None


def _solved(options: Options, mdp: MDP, method: str) -> tuple[Solution, Lines]:
    try:
        if options.horizon is not None:
            return solve_horizon(mdp, options.horizon, options.error)
        return solve(mdp, method, options.error)
    except InputError as error:
        if options.policy is None:
            raise
        said = str(error).replace(", whatever is done", "")
        raise InputError(f"under the policy of {options.policy}: {said}") from error


def size(mdp: MDP) -> str:
    """How large a model is, in a line."""
    ends = f", {int(mdp.end.sum()):,} of them ends" if mdp.end.any() else ""
    discount = f"discount {mdp.gamma:.10g}" if mdp.gamma < 1 else "no discount"
    return (
        f"{mdp.states:,} states{ends}; {len(mdp.action):,} pairs of state and action, {len(mdp.next_state):,} "
        f"transitions; {discount}"
    )


def _set_threads(threads: int) -> None:
    import numba

    most = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    if threads > most:
        raise InputError(f"threads is {threads}: this machine has {most}")
    numba.set_num_threads(threads or most)


def _method(options: Options, gamma: float) -> str:
    if options.horizon is not None:
        if options.method != "auto":
            raise InputError(f"--horizon is solved backwards, not by {options.method}: leave --method out")
        return "finite_horizon"
    if options.method == "auto":
        return "modified_policy_iteration" if gamma < 1 else "policy_iteration"
    if gamma == 1 and options.method in DISCOUNTED:
        raise InputError(
            f"gamma is 1, and {options.method} needs a discount below 1: take --method policy_iteration, or give "
            "--gamma, such as 0.99"
        )
    return options.method


def _words(method: str) -> str:
    return WORDS.get(method, method.replace("_", " "))


def solve(mdp: MDP, method: str, error: float) -> tuple[Solution, Lines]:
    """(the answer, a line of metrics for every step of the method)."""
    algorithm = importlib.import_module(f"operant.algorithms.planning.{method}")
    algorithm.solve(treasure_walk(3))  # what is compiled now is not timed
    state = algorithm.init(mdp)
    lines = _follow(state, algorithm.train(state, algorithm.Config(error=error)))
    return state.result, lines


def solve_horizon(mdp: MDP, horizon: int, error: float) -> tuple[Solution, Lines]:
    """The same with `horizon` steps left: exact, but for the rounding of so many sweeps."""
    from operant.algorithms.planning import finite_horizon

    needed = (horizon + 1) * (16 * mdp.states + 500)  # a value and an action for each state, and a line of metrics
    require_memory(needed, f"a horizon of {horizon:,} steps in {mdp.states:,} states", "give a shorter --horizon")
    config, begun = finite_horizon.Config(horizon), time.perf_counter()
    state = finite_horizon.init(mdp, config)
    lines = _follow(state, finite_horizon.train(state, config))
    largest = float(np.abs(mdp.reward).max(initial=0.0) + np.abs(state.value).max())
    rounding = horizon * unit_of_rounding(mdp) * largest
    seconds = time.perf_counter() - begun
    return Solution(state.value[-1], state.policy[-1], rounding, rounding <= error, horizon, seconds), lines


def _follow(state: Any, steps: Iterator[dict[str, float]]) -> Lines:
    """The metrics of every step that are finite numbers, with its number and the time."""
    lines, begun = [], time.perf_counter()
    for metrics in steps:
        finite = {name: x for name, x in metrics.items() if math.isfinite(x)}
        lines.append({"step": state.step, "time/seconds": round(time.perf_counter() - begun, 6), **finite})
    return lines


def notes(known: Known, answer: Any) -> Iterator[str]:
    """What the signs mean that were drawn, and what the start is worth where the problem has one."""
    from operant.experiment.drawings import END, WALL

    cells = {END: "·: an episode is over there", WALL: "█: nothing leads there"} if answer.grid else {}
    signs = cells | {"↔": "↔: no choice, a step to either side", "any": "any: to one of the first six states"}
    if used := [words for sign, words in signs.items() if sign in answer.name]:
        yield "; ".join(used)
    begin = PROBLEMS[known.name].begin if known.name in PROBLEMS else None
    if begin is not None:
        yield f"the start, state {begin}, is worth {answer.value[begin]:.6g}"


def verdict(found: Solution, wanted: float, given: bool) -> str:
    """What is guaranteed, and whether it is what was asked for."""
    if not math.isfinite(found.error):
        return f"NOT REACHED: nothing could be proved of these values, and an error of {wanted:.3g} was asked for."
    of = "the policy's" if given else "the optimum"
    said = f"Every value is proven to lie within {found.error:.2g} of {of}"
    loss = "" if given else f"; the policy loses {2 * found.error:.2g} at most"
    if found.reached:
        return f"{said}{loss}. Asked for: {wanted:.3g}."
    why = "rounding or the limit of sweeps allows no less"
    return f"NOT REACHED: an error of {wanted:.3g} was asked for. {said}{loss}; {why}."


def _under(mdp: MDP, path: Path) -> tuple[MDP, NDArray[np.int64]]:
    """(the model in which only the policy's action is left in each state, the policy [S])."""
    from operant.mdp.chain import as_decision_process, policy_reward_process

    policy = read_policy(path, mdp.states)
    if (open_ := np.flatnonzero((policy < 0) & ~mdp.end)).size:
        raise InputError(f"{path}: state {open_[0]} has no action; give a line for every state that is no end")
    try:
        return as_decision_process(policy_reward_process(mdp, policy)), policy
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_policy(path: Path, states: int) -> NDArray[np.int64]:
    """[S]: the column `action` of a .csv by its column `state`, -1 where a state has none: `values.csv` is such a file.

    Raises `InputError` with file and line for what is no policy of a model with so many states.
    """
    found, seen = np.full(states, -1), set[int]()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            for name in ("state", "action"):
                if name not in (lines.fieldnames or ()):
                    raise InputError(
                        f"{path}:1: there is no column {name!r}; a policy has the columns state and action"
                    )
            for cells in lines:
                where = f"{path}:{lines.line_num}"
                try:
                    s, a = int(cells["state"]), int(cells["action"] or -1)
                except (TypeError, ValueError):
                    raise InputError(
                        f"{where}: state and action are whole numbers, not {list(cells.values())}"
                    ) from None
                if not 0 <= s < states:
                    raise InputError(
                        f"{where}: state {s} is none of this model, whose states go from 0 to {states - 1}: the policy "
                        "is another model's"
                    )
                if s in seen:
                    raise InputError(f"{where}: state {s} is there twice; leave one of its lines out")
                seen.add(s)
                found[s] = a
    except OSError as error:
        raise InputError(f"{path}: this policy cannot be read: {error.strerror}; give the name of a .csv") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: this policy cannot be read: it is no table in text; give a .csv") from error
    return found


def _write(options: Options, known: Known, method: str, found: Solution, lines: Lines, answer: Any, said: str) -> None:
    """The run folder, all of it at the end: solving leaves nothing half done behind."""
    from operant.experiment.drawings import FILE, HEADER
    from operant.experiment.files import atomic_write
    from operant.experiment.report import write_report
    from operant.experiment.run import open_run

    assert options.out is not None
    folder = open_run(options.out, "solve", as_dict(options), False)
    lines[-1].setdefault("bound/error", found.error)
    atomic_write(options.out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    rows = [HEADER, *answer.lines()]
    atomic_write(options.out / FILE, "".join(",".join(map(str, row)) + "\n" for row in rows))
    figures = {
        "error": found.error, "error_asked_for": options.error, "sweeps": found.sweeps, "seconds": found.seconds,
        "states": known.mdp.states, "transitions": len(known.mdp.next_state), "gamma": known.mdp.gamma,
    }  # fmt: skip
    words = {"title": f"{known.name}, {_words(method)}", "verdict": said, "reached": found.reached}
    finite = {name: x for name, x in figures.items() if math.isfinite(x)}
    folder.finish({**words, "method": method, "grid": known.grid, **finite})
    write_report([options.out], options.out / "report.html")
    print(f"the report is {options.out / 'report.html'}, the values are in {options.out / FILE}")
