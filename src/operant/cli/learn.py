"""`operant learn`: learn to act from samples, with a table or with linear features, in a model or an environment."""

import dataclasses
import difflib
import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes, Positional, arg

from operant.cli.models import Known, find, listing, make_environment
from operant.cli.options import flag
from operant.core.control import Learning, Metrics
from operant.core.errors import Diverged, InputError
from operant.core.linear import Active
from operant.mdp.files import SUFFIXES
from operant.mdp.problems import PROBLEMS

Method = Literal[
    "q_learning", "double_q_learning", "sarsa", "expected_sarsa", "sarsa_lambda", "n_step_sarsa",
    "monte_carlo_control", "dyna_q", "prioritized_dyna",
]  # fmt: skip
FAMILIES = {"dyna_q": "planning", "prioritized_dyna": "planning"}
"""Where the methods are that are not with the others."""
LIMIT = 1000
"""Steps after which an episode is cut in a problem that says nothing of it."""
KEPT = 1000
"""Episodes whose returns are kept; the last hundred of them are a figure at the end."""
PROBE = 2000
"""Random steps from which the range of observations is taken where an environment does not tell it."""
MOST = 20_000_000
"""Features at most: what fits into memory for a handful of actions."""
BOUNDLESS = 1e6
"""A bound this large is none: the range is then taken from what is seen, and half as much again on either side."""


@dataclasses.dataclass(frozen=True)
class Particular:
    """Settings that only some methods have; none = what the method has."""

    lambda_: Annotated[float | None, arg(name="lambda")] = None
    """sarsa_lambda: how slowly credit fades; 0 = SARSA, 1 = Monte Carlo (none = 0.9)."""
    trace: Literal["accumulating", "replacing", "dutch"] | None = None
    """sarsa_lambda: what another visit does to a trace; dutch = true online (none = replacing)."""
    n: int | None = None
    """n_step_sarsa: rewards that are taken as they came (none = 4)."""
    expected: bool | None = None
    """n_step_sarsa: go on from the mean over the next action (none = false)."""
    target_epsilon: float | None = None
    """expected_sarsa: epsilon of the policy that is valued; none = of the one that is followed."""
    glie: bool | None = None
    """monte_carlo_control: epsilon = 1/k in episode k (none = true)."""
    average: bool | None = None
    """monte_carlo_control: values are means of returns, not steps by alpha (none = true for tables)."""
    first_visit: bool | None = None
    """monte_carlo_control: only the first visit in an episode counts (none = true for tables)."""
    planning_steps: int | None = None
    """dyna_q, prioritized_dyna: updates from the learned model after every step (none = 10)."""
    threshold: float | None = None
    """prioritized_dyna: changes up to this are not worth an update (none = 0.0001)."""


@dataclasses.dataclass(frozen=True)
class Observations:
    """How observations that are no numbers of states become features."""

    features: Literal["auto", "none", "tiles", "fourier", "polynomial", "radial"] = "auto"
    """Features of observations; auto = none where they are numbers of states, else tiles."""
    tilings: int = 8
    """tiles: grids laid over one another, each displaced."""
    tiles: int = 8
    """tiles: tiles of a grid in each dimension."""
    order: int = 3
    """fourier, polynomial: the highest frequency or power; radial: one less than the centres in each dimension."""
    low: tuple[float, ...] = ()
    """Least observation in each dimension; empty = what the environment says or, where it says nothing, was seen."""
    high: tuple[float, ...] = ()
    """Largest observation."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Learn to act from samples, with a table or with linear features.

    operant learn lists the problems. operant learn cliff --method sarsa learns one. Problems whose model is known are
    compiled with the method and run at millions of steps a second; others run in their environment.

    Methods: q_learning, double_q_learning, sarsa, expected_sarsa, sarsa_lambda, n_step_sarsa, monte_carlo_control,
    dyna_q, prioritized_dyna. The last two learn a model of the world and plan in it.
    """

    problem: Positional[str] = ""
    """A classic problem, a Gymnasium environment with discrete actions (yours as module:Name-v0), or a model in a file;
    without it, a list."""
    method: Method = "q_learning"
    """How to learn."""
    on: Literal["auto", "model", "environment"] = "auto"
    """Draw from the known model, or step the environment itself; auto = the model where it is known."""
    learning: OmitArgPrefixes[Learning] = dataclasses.field(default_factory=Learning)
    particular: OmitArgPrefixes[Particular] = dataclasses.field(default_factory=Particular)
    observations: OmitArgPrefixes[Observations] = dataclasses.field(default_factory=Observations)
    limit: int | None = None
    """Steps after which an episode is cut off; none = as the environment has it, or 1000."""
    env_args: dict[str, str] = dataclasses.field(default_factory=dict)
    """Settings of a Gymnasium environment, such as is_slippery False."""
    seeds: int = 1
    """Learners with seeds of their own; figures are then means over them, with intervals."""
    seed: int = 0
    """Seed of every random choice."""
    trials: int = 100
    """Episodes that the policy learned plays greedily at the end, for each seed."""
    rows: int = 20
    """States that are listed in the terminal where they are no grid."""
    checkpoint_every: int = 0
    """Reports between checkpoints; 0 = by time, about every 30 seconds."""
    out: Path = Path("runs/learn")
    """The run folder to write."""


