"""What `operant learn` says at the end: how good the policy is that was learned, and how far from the best."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operant.algorithms.planning import modified_policy_iteration, policy_iteration
from operant.core.compiled import loop_on
from operant.core.errors import InputError
from operant.core.random import stream
from operant.core.statistics import Estimate
from operant.mdp.chain import policy_reward_process
from operant.mdp.model import MDP
from operant.mdp.simulator import follow

LAST = 100
"""Episodes at the end of learning whose mean return is a figure."""
MODEL_STEPS, ENVIRONMENT_STEPS = 20_000_000, 200_000
"""Steps at most in which the greedy policy of a learner is tried: a few seconds in compiled and in plain loops."""


def conclude(task: Any, folder: Any, states: list[Any]) -> None:
    """Summary, values and report; the figures are printed."""
    from rich.console import Console

    from operant.experiment.drawings import FILE, in_terminal
    from operant.experiment.files import atomic_write
    from operant.experiment.report import write_report

    options = task.options
    summary: dict[str, Any] = {"title": f"{options.problem}, {options.method.replace('_', ' ')}"}
    summary |= returns(task, states)
    answer = None
    if task.known is not None:
        summary |= compared(task, states)
        answer = drawn(task, states[0].w)
        summary["grid"] = task.known.grid
        rows = [answer.header, *answer.lines()]
        atomic_write(options.out / FILE, "".join(",".join(map(str, row)) + "\n" for row in rows))
        console = Console(highlight=False)
        print()
        if options.seeds > 1:
            print(f"What the learner with the seed {options.seed} found, the first of {options.seeds}:")
        for part in in_terminal(answer, options.rows, console):
            console.print(part)
    summary["episodes"] = float(np.mean([state.world.place[2] for state in states]))
    summary["steps"] = options.learning.steps
    summary["verdict"] = verdict(summary, options, tried(task))
    folder.finish({name: value for name, value in summary.items() if value is not None})
    write_report([options.out], options.out / "report.html")
    print(f"{summary['verdict']}\nthe report is {options.out / 'report.html'}")


def interval(x: Any) -> dict[str, float] | None:
    """Mean and 95% interval; None where there is nothing."""
    x = np.asarray(x, dtype=np.float64)
    if not len(x):
        return None
    mean, error = float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else 0.0
    return Estimate(mean, mean - 1.96 * error, mean + 1.96 * error).to_dict()


def returns(task: Any, states: list[Any]) -> dict[str, Any]:
    """Of the last episodes while learning, and of the greedy policy without it; over episodes, or means over seeds."""
    options, while_learning, without = task.options, [], []
    most = tried(task)
    for seed, state in enumerate(states):
        total, kept = int(state.world.place[2]), len(state.world.returns)
        while_learning.append(state.world.returns[np.arange(max(0, total - LAST), total) % kept])
        world = task.world(options.seed + options.seeds + seed)
        loop_on(world, follow)(world, state.w, stream(options.seed + seed, 3), options.trials, most)
        without.append(world.returns[: min(options.trials, world.place[2])])
    found: dict[str, Any] = {"last_episodes": [min(map(len, while_learning)), max(map(len, while_learning))]}
    found["greedy_episodes"] = sum(map(len, without))
    if len(states) > 1:
        while_learning, without = ([x.mean() for x in several if len(x)] for several in (while_learning, without))
    else:
        while_learning, without = while_learning[0], without[0]
    return found | {"return_while_learning": interval(while_learning), "greedy_return": interval(without)}


def tried(task: Any) -> int:
    """Steps at most for the greedy policy of a learner."""
    most = MODEL_STEPS if task.on_model else ENVIRONMENT_STEPS
    return min(task.options.trials * task.options.limit, most)


def greedy_rows(mdp: MDP, w: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(max_a Q(s, a) [S], the best action's row [S]; 0 and -1 at ends)."""
    value, rows = np.zeros(mdp.states), np.full(mdp.states, -1)
    for s in np.flatnonzero(~mdp.end[: len(w)]):
        q = w[s, : mdp.first[s + 1] - mdp.first[s]]
        value[s], rows[s] = q.max(), mdp.first[s] + q.argmax()
    return value, rows


