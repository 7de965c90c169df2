"""`operant bandit`: bandit algorithms side by side in one world, many runs at once.

Each algorithm is a run folder of its own within the run's; all meet the same arms and the same noise.
"""

import dataclasses
import difflib
import math
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

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
from operant.algorithms.bandit.epsilon_greedy import Config as EpsilonGreedy
from operant.algorithms.bandit.exp3 import Config as EXP3
from operant.algorithms.bandit.gradient import Config as Gradient
from operant.algorithms.bandit.kl_ucb import Config as KLUCB
from operant.algorithms.bandit.linear_thompson import Config as LinearThompson
from operant.algorithms.bandit.linucb import Config as LinUCB
from operant.algorithms.bandit.thompson import Config as Thompson
from operant.algorithms.bandit.ucb import Config as UCB
from operant.bandits import problems
from operant.bandits.bounds import lai_robbins
from operant.bandits.play import standard_error
from operant.bandits.worlds import Adversarial, Bernoulli, Gaussian, Unfit, World
from operant.cli.folder import last_metrics, pending, start
from operant.cli.options import as_dict
from operant.core.errors import InputError
from operant.core.memory import require_memory
from operant.experiment.run import Run, open_run

ALGORITHMS: dict[str, Any] = {
    "greedy": epsilon_greedy,
    "epsilon_greedy": epsilon_greedy,
    "decaying": epsilon_greedy,
    "optimistic": epsilon_greedy,
    "ucb": ucb,
    "kl_ucb": kl_ucb,
    "thompson": thompson,
    "gradient": gradient,
    "exp3": exp3,
    "linucb": linucb,
    "linear_thompson": linear_thompson,
}
WORLDS = ("bernoulli", "gaussian", "random_walk", "abrupt", "adversarial", "linear", "disjoint")
OF_WORLDS = {
    "means": ("bernoulli", "gaussian"),
    "deviation": ("gaussian", "random_walk", "linear", "disjoint"),
    "table": ("adversarial",),
}
"""Options that have a say in these worlds alone."""
LARGEST = 1e50
"""The size of a setting at most; 1 / LARGEST at least."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare bandit algorithms in one world: regret, reward and the share of optimal actions, with errors.

    Worlds: bernoulli (rewards 0 or 1), gaussian (the k-armed testbed), random_walk and abrupt (arms that change),
    adversarial (a table of rewards that leads one algorithm astray, or --table FILE), linear (features of each arm)
    and disjoint (features of the step).

    Algorithms: greedy, epsilon_greedy, decaying and optimistic (four settings of epsilon-greedy), ucb, kl_ucb,
    thompson, gradient, exp3; linucb and linear_thompson where there are features. Each has its own options below.
    """

    out: Path = Path("runs/bandit")
    """The run folder to write; each algorithm has a folder in it."""
    algorithms: tuple[str, ...] = ("greedy", "epsilon_greedy", "ucb", "kl_ucb", "thompson", "gradient")
    """Names of the algorithms to compare, with spaces between them."""
    world: str = "bernoulli"
    """Name of the world they play in."""
    arms: int = 10
    """Arms of every run."""
    steps: int = 1000
    """Steps of every run."""
    runs: int = 2000
    """Runs played side by side, each with arms of its own; figures are means over them."""
    means: tuple[float, ...] = ()
    """What the arms pay on average, the same in every run (bernoulli, gaussian); by default drawn anew for each."""
    deviation: float | None = None
    """Standard deviation of a reward (gaussian, random_walk, linear, disjoint); none = 1, or 0.1 with features."""
    walk: float = 0.01
    """How far a mean moves in a step: a standard deviation (random_walk)."""
    changes: int = 3
    """How often all arms change (abrupt)."""
    features: int = 5
    """Number of features (linear, disjoint)."""
    table: Path | None = None
    """Rewards from 0 to 1 as CSV, a line a step, a column an arm (adversarial)."""
    against: str = "ucb"
    """The algorithm that the adversary leads astray: ucb, kl_ucb or optimistic, which leave nothing to chance."""
    seed: int = 0
    """Seed of every random choice."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 = by time, about every 30 seconds."""
    greedy: EpsilonGreedy = dataclasses.field(default_factory=lambda: EpsilonGreedy(epsilon=0.0))
    epsilon_greedy: EpsilonGreedy = dataclasses.field(default_factory=EpsilonGreedy)
    decaying: EpsilonGreedy = dataclasses.field(default_factory=lambda: EpsilonGreedy(epsilon=1.0, decay=0.1))
    optimistic: EpsilonGreedy = dataclasses.field(
        default_factory=lambda: EpsilonGreedy(epsilon=0.0, initial=5.0, step_size=0.1)
    )
    ucb: UCB = dataclasses.field(default_factory=UCB)
    kl_ucb: KLUCB = dataclasses.field(default_factory=KLUCB)
    thompson: Thompson = dataclasses.field(default_factory=Thompson)
    gradient: Gradient = dataclasses.field(default_factory=Gradient)
    exp3: EXP3 = dataclasses.field(default_factory=EXP3)
    linucb: LinUCB = dataclasses.field(default_factory=LinUCB)
    linear_thompson: LinearThompson = dataclasses.field(default_factory=LinearThompson)


