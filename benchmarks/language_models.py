"""Real tokens per second and peak memory of Operant over TRL: SFT, reward model, DPO and PPO, side by side on a CPU.

    .venv/bin/python benchmarks/language_models.py                                 # everything; hours on two cores
    .venv/bin/python benchmarks/language_models.py --figures sft --repeats 5 --threads 2
    .venv/bin/python benchmarks/language_models.py --figures ppo --peer-only       # the peer's own best setting

The first call makes what it needs under `benchmarks/.peers/`: one virtual environment per peer version and the
workload (`workload.make`). Then, per figure:

1. both sides train three steps in float32 on the same batches; if the losses differ, no time is taken;
2. every candidate setting of a side runs `--search` times and its fastest is kept, so the peer is at its best;
3. the two sides run in turn, `--repeats` times, first one first, then the other;
4. one JSON line is printed and appended to `benchmarks/results/language_models.jsonl`.

The ratio is Operant over peer, taken run by run; the median and the range are given. Operant
is tried with and without `--compile`, both sides in float32 and bfloat16, the peer without gradient checkpointing. A
figure named `..._tuned` also gives the peer what a search over packing, grouping, micro-batches and `torch.compile`
found; the others take its batches as its trainers make them.

What a side does
----------------
A side is a script with the command line of `workload.parse_arguments` that prints one JSON line as its last line of
standard output. `peers/` holds the peers; Operant's is `operant_side.py`, run by the Python that runs this file with
`src` on its path. It reads `workload.load(args.workload)`, calls `Meter.models_loaded()` once when the data and all
models (and no optimiser) are in memory, `Meter.step(...)` at the end of every optimiser step (PPO: every rollout with
its updates), runs `warmup + steps` of them, and prints `Meter.result()` together with

    task, peer ("operant"), version, versions {torch, transformers}, dtype, threads, batch, settings {option: value}

PPO adds ended_fraction (responses that reached EOS, of all) and gives `Meter.step` the phases rollout, scoring and
update in seconds. DPO with precomputed reference adds reference_seconds and reference_tokens: what scoring the
reference before the first step cost, and over how many tokens.

Common to all tasks:

- Initial weights: `policy/` and `reward/` of the workload, float32. `--dtype bfloat16` means float32 master weights
  and optimiser with bfloat16 arithmetic; frozen models may be held in bfloat16.
- Dropout 0. AdamW with `workload.ADAM`, constant `workload.LEARNING_RATE[task]`, no warm-up of the rate. Gradients
  clipped to the global norm `workload.MAX_GRAD_NORM`, except in PPO, where TRL does not clip.
- With no option given, batch k is pairs [k * batch, (k + 1) * batch) as stored (`workload.batches`). The losses of
  steps 1, 2, 3 on these are compared. `--option` names may change how sequences are grouped, packed, padded or split
  into micro-batches, as long as an update averages over about as many real tokens.
- Real tokens, whatever was computed for them: SFT len(prompt) + len(chosen); pairs 2 len(prompt) + len(chosen) +
  len(rejected), also where the prompt is shared; PPO len(prompt) + response up to and with its first EOS, once per
  rollout. `positions` are the tokens and padding the model was fed for them.

`first_losses` (before each step's update):

- sft      sum of -log p over the batch's response tokens, EOS included, over their number. Prompts are read, not
           learned.
- reward   mean over pairs of -log sigmoid(r(chosen) - r(rejected)); r is the head's output at the last token (EOS) of
           prompt + response.
- dpo      mean over pairs of -log sigmoid(beta (log-ratio of chosen - log-ratio of rejected)), beta
           `workload.DPO_BETA`, log-probabilities summed over response tokens; the reference is `policy/`. The first
           loss is ln 2. `--option reference=online` scores the reference in every step, `reference=precomputed`
           before the first.
- ppo      policy loss + 0.1 value loss at each optimiser step, settings in `workload.PPO`. Policy and reference start
           from `policy/`; reward and value model are two copies of `reward/`. Prompts: `Workload.prompts()` in order,
           a batch per rollout. The value of a response token is the value head one position before it; the score is
           the reward head at the last response token, EOS or not, no penalty. Reward per token -kl_coefficient
           (log pi - log ref), score added at the last token. GAE, then advantages standardised over response tokens;
           return = advantage before standardising + value. Ratio and value clipped; the value loss is
           0.5 max(unclipped, clipped); both are means over response tokens. All responses are one minibatch, so each
           epoch is one step. `--option source=stored` takes `Workload.stored_rollouts(batch)` for the rollout: full
           length, none ended, so that TRL's habit of paying the score one position after EOS does not enter. TRL
           divides the variance by n - 1, so losses agree to about 1e-3, not to rounding.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import workload as w
from machine import PEERS, ROOT, commit, environment, environment_python, machine, say

HERE = Path(__file__).resolve().parent
WORKLOAD = PEERS / "workload"
RESULTS = HERE / "results" / "language_models.jsonl"

Options = dict[str, str]
Row = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """A script that runs one task, and the Python that runs it."""

    name: str
    script: Path
    environment: str | None = None
    """Folder under `.peers` and `peers/requirements-<environment>.txt`; None is the Python of this script."""

    def python(self) -> Path:
        return environment_python(self.environment) if self.environment else Path(sys.executable)


OPERANT = Side("operant", HERE / "operant_side.py")
TRL = Side("trl", HERE / "peers" / "trl_1_16.py", "trl-1.16")
TRL_PPO = Side("trl", HERE / "peers" / "trl_1_12_ppo.py", "trl-1.12")


@dataclass(frozen=True)
class Figure:
    """One comparison. `candidates` are the peer's settings worth trying; each is tried in every dtype."""

    task: str
    peer: Side
    candidates: list[Options]
    operant_candidates: list[Options] = field(default_factory=lambda: [{}, {"compile": "1"}])
    both: Options = field(default_factory=dict)
    """Options of every run of both sides."""
    check_both: Options = field(default_factory=dict)
    """Further options of both sides while losses are compared."""
    check_micro: int = 1
    """Micro-batch of the peer while losses are compared; it changes memory, not losses."""
    batch: int = 16
    steps: int = 20
    warmup: int = 4
    tolerance: float = 1e-3


