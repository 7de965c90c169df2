"""`operant align`: pretraining, SFT, reward model, PPO, PPO-ptx and DPO in one run folder, and a report.

Every stage is the ordinary command of its name with a run folder of its own; between them stand JSONL files in data/
that anyone can read. The Almanac makes those files itself; other data comes from a recipe's `prepare` function, or as
files that are ready.
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from operant.algorithms.preference.dpo import Config as DPO
from operant.algorithms.preference.pretrain import Config as Pretraining
from operant.algorithms.preference.reward_model import Config as RewardModelling
from operant.algorithms.preference.rlhf import Config as RLHF
from operant.algorithms.preference.sft import Config as SFT
from operant.cli import common, evaluation, processes
from operant.cli.options import as_dict, build, read_toml
from operant.cli.pretrain import Shape, check_shape
from operant.core.errors import Diverged, InputError
from operant.experiment.files import atomic_write
from operant.experiment.run import open_run
from operant.text.almanac import AlmanacConfig
from operant.text.rewards import load_function


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How answers are sampled in every stage, and how comparisons are made from them."""

    max_new_tokens: int = 24
    """Longest answer."""
    decoding_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights while PPO samples; auto = measured."""
    responses: int = 4
    """Answers to each prompt that are ranked, K."""
    dpo_comparisons: Literal["given", "ranked"] = "given"
    """What DPO learns from: the comparisons there are, or answers of the SFT model ranked by the reward model."""
    missing_stop_score: float | None = -4.0
    """Score of an answer that did not end; none = the reward model's own."""
    evaluation_samples: int = 4
    """Answers to each held-out prompt in the final figures."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The whole pipeline: pretrain, fine-tune, learn a reward, improve by PPO, PPO-ptx and DPO, evaluate, report.

    Without a recipe: the Almanac, a generated world whose truth is known, in about ten minutes on two cores.
    With your own: --config recipes/sentiment.toml --data FOLDER.
    """

    out: Path = Path("runs/align")
    """The run folder to write; each stage has a folder in it."""
    title: str = "The Almanac: teaching a language model to say what it does not know"
    """Title of the report."""
    prepare: str = "almanac"
    """Where data comes from: "almanac", or a function file.py:name(data, out, seed) that writes the JSONL files."""
    data: Path | None = None
    """Folder that the recipe's function reads."""
    only: str | None = dataclasses.field(default=None, metadata={"saved": False})
    """Run this one stage, when all it needs is there."""
    seed: int = 0
    """Seed of the world and of every stage."""
    threads: int = 0
    """CPU threads of each stage; 0 = measured. Stages that do not need one another run side by side."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """float32, or bfloat16 mixed precision; auto = measured."""
    compile: bool = False
    """Compile the layers of every model: pays in runs of hours."""
    checkpoint_every: int = 0
    """Steps between the checkpoints of each stage; 0 = by time, about every 30 seconds."""
    workers: int = 2
    """Stages that run side by side."""
    vocabulary: int = 1500
    """Entries of the tokenizer."""
    almanac: AlmanacConfig = dataclasses.field(default_factory=AlmanacConfig)
    shape: Shape = dataclasses.field(default_factory=Shape)
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    pretrain: Pretraining = dataclasses.field(default_factory=lambda: Pretraining(epochs=2))
    sft: SFT = dataclasses.field(default_factory=lambda: SFT(batch=8, epochs=3))
    reward: RewardModelling = dataclasses.field(default_factory=lambda: RewardModelling(epochs=2))
    judge: RewardModelling = dataclasses.field(default_factory=RewardModelling)
    ppo: RLHF = dataclasses.field(default_factory=RLHF)
    ppo_ptx: RLHF = dataclasses.field(default_factory=lambda: RLHF(ptx_coefficient=1.0))
    dpo: DPO = dataclasses.field(default_factory=lambda: DPO(epochs=3, reference_beta=0.3))


NEEDS: dict[str, tuple[str, ...]] = {
    "data": (),
    "pretrain": ("data",),
    "sft": ("pretrain",),
    "comparisons": ("sft",),
    "judge": ("sft",),
    "reward": ("comparisons",),
    "ranked": ("reward",),
    "dpo": ("comparisons", "ranked"),
    "ppo": ("reward",),
    "ppo_ptx": ("reward",),
    "evaluation": ("dpo", "ppo", "ppo_ptx", "judge"),
}
"""Which stages a stage builds on. Those that need nothing of each other run side by side."""


def run(options: Options, resume: bool) -> None:
    if options.only is not None and options.only not in NEEDS:
        raise InputError(f"there is no stage {options.only!r}; the stages are {', '.join(NEEDS)}")
    if options.almanac.seed:
        raise InputError(f"almanac.seed is {options.almanac.seed}: the world has the seed of the pipeline, give --seed")
    check_shape(options.shape)
    for needed in NEEDS[options.only] if options.only is not None else ():
        if not done(options, needed):
            raise InputError(f"stage {options.only} needs {needed}, which is not finished in {options.out}")
    if options.prepare != "almanac" and not done(options, "data"):
        recipe(options)
    begun = time.time()
    if options.only is not None and (options.out / "config.toml").is_file():
        if read_run(options.out) != dataclasses.replace(options, only=None):
            raise InputError(f"{options.out} has other settings: --resume --only {options.only} takes them over")
    elif not resume:
        open_run(options.out, "align", as_dict(options), resume=False)
    if options.only is not None:
        stage(options, options.only)
        return
    if done(options, "evaluation"):
        print(f"{options.out} is finished; nothing to resume")
        return
    for name in ("data", "pretrain", "sft", "comparisons"):
        announce(options, name)
        stage(options, name)
    side_by_side(options, ["reward", "judge", "ranked", "dpo", "ppo", "ppo_ptx"])
    announce(options, "evaluation")
    stage(options, "evaluation")
    print(f"\n{evaluation.table(options.out)}\n")
    print(f"{options.out / 'report.html'} shows it all; {time.time() - begun:.0f} seconds")


def wanted(options: Options, name: str) -> bool:
    """A judge is trained only where there is data for one, and answers are ranked only where DPO learns from them."""
    if name == "judge":
        return (options.out / "data" / "judge.jsonl").is_file()
    return name != "ranked" or options.sampling.dpo_comparisons == "ranked"


def done(options: Options, name: str) -> bool:
    if not wanted(options, name):
        return True
    markers = {
        "data": ["data/prepared.json"],
        "comparisons": ["data/sampled.json"],
        "ranked": ["data/ranked.jsonl"],
        "evaluation": ["summary.json", "report.html"],
    }.get(name, [f"{name}/summary.json"])
    return all((options.out / marker).is_file() for marker in markers)


def announce(options: Options, name: str) -> None:
    if not done(options, name) and sys.stdout.isatty():
        print(f"\033[1m{name}\033[0m", flush=True)
    elif not done(options, name):
        print(f"== {name}", flush=True)


def stage(options: Options, name: str) -> None:
    """Do one stage, or what is left of it."""
    if done(options, name):
        return
    if name == "data":
        prepare(options)
    elif name == "comparisons":
        evaluation.sample_comparisons(options)
    elif name == "ranked":
        evaluation.rank_by_reward(options)
    elif name == "evaluation":
        evaluation.evaluate(options)
    else:
        command, settings = command_of(options, name)
        module = importlib.import_module(f"operant.cli.{command}")
        folder = options.out / name
        machine = common.Machine(
            options.seed, options.threads, options.dtype, options.compile, options.checkpoint_every
        )
        own = module.Options(out=folder, machine=machine, **settings)
        resume = (folder / "config.toml").is_file()
        if resume:
            own = as_measured(own, folder / "config.toml")
        if command == "rlhf":
            module.run(own, resume, evaluation.measures(options))
        else:
            module.run(own, resume)


def as_measured(options: Any, config: Path) -> Any:
    """A stage's options with the machine that was measured when it began."""
    values = read_toml(config)
    values.pop("run", None)
    begun = build(type(options), values, str(config))
    if hasattr(begun, "world"):
        world = dataclasses.replace(options.world, decoding_dtype=begun.world.decoding_dtype)
        options = dataclasses.replace(options, world=world)
    return dataclasses.replace(options, machine=begun.machine)