def run(options: Options, resume: bool) -> None:
    if not pending(options.out, resume):
        return
    check(options)
    begun = time.monotonic()
    bound = lai_robbins(make_world(options))
    rewards = read_table(options.table).tolist() if options.table is not None else []
    folder = start(options, "bandit", resume, rewards)
    stages = {name: play(options, name) for name in options.algorithms}
    summary: dict[str, Any] = {"title": f"Bandits: {options.world}, {options.arms} arms", "stages": stages}
    if bound and options.steps > 1:  # the bound at ln 1 says nothing
        summary["lai_robbins"] = {"slope": bound, "regret": bound * math.log(options.steps)}
    folder.finish(summary)
    from operant.experiment.report import write_report

    write_report([options.out], options.out / "report.html")
    show(options, summary)
    print(f"{options.out / 'report.html'} shows the curves; {time.monotonic() - begun:.0f} seconds")


def check(options: Options) -> None:
    """Raises `InputError` for what does not go together, before anything is written."""
    if not 0 <= options.seed < 2**32:
        raise InputError(f"the seed is {options.seed}: give a whole number from 0 to {2**32 - 1}")
    _require_known(options.world, WORLDS, "world")
    if not options.algorithms:
        raise InputError(f"algorithms is empty: name some of {', '.join(ALGORITHMS)}")
    for name in options.algorithms:
        _require_known(name, ALGORITHMS, "algorithm")
    if len(set(options.algorithms)) < len(options.algorithms):
        raise InputError(f"algorithms names one twice ({' '.join(options.algorithms)}): name each once")
    if options.arms < 2:
        raise InputError(f"arms is {options.arms}: a bandit has at least 2")
    if options.runs < 2:
        raise InputError("runs is 1: an error is estimated from how runs differ, so give at least 2")
    for name, worlds in OF_WORLDS.items():
        if getattr(options, name) not in (None, ()) and options.world not in worlds:
            raise InputError(f"{name} is for the world {' or '.join(worlds)}, and the world is {options.world}")
    if options.means and len(options.means) != options.arms:
        raise InputError(f"means has {len(options.means)} numbers and arms is {options.arms}: give one for each arm")
    _require_usable(options)
    size = f"arms x runs, {options.arms:,} x {options.runs:,},"
    require_memory(8 * numbers(options), size, "take fewer arms or runs, or fewer features, steps or changes")
    world = make_world(options)
    unfit = {}
    for name, module in ALGORITHMS.items():
        try:
            module.init(world, getattr(options, name))
        except Unfit as error:
            unfit[name] = error
    for name in options.algorithms:
        if name in unfit:
            fit = ", ".join(other for other in ALGORITHMS if other not in unfit)
            raise InputError(f"{unfit[name]}. Those that fit --world {options.world}: {fit}")


def _require_usable(options: Any, prefix: str = "") -> None:
    """Raises `InputError` for a setting whose square, or that of a sum of it, is no number any more."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            _require_usable(value, f"{prefix}{field.name}.")
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, float) and x != 0 and not 1 / LARGEST <= abs(x) <= LARGEST:
                sizes = f"from {1 / LARGEST:g} to {LARGEST:g}"
                raise InputError(f"{prefix}{field.name} is {x}: give 0, or a number whose size is {sizes}")


def numbers(options: Options) -> int:
    """How many numbers a world and one algorithm in it hold at most, roughly."""
    pairs = options.arms * options.runs
    more = {
        "abrupt": options.changes * pairs,
        "adversarial": 3 * options.steps * options.arms,
        "linear": 4 * options.features * pairs + 8 * options.features**2 * options.runs,
        "disjoint": 4 * options.features**2 * pairs,
    }
    return 8 * pairs + more.get(options.world, 0)


def _require_known(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, [*known], 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"there is no {what} {name!r}; {hint}")


def read_table(path: Path) -> np.ndarray:
    """[T, K]: rewards from a CSV file. Raises `InputError` where it cannot be read as numbers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # what numpy says of a file without a line
            return np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8")
    except UserWarning:
        raise InputError(f"the table {path} is empty: give numbers with commas between them, a line a step") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"the table {path} cannot be read ({error}): give numbers with commas between them, a line a step"
        ) from None