PLAIN: list[Options] = [{"batching": "ordered"}]
"""TRL as its trainers are on a CPU: whole batches in the order of the data, padded to their longest row."""

# Small micro-batches win on a CPU: they need little padding, and their activations are small enough for the cache.
SFT = Figure("sft", TRL, PLAIN)
REWARD = Figure("reward", TRL, PLAIN)
DPO = Figure("dpo", TRL, PLAIN, steps=10, warmup=2)
ONLINE, PRECOMPUTED = {"reference": "online"}, {"reference": "precomputed"}
PPO = Figure(
    "ppo",
    TRL_PPO,
    [{"micro": "all"}, {"micro": "all", "frozen": "bfloat16"}],
    check_both={"source": "stored"},
    check_micro=4,
    batch=32,
    steps=3,
    warmup=1,
    tolerance=1e-2,
)


def tuned(figure: Figure, candidates: list[Options]) -> Figure:
    """The same against the fastest of `candidates`."""
    return replace(figure, candidates=candidates)


FIGURES = {
    "sft": SFT,
    "reward": REWARD,
    "dpo_online": replace(DPO, both=ONLINE),
    "dpo_precomputed": replace(DPO, both=PRECOMPUTED),
    "ppo": PPO,
    "sft_tuned": tuned(
        SFT,
        [
            {"batching": "packed", "micro": "1"},
            {"batching": "packed", "micro": "1", "compile": "1"},
            {"batching": "grouped", "micro": "2"},
            {"batching": "grouped", "micro": "4"},
        ],
    ),
    "reward_tuned": tuned(
        REWARD,
        [
            {"batching": "ordered", "micro": "1"},
            {"batching": "grouped", "micro": "2"},
            {"batching": "grouped", "micro": "4"},
            {"batching": "grouped", "micro": "4", "compile": "1"},
        ],
    ),
    "dpo_tuned": tuned(
        replace(DPO, both=PRECOMPUTED),
        [
            {"batching": "ordered", "micro": "1"},
            {"batching": "grouped", "micro": "2"},
            {"batching": "ordered", "micro": "1", "compile": "1"},
        ],
    ),
    "ppo_tuned": tuned(
        PPO,
        [
            {"micro": "4"},
            {"micro": "8"},
            {"micro": "4", "frozen": "bfloat16"},
            {"micro": "8", "frozen": "bfloat16"},
        ],
    ),
}