def command_of(
    options: Options, name: str
) -> tuple[Literal["pretrain", "sft", "reward", "rlhf", "dpo"], dict[str, Any]]:
    """(the command that a stage is, its options)."""
    from operant.cli.rlhf import World

    out, files = options.out, options.out / "data"
    s = options.sampling
    if name == "pretrain":
        more = (str(files / "tokenizer.jsonl"),) if (files / "tokenizer.jsonl").is_file() else ()
        return "pretrain", {
            "data": (str(files / "text.jsonl"),), "tokenizer_data": more, "vocabulary": options.vocabulary,
            "shape": options.shape, "pretrain": options.pretrain,
        }  # fmt: skip
    if name == "sft":
        data = str(files / "demonstrations.jsonl")
        return "sft", {"model": str(out / "pretrain"), "data": data, "sft": options.sft, "held_out": 0.02}
    if name in ("reward", "judge"):
        source = files / ("judge.jsonl" if name == "judge" else "judgements.jsonl")
        config = options.judge if name == "judge" else options.reward
        anchors = None if name == "judge" else str(files / "demonstrations.jsonl")
        base = str(out / ("pretrain" if name == "judge" else "sft"))
        return "reward", {"model": base, "data": str(source), "demonstrations": anchors, "reward": config}
    if name == "dpo":
        source = files / ("ranked.jsonl" if wanted(options, "ranked") else "comparisons.jsonl")
        return "dpo", {"model": str(out / "sft"), "data": str(source), "dpo": options.dpo}
    world = World(
        prompts=str(files / "prompts.jsonl"), reward=str(out / "reward"), max_new_tokens=s.max_new_tokens,
        missing_stop_score=s.missing_stop_score, decoding_dtype=s.decoding_dtype,
    )  # fmt: skip
    config = options.ppo if name == "ppo" else options.ppo_ptx
    text = (str(files / "text.jsonl"),) if config.ptx_coefficient else ()
    return "rlhf", {"model": str(out / "sft"), "world": world, "rlhf": config, "ptx_data": text}