def actions_of(mdp: MDP, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """[S]: the actions of rows, -1 where there is none."""
    return np.where(rows >= 0, mdp.action[rows], -1).astype(np.int64)


def compared(task: Any, states: list[Any]) -> dict[str, Any]:
    """Discounted values from the start: of the greedy policy, exactly; of the best one; how far Q is."""
    mdp, begin = task.known.mdp, task.begin
    solver = policy_iteration if mdp.gamma == 1 else modified_policy_iteration
    try:
        best = solver.solve(mdp)
    except InputError:  # without a discount some models have no finite optimum, or none that can be proved
        best = None
    found: dict[str, Any] = {}
    values = [exact_value(mdp, state.w, begin) for state in states]
    finite = [round(x, 9) for x in values if x is not None]
    found["endless_greedy_policies"] = len(values) - len(finite) or None
    if finite:
        found["greedy_value"] = interval(finite) if len(states) > 1 else finite[0]
    if best is not None:
        found["optimal_value"] = round(float(begin @ best.value), 9)
        distance = [abs(float(begin @ greedy_rows(mdp, state.w)[0]) - found["optimal_value"]) for state in states]
        found["start_value_error"] = interval(distance) if len(states) > 1 else distance[0]
    return found


def exact_value(mdp: MDP, w: NDArray[np.float64], begin: NDArray[np.float64]) -> float | None:
    """What the greedy policy is worth from the start, by the Bellman equation; None if it never ends, undiscounted."""
    _, rows = greedy_rows(mdp, w)
    policy = actions_of(mdp, rows)
    try:
        return float(begin @ policy_reward_process(mdp, policy).value())
    except InputError:
        pass
    # From some state it does not end: that is of no account if the start never leads there.
    process = policy_reward_process(mdp, policy)
    keep = np.flatnonzero(reached(process.chain.transition, np.arange(mdp.states), begin > 0))
    inner = dataclasses.replace(process.chain, transition=process.chain.transition[keep][:, keep])
    try:
        value = dataclasses.replace(process, chain=inner, reward=process.reward[keep], end=mdp.end[keep]).value()
    except InputError:
        return None
    return float(begin[keep] @ value)


def drawn(task: Any, w: NDArray[np.float64]) -> Any:
    """The values and the policy of the first learner, without bounds: nothing proves what was learned.

    Cells of a grid that cannot be reached are drawn as what nothing leads to. Where all values still are as they began,
    the policy is unknown: the state was never visited, or all that was seen there was worth just that.
    """
    from operant.experiment.drawings import END, UNKNOWN, WALL, Answer

    mdp = task.known.mdp
    value, rows = greedy_rows(mdp, w)
    action = actions_of(mdp, rows)
    names, there = task.known.names(action), reached(mdp.matrix(), mdp.row_states(), task.begin > 0)
    for s, name in enumerate(names):
        if task.known.grid is not None and not there[s] and s not in task.known.over:
            names[s] = WALL
        elif name not in (END, WALL) and (w[s] == task.options.learning.initial).all():
            names[s] = UNKNOWN
    return Answer(value.tolist(), None, action.tolist(), names, task.known.grid)


def reached(matrix: Any, owner: NDArray[np.int64], begin: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[S]: where the rows of `matrix`, each of a state of `owner`, can lead from the states in `begin`."""
    found, frontier = begin, begin
    while frontier.any():
        frontier = (matrix.T @ frontier[owner].astype(np.float64) > 0) & ~found
        found = found | frontier
    return found


def verdict(summary: dict[str, Any], options: Any, steps: int) -> str:
    """The figures in words; `steps` are those that the greedy policy had at most."""
    lines = []
    fewest, most = summary["last_episodes"]
    last = f"{fewest} to {most}" if fewest < most else most
    all_, done = options.trials * options.seeds, summary["greedy_episodes"]
    trials = f"{done} of {all_} episodes (the others were not finished in {steps:,} steps)" if done < all_ else all_
    for name, words in (
        ("return_while_learning", f"mean return of the last {last} episodes while learning"),
        ("greedy_return", f"mean return of the greedy policy, {trials}" + " episodes" * (done == all_)),
    ):
        if summary.get(name):
            figure = Estimate(*(summary[name][key] for key in ("mean", "low", "high")))
            spread = f" ({figure.low:.4g} to {figure.high:.4g})" if figure.high > figure.low else ""
            lines.append(f"{words}: {figure.mean:.4g}{spread}")
    if not summary.get("greedy_return"):
        lines.append(f"the greedy policy finished no episode in {steps:,} steps")
    value, best = summary.get("greedy_value"), summary.get("optimal_value")
    if endless := summary.get("endless_greedy_policies"):
        whose = "the greedy policy" if options.seeds == 1 else f"the greedy policy of {endless} of the learners"
        lines.append(
            f"{whose} can go round for ever, and without a discount that has no value: learn longer (--steps), explore "
            "more (--epsilon), or discount (--gamma 0.99)"
        )
    if value is not None and best is not None:
        value = value["mean"] if isinstance(value, dict) else value
        gamma = options.learning.gamma
        words = "value from the start" if gamma == 1 else f"value from the start with the discount {gamma:.10g}"
        lines.append(f"{words}, exactly: {value:.6g}; the best there is: {best:.6g}")
    return ". ".join(line[0].upper() + line[1:] for line in lines) + "."