class Scaled(NamedTuple):
    """Features whose squares sum to 1 on average, so that alpha is the share of an error that an update removes."""

    features: Any
    scale: float

    @property
    def size(self) -> int:
        return self.features.size

    def __call__(self, observation: Any) -> Active:
        x = self.features(observation)
        return Active(x.index, self.scale * x.weight)


@dataclasses.dataclass
class Learners:
    """One state of the method for every seed."""

    states: list[Any]
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned: a world for every seed, and the model where it is known."""

    options: Options
    """With all that was left open filled in."""
    known: Known | None
    begin: NDArray[np.float64] | None
    """[S]: the chance that an episode begins in each state of the model."""
    features: Any

    @property
    def on_model(self) -> bool:
        return self.options.on == "model"

    def world(self, seed: int) -> Any:
        """A new world, the same for the same seed."""
        from operant.envs.world import World
        from operant.mdp.simulator import simulator

        if self.on_model:
            assert self.known is not None
            assert self.begin is not None
            return simulator(self.known.mdp, self.begin, seed, self.options.limit or 0, episodes=KEPT)
        env = make_environment(self.options.problem, self.options.env_args, self.options.limit)
        return World(env, seed, self.features, KEPT)


def run(options: Options, resume: bool) -> None:
    if not options.problem:
        print(overview())
        return
    from operant.cli import common

    if not common.pending(options.out, resume):
        return
    task = prepare(options)
    options = task.options
    module, config = method_of(options)
    learners = Learners([begun(task, module, config, seed) for seed in seeds(options)])
    print(described(task))
    compile_for(task, module, config)
    folder = common.start(options, "learn", resume, [])
    if folder.restore(learners) and not task.on_model and not learners.states[0].world.resumes:
        print("the state of this environment cannot be saved: each learner goes on with a new episode")
    total, show = options.learning.steps, ("rollout/episode_return", "rollout/episodes")
    folder.follow(learners, train(learners, module, config), total, every_steps=options.checkpoint_every, show=show)
    from operant.cli.learned import conclude

    conclude(task, folder, learners.states)


def overview() -> str:
    """What can be learned, how, and where to begin."""
    lines = []
    for name in get_args(Method):
        words = (importlib.import_module(path_of(name)).__doc__ or "").splitlines()[0]
        lines.append(f"  {name:<20} {words.partition(': ')[2] or words}")
    return (
        listing("learn")
        + "\nor any environment of Gymnasium with discrete actions: MountainCar-v0, CartPole-v1, Acrobot-v1.\n\n"
        "--method is one of\n\n" + "\n".join(lines) + "\n\n"
        "Start with: operant learn cliff --method sarsa, and then --method q_learning into another --out"
    )


def path_of(method: str) -> str:
    return f"operant.algorithms.{FAMILIES.get(method, 'temporal_difference')}.{method}"


def method_of(options: Options) -> tuple[Any, Any]:
    """(module, its Config). Raises `InputError` for a setting that belongs to another method."""
    module = importlib.import_module(path_of(options.method))
    names = {field.name for field in dataclasses.fields(module.Config)}
    given = {name: x for name, x in vars(options.particular).items() if x is not None}
    for name in given:
        if name not in names:
            raise InputError(
                f"{flag(Particular, name)} is no setting of {options.method}: operant learn --help says whose it is"
            )
    if options.method == "monte_carlo_control" and options.observations.features != "none":
        given = {"average": False, "first_visit": False} | given
    return module, module.Config(**vars(options.learning), **given)


def begun(task: Task, module: Any, config: Any, seed: int) -> Any:
    """A learner before its first step. A setting that the method refuses is called as it is typed."""
    try:
        return module.init(task.world(seed), config, seed)
    except InputError as error:
        name, _, rest = str(error).partition(" ")
        if name not in vars(config):
            raise
        raise InputError(f"{flag(Particular, name)} {rest}") from error


def compile_for(task: Task, module: Any, config: Any) -> None:
    """One step of a learner that is then forgotten: what is compiled for it does not count as learning."""
    next(train(Learners([begun(task, module, config, 0)]), module, dataclasses.replace(config, report_every=1)))


def seeds(options: Options) -> range:
    return range(options.seed, options.seed + options.seeds)


def prepare(options: Options) -> Task:
    """The problem, and the options with all that was left open filled in. Raises `InputError` for what cannot be."""
    import gymnasium

    if not 0 <= options.seed <= 2**32 - options.seeds:
        raise InputError(f"the seed is {options.seed}: give a whole number from 0 to {2**32 - options.seeds}")
    env = None
    _require_finite(options)
    _require_known(options.problem)
    if options.problem in gymnasium.registry or ":" in options.problem:
        env = make_environment(options.problem, options.env_args)
    elif options.on == "environment":
        raise InputError(f"{options.problem} is no environment of Gymnasium: leave out --on environment")
    tells = env is None or all(hasattr(env.unwrapped, name) for name in ("P", "initial_state_distrib"))
    if options.on == "model" and not tells:
        raise InputError(f"{options.problem} does not tell its model: leave out --on model")
    known = find(options.problem.rpartition(":")[2], options.learning.gamma, options.env_args) if tells else None
    on = ("model" if known else "environment") if options.on == "auto" else options.on
    limit = options.limit or (env.spec.max_episode_steps if env is not None and env.spec is not None else None) or LIMIT
    gamma = options.learning.gamma if options.learning.gamma is not None else known.mdp.gamma if known else 0.99
    learning = dataclasses.replace(options.learning, gamma=gamma)
    options = dataclasses.replace(options, on=on, limit=limit, learning=learning)
    _require_useful_n(options)
    begin = begins(options.problem, known, env) if known else None
    options, features = _seen(options, env)
    return Task(options, known, begin, features)


def _require_finite(options: Options) -> None:
    """Raise `InputError` for a setting that is infinite or no number."""
    for part in (options.learning, options.particular, options.observations):
        for name, value in vars(part).items():
            for x in value if isinstance(value, tuple) else (value,):
                if isinstance(x, float) and not math.isfinite(x):
                    raise InputError(f"{flag(type(part), name)} is {x}: give a finite number")


def _require_useful_n(options: Options) -> None:
    """Raise `InputError` where n steps are more than an episode or the run can have."""
    most = min(options.limit or options.learning.steps, options.learning.steps)
    if options.method == "n_step_sarsa" and (options.particular.n or 0) > most:
        which = "an episode here is cut off after (--limit)" if most == options.limit else "the run has (--steps)"
        raise InputError(f"--n is {options.particular.n}: give at most {most}, the steps that {which}; more do nothing")


def _require_known(name: str) -> None:
    """Raise `InputError` with the nearest names unless there is a problem, an environment or a file of this name."""
    import gymnasium

    if name in PROBLEMS or name in gymnasium.registry or ":" in name:
        return
    if Path(name).suffix in SUFFIXES or Path(name).exists():
        return
    known = {known.lower(): known for known in (*PROBLEMS, *gymnasium.registry)}
    near = [known[x] for x in difflib.get_close_matches(name.lower(), known, 3, 0.7)]
    hint = f"did you mean {' or '.join(near)}?" if near else "operant learn without arguments says what there is"
    raise InputError(f"there is no problem, no .csv or .npz file and no Gymnasium environment called {name!r}; {hint}")


def begins(problem: str, known: Known, env: Any) -> NDArray[np.float64]:
    """[S]: as the environment draws its first states, in the state that the problem names, or in any that is no end."""
    mdp = known.mdp
    if env is not None:
        chance = np.append(np.asarray(env.unwrapped.initial_state_distrib, dtype=np.float64), 0.0)
    elif problem in PROBLEMS and (state := PROBLEMS[problem].begin) is not None:
        chance = np.eye(1, mdp.states, state)[0]
    else:
        chance = (~mdp.end).astype(np.float64)
    return chance / chance.sum()


def _seen(options: Options, env: Any) -> tuple[Options, Any]:
    """(the options with features, box and α filled in, the features or None)."""
    import gymnasium

    from operant.core.features import fourier, polynomial, radial_basis, tiles
    from operant.envs.world import rows_of

    seeing = options.observations
    space = None if env is None else env.observation_space
    if env is not None and not isinstance(env.action_space, gymnasium.spaces.Discrete):
        raise InputError(
            f"{options.problem} has the actions {env.action_space}: these methods choose among a few, so it needs a "
            "Discrete space"
        )
    if space is not None and not isinstance(space, gymnasium.spaces.Box) and rows_of(space) is None:
        raise InputError(
            f"{options.problem} shows {space}: these methods learn from numbers of states, from a few such numbers at "
            "once or from boxes of numbers; wrap the environment so that it shows one of them"
        )
    if not isinstance(space, gymnasium.spaces.Box):
        if seeing.features not in ("auto", "none"):
            raise InputError(
                f"{options.problem} has numbers of states: a table is exact; leave out --features {seeing.features}"
            )
        return dataclasses.replace(options, observations=dataclasses.replace(seeing, features="none")), None
    if seeing.features == "none":
        raise InputError(f"{options.problem} shows {space}: a table cannot hold it; take --features tiles")
    kind = "tiles" if seeing.features == "auto" else seeing.features
    shown = _observations(env, options.seed)
    low, high = (np.ravel(x).astype(np.float64) for x in (space.low, space.high))
    spare = (shown.max(0) - shown.min(0)) / 2
    low = np.where(low > -BOUNDLESS, low, shown.min(0) - spare) if not seeing.low else np.array(seeing.low)
    high = np.where(high < BOUNDLESS, high, shown.max(0) + spare) if not seeing.high else np.array(seeing.high)
    if len(low) != shown.shape[1] or len(high) != shown.shape[1]:
        raise InputError(
            f"low and high have {len(low)} and {len(high)} numbers, and an observation of {options.problem} has "
            f"{shown.shape[1]}: give one for each"
        )
    size = seeing.tilings * (seeing.tiles + 1) ** len(low) if kind == "tiles" else (seeing.order + 1) ** len(low)
    if size > MOST:
        raise InputError(
            f"{kind} over {len(low)} dimensions are {float(size):.2g} features, more than {MOST:,}: give a smaller "
            f"--{'tiles' if kind == 'tiles' else 'order'}, or take an algorithm with a network"
        )
    seeing = dataclasses.replace(seeing, features=kind, low=tuple(low.tolist()), high=tuple(high.tolist()))
    features = {
        "tiles": lambda: tiles(low, high, seeing.tilings, seeing.tiles),
        "fourier": lambda: fourier(low, high, seeing.order),
        "polynomial": lambda: polynomial(low, high, seeing.order),
        "radial": lambda: radial_basis(low, high, seeing.order + 1),
    }[kind]()
    squares = np.mean([(features(x).weight ** 2).sum() for x in shown[:100]])
    return dataclasses.replace(options, observations=seeing), Scaled(features, float(squares**-0.5))


def _observations(env: Any, seed: int) -> NDArray[np.float64]:
    """[PROBE, d]: what is seen where actions are random."""
    rng = np.random.default_rng([seed, 2])
    seen, found = env.reset(seed=seed)[0], []
    for _ in range(PROBE):
        found.append(np.ravel(seen))
        seen, _, terminated, truncated, _ = env.step(int(env.action_space.start + rng.integers(env.action_space.n)))
        if terminated or truncated:
            seen = env.reset()[0]
    return np.array(found, dtype=np.float64)


def train(learners: Learners, module: Any, config: Any) -> Iterator[Metrics]:
    """All learners side by side; the means of their metrics. Raises `Diverged` when a value is not finite any more."""
    runs = [module.train(state, config) for state in learners.states]
    while learners.step < config.steps:
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is seen below
            several = [next(run) for run in runs]
        learners.step = learners.states[0].step
        for state in learners.states:
            if not (math.isfinite(state.w.min()) and math.isfinite(state.w.max())):
                raise Diverged(f"step {learners.step}: a value is no longer finite; give a smaller --alpha")
        names = {name: None for metrics in several for name in metrics}
        yield {name: float(np.mean([m[name] for m in several if name in m])) for name in names}


def described(task: Task) -> str:
    """What is about to be learned, and how."""
    options = task.options
    where = "drawn from its model, compiled" if task.on_model else "in its environment"
    words = (
        f"{options.problem}: {task.known.words}" if task.known else f"{options.problem}: an environment of Gymnasium"
    )
    shape = task.world(options.seed).shape
    what = f"a table of {shape[0]:,} states"
    if task.features is not None:
        what = f"{shape[0]:,} features ({options.observations.features})"
    return (
        f"{words}\n{options.method.replace('_', ' ')} with {what} and {shape[1]} actions, {where}; discount "
        f"{options.learning.gamma:.10g}; {options.learning.steps:,} steps"
        + (f" for each of {options.seeds} seeds" if options.seeds > 1 else "")
    )