def prepare(options: Options) -> None:
    """Write the JSONL files in data/."""
    folder = options.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    if options.prepare == "almanac":
        evaluation.write_almanac(options, folder)
    else:
        follow_recipe(options, folder)
    needed = ["text", "demonstrations", "prompts", "evaluation"]
    needed += ["judgements"] if options.prepare != "almanac" else []
    missing = [name for name in needed if not (folder / f"{name}.jsonl").is_file()]
    if missing:
        raise InputError(f"{options.prepare} wrote no {missing[0]}.jsonl into {folder}; every recipe needs {needed}")
    atomic_write(folder / "prepared.json", json.dumps({"prepare": options.prepare, "seed": options.seed}) + "\n")


def recipe(options: Options) -> Callable[..., Any]:
    """The function that prepares the data. Raises `InputError` where it or the data are not there."""
    function = load_function(options.prepare, "the recipe's prepare function")
    if options.data is None or not options.data.is_dir():
        raise InputError(f"this recipe reads data from a folder: give --data FOLDER (got {options.data})")
    return function


def follow_recipe(options: Options, folder: Path) -> None:
    """A failure of a recipe is bad input, said with its place."""
    function = recipe(options)
    try:
        function(options.data, folder, options.seed)
    except InputError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        raise InputError(f"{options.prepare} failed: {what}. Mend it, then --resume") from error


def read_run(out: Path) -> Options:
    """The settings of the pipeline in `out`, wherever it stood when it began."""
    values = read_toml(out / "config.toml")
    values.pop("run", None)
    return build(Options, {**values, "out": str(out)}, str(out / "config.toml"))


def side_by_side(options: Options, names: list[str]) -> None:
    """Run stages as processes, each as soon as what it needs is finished, at most `workers` at a time."""
    waiting = [name for name in names if not done(options, name)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    if waiting:
        print(f"== {', '.join(waiting)}: side by side, each with a log in {options.out}", flush=True)
    try:
        said = time.monotonic()
        while waiting or running:
            for name in [n for n in waiting if all(done(options, needed) for needed in NEEDS[n])]:
                if len(running) < options.workers:
                    waiting.remove(name)
                    running[name] = start_process(options, name)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    log = options.out / f"{name}.log"
                    last = processes.last_words(log)
                    if process.returncode != 0:
                        raise InputError(f"stage {name} failed: {last} (all of it: {log}); --resume goes on from there")
                    print(f"{name}: {last}", flush=True)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                print("; ".join(progress(options, name) for name in running), flush=True)
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def start_process(options: Options, name: str) -> "subprocess.Popen[bytes]":
    """One stage as a process that ends when this one does, however this one ends."""
    threads = max((os.cpu_count() or 1) // options.workers, 1)
    return processes.start("operant.cli.align", [str(options.out), name], options.out / f"{name}.log", threads)


def progress(options: Options, name: str) -> str:
    path = options.out / name / "metrics.jsonl"
    steps = len(path.read_bytes().splitlines()) if path.is_file() else 0
    return f"{name}: step {steps}"


def as_process(out: str, name: str) -> None:
    """What `start_process` starts: one stage of the pipeline in `out`."""
    processes.end_with_parent()
    try:
        stage(read_run(Path(out)), name)
    except (InputError, Diverged) as error:
        print(error)
        raise SystemExit(2) from None


if __name__ == "__main__":
    as_process(*sys.argv[1:])