def main() -> None:
    args = parse_arguments()
    if not args.peer_only and not OPERANT.script.exists():
        raise SystemExit(
            f"{OPERANT.script} does not exist yet: run with --peer-only, or write it (see this file's top)"
        )
    if not (WORKLOAD / "pairs.json").exists():
        say(f"making the workload in {WORKLOAD} (minutes)")
        w.make(WORKLOAD, args.data)
    for name in args.figures:
        figure = FIGURES[name]
        if figure.peer.environment:
            environment(figure.peer.environment, args.torch_index)
        row = measure(name, figure, args)
        line = json.dumps(row)
        print(line, flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(line + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Operant and its peers on language models, side by side.")
    parser.add_argument("--figures", nargs="+", choices=list(FIGURES), default=list(FIGURES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side, in turn")
    parser.add_argument("--search", type=int, default=2, help="runs per candidate setting; the fastest counts")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, help="timed steps per run (default: the figure's own)")
    parser.add_argument("--warmup", type=int, help="steps before the timed ones (default: the figure's own)")
    parser.add_argument("--batch", type=int, help="sequences, pairs or prompts per step (default: the figure's own)")
    parser.add_argument("--peer-only", action="store_true", help="measure the peer alone")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--torch-index", help="package index for torch, where the default one has no CPU build")
    return parser.parse_args()


def measure(name: str, figure: Figure, args: argparse.Namespace) -> Row:
    sides = [figure.peer] if args.peer_only else [figure.peer, OPERANT]
    losses = compare_losses(name, figure, args, sides)
    best, searched = {}, {}
    for side in sides:
        best[side.name], searched[side.name] = search(name, figure, args, side)
    runs: dict[str, list[Row]] = {side.name: [] for side in sides}
    for repeat in range(args.repeats):
        for side in sides if repeat % 2 == 0 else reversed(sides):
            dtype, options = best[side.name]
            runs[side.name].append(run(figure, args, side, dtype, options))
            say(f"{name} {repeat + 1}/{args.repeats} {side.name}: {runs[side.name][-1]['tokens_per_second']} tokens/s")
    row: Row = {
        "figure": name,
        "task": figure.task,
        "unit": "real tokens per second",
        "threads": args.threads,
        "batch": args.batch or figure.batch,
        "steps": args.steps or figure.steps,
        "repeats": args.repeats,
        **{side.name: summary(runs[side.name]) for side in sides},
        "first_losses": losses,
        "searched": searched,
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }
    if not args.peer_only:
        pairs = list(zip(runs[OPERANT.name], runs[figure.peer.name], strict=True))
        for key in ("tokens_per_second", "peak_memory_above_models_mb"):
            ratios = [ours[key] / theirs[key] for ours, theirs in pairs]
            row[f"{key}_ratio"] = round(statistics.median(ratios), 3)
            row[f"{key}_ratio_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return row


def compare_losses(name: str, figure: Figure, args: argparse.Namespace, sides: list[Side]) -> Row:
    """First losses of every side on the same batches in float32; stops where they differ."""
    found: Row = {}
    for side in sides:
        options = {**figure.check_both, **({} if side is OPERANT else {"micro": str(figure.check_micro)})}
        steps = 1 if figure.task == "ppo" else 3  # one PPO step is four optimiser steps
        found[side.name] = run(figure, args, side, "float32", options, steps=steps, warmup=0)["first_losses"]
        say(f"{name} first losses {side.name}: {found[side.name]}")
    if len(sides) == 1:
        return found
    theirs, ours = (found[side.name] for side in sides)
    scale = max(abs(loss) for loss in theirs)
    difference = max(abs(a - b) for a, b in zip(theirs, ours, strict=True)) / scale
    if not difference <= figure.tolerance:
        raise SystemExit(
            f"{name}: the first losses differ by {difference:.2g} of the largest (allowed {figure.tolerance:g}), so "
            f"the two sides do not do the same work.\n  {figure.peer.name}: {theirs}\n  operant: {ours}"
        )
    return {**found, "largest_difference": difference}


def search(name: str, figure: Figure, args: argparse.Namespace, side: Side) -> tuple[tuple[str, Options], list[Row]]:
    """The fastest (dtype, options) of a side, and what every candidate reached."""
    candidates = figure.operant_candidates if side is OPERANT else figure.candidates
    tried = []
    for dtype in args.dtypes:
        for options in candidates:
            runs = [run(figure, args, side, dtype, options) for _ in range(args.search)]
            fastest = max(runs, key=lambda result: result["tokens_per_second"])
            keys = ("dtype", "settings", "tokens_per_second", "peak_memory_above_models_mb")
            tried.append(({key: fastest[key] for key in keys}, (dtype, options)))
            say(f"{name} {side.name} {dtype} {options}: {fastest['tokens_per_second']} tokens/s")
    best = max(tried, key=lambda entry: entry[0]["tokens_per_second"])[1]
    return best, [result for result, _ in tried]


def run(
    figure: Figure,
    args: argparse.Namespace,
    side: Side,
    dtype: str,
    options: Options,
    steps: int | None = None,
    warmup: int | None = None,
) -> Row:
    """One run of a side in a fresh process: the JSON line it printed."""
    options = {**figure.both, **options}
    command = [
        *(side.python(), side.script, "--task", figure.task, "--dtype", dtype, "--workload", WORKLOAD),
        *("--threads", args.threads, "--batch", args.batch or figure.batch),
        *("--steps", args.steps or figure.steps if steps is None else steps),
        *("--warmup", (args.warmup or figure.warmup) if warmup is None else warmup),
        *(part for key, value in options.items() for part in ("--option", f"{key}={value}")),
    ]
    environment = dict(os.environ)
    if side is OPERANT:
        environment["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: list[Row]) -> Row:
    """Medians over runs of one setting; the fields that do not vary are taken from the first."""
    first = runs[0]
    row = {key: first[key] for key in ("peer", "version", "versions", "dtype", "settings", "padding_fraction")}
    speeds = [result["tokens_per_second"] for result in runs]
    row["tokens_per_second"], row["tokens_per_second_range"] = statistics.median(speeds), [min(speeds), max(speeds)]
    row["peak_memory_above_models_mb"] = statistics.median(r["peak_memory_above_models_mb"] for r in runs)
    row["peak_memory_mb"] = statistics.median(r["peak_memory_mb"] for r in runs)
    for key in ("rollout_seconds", "scoring_seconds", "update_seconds"):
        if key in first:
            row[key] = round(statistics.median(result[key] for result in runs), 3)
    if "ended_fraction" in first:
        row["ended_fraction"] = first["ended_fraction"]
    if "reference_seconds" in first:
        # Over one epoch every pair is scored once by the reference, so its cost belongs to the token.
        with_reference = [
            1 / (1 / r["tokens_per_second"] + r["reference_seconds"] / r["reference_tokens"]) for r in runs
        ]
        row["tokens_per_second_one_epoch_with_reference"] = round(statistics.median(with_reference), 2)
    return row


if __name__ == "__main__":
    main()