def make_world(options: Options) -> World:
    """The world of the run, made anew with the same random numbers for each algorithm."""
    rng = np.random.default_rng([options.seed, 1])
    runs, arms, steps = options.runs, options.arms, options.steps
    given = np.tile(np.array(options.means), (runs, 1))
    match options.world:
        case "bernoulli":
            return Bernoulli(given, rng) if options.means else problems.bernoulli(runs, arms, rng)
        case "gaussian":
            world = Gaussian(given, rng) if options.means else problems.gaussian(runs, arms, rng)
        case "random_walk":
            world = dataclasses.replace(problems.random_walk(runs, arms, rng), walk=options.walk)
        case "abrupt":
            return problems.abrupt(runs, arms, rng, steps, options.changes)
        case "adversarial" if options.table is not None:
            world = Adversarial(read_table(options.table), runs, rng)
            if world.table.shape != (steps, arms):
                raise InputError(
                    f"the table {options.table} has {len(world.table)} lines of {world.shape[1]} numbers, and the run "
                    f"{steps} steps of {arms} arms: give --steps and --arms as in the table"
                )
            return world
        case "adversarial":
            return make_adversary(options, rng)
        case "linear":
            world = problems.linear(runs, arms, rng, options.features)
        case _:
            world = problems.disjoint(runs, arms, rng, options.features)
    return world if options.deviation is None else dataclasses.replace(world, deviation=options.deviation)


def make_adversary(options: Options, rng: np.random.Generator) -> World:
    _require_known(options.against, ("ucb", "kl_ucb", "optimistic"), "algorithm without chance")
    module, config = ALGORITHMS[options.against], getattr(options, options.against)
    return problems.adversarial(
        options.runs, options.arms, rng, lambda world: module.train(module.init(world, config), config, options.steps)
    )


def play(options: Options, name: str) -> dict[str, Any]:
    """Run one algorithm, or what is left of it, in a run folder of its own; its final figures."""
    folder, module, config = options.out / name, ALGORITHMS[name], getattr(options, name)
    settings = {"algorithm": name, "world": options.world, "steps": options.steps, "runs": options.runs}
    stage = open_run(folder, "bandit", {**settings, name: as_dict(config)}, (folder / "config.toml").is_file())
    if stage.finished:
        return stage.summary()
    state = module.init(make_world(options), config, options.seed)
    stage.restore(state)
    metrics = module.train(state, config, options.steps, every=max(options.steps // 100, 1))
    saving = options.checkpoint_every or None
    stage.follow(state, metrics, options.steps, every_steps=saving, show=("bandit/regret",), whole=options.out)
    stage.finish(figures(stage, state, options.steps))
    return stage.summary()


def figures(stage: Run, state: Any, steps: int) -> dict[str, Any]:
    """Mean, standard error and 95% interval over runs: reward a step, optimal actions at the end, regret."""
    reward, last = state.totals.reward / steps, last_metrics(stage)
    found = {
        "regret": (last["bandit/regret"], last["bandit/regret_error"]),
        "reward_per_step": (float(reward.mean()), standard_error(reward)),
        "optimal_action": (last["bandit/optimal_action"], last["bandit/optimal_action_error"]),
    }
    return {
        name: {"mean": mean, "error": error, "low": mean - 1.96 * error, "high": mean + 1.96 * error}
        for name, (mean, error) in found.items()
    }


def show(options: Options, summary: dict[str, Any]) -> None:
    """The final figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{options.world}, {options.arms} arms, {options.steps:,} steps, {options.runs:,} runs")
    bound = summary.get("lai_robbins")
    table.add_column("algorithm", no_wrap=True)
    for head in ("regret", "reward a step", "optimal arm", *(["÷ bound"] if bound else [])):
        table.add_column(head, justify="right")
    stages = summary["stages"]
    for name in sorted(stages, key=lambda name: stages[name]["regret"]["mean"]):
        regret, reward, optimal = (stages[name][key] for key in ("regret", "reward_per_step", "optimal_action"))
        cells = [
            f"{regret['mean']:.1f} ± {regret['error']:.1f}",
            f"{reward['mean']:.4f} ± {reward['error']:.4f}",
            f"{optimal['mean']:.1%} ± {optimal['error']:.1%}",
        ]
        table.add_row(name, *cells, *([f"{regret['mean'] / bound['regret']:.2f}"] if bound else []))
    console = Console()
    console.print(table)
    console.print("±: standard error over runs. Optimal arm: how often at the end; the others are of all steps.")
    if bound:
        console.print(
            f"The bound of Lai and Robbins, {bound['slope']:.1f} ln t, is {bound['regret']:.1f} here. It holds in the "
            "long run: early on, regret may lie below it."
        )
