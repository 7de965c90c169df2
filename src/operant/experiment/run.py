"""A run folder: settings, metrics, checkpoints, final figures; and the loop that follows an algorithm through it.

    runs/pole/
        config.toml             the settings, resolved; read back on resume
        metrics.jsonl           one JSON object per step        (tensorboard/ shows the same)
        checkpoints/step_000120
        summary.json            the final figures; there when the run is finished
        diverged/               the batch that showed a NaN, if one did

An interrupted and resumed run equals an uninterrupted one: same weights, same metrics, except for `time/...`.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import operant
from operant.core.errors import Diverged, InputError
from operant.core.finite import USUAL, require_finite
from operant.experiment import checkpoint
from operant.experiment.files import atomic_write, to_toml, writing
from operant.experiment.log import Log, cut_metrics
from operant.experiment.progress import Progress

SAVING_SHARE = 0.05
"""The part of a run's time that checkpoints may take, where their spacing is not given in steps."""
BANDIT_CURE = "smaller numbers in the world and in the algorithm's settings are the cure"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, made or found by `open_run`."""

    folder: Path
    algorithm: str
    config: dict[str, Any]

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").is_file()

    def summary(self) -> dict[str, Any]:
        """The final figures. Raises InputError if the run has none yet."""
        if not self.finished:
            raise InputError(
                f"the run {self.folder} has no summary.json, so it is not finished; continue it with --resume"
            )
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the final figures, which marks the run as finished."""
        atomic_write(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")

    def checkpoints(self) -> list[Path]:
        """The checkpoint folders, oldest first."""
        found = (self.folder / "checkpoints").glob("step_*/state.json")
        return sorted((path.parent for path in found), key=_step_of)

    def newest(self, parts: tuple[str, ...] = ("",)) -> checkpoint.Saved | None:
        """The newest good checkpoint, with the tensors of `parts` (see `checkpoint.read`). Damaged ones are told of.

        Raises InputError if all are damaged.
        """
        found = self.checkpoints()
        for folder in reversed(found):
            try:
                return checkpoint.read(folder, parts)
            except InputError as error:
                print(error, file=sys.stderr)
        if found:
            raise InputError(
                f"every checkpoint in {self.folder / 'checkpoints'} is damaged; remove that folder to start anew"
            )
        return None

    def restore(self, state: Any) -> bool:
        """Put the newest good checkpoint into a fresh `state` and take back the metrics after it. False: there is none.

        A damaged checkpoint is set aside and the one before it is used. Raises InputError if all are damaged or if
        one does not fit `state`.
        """
        found, saved = self.checkpoints(), self.newest()
        if saved is not None:
            checkpoint.put(saved, state)
        for folder in (self.folder / "checkpoints").glob("step_*"):
            if folder not in found:  # a kill left it half written or half removed
                shutil.rmtree(folder, ignore_errors=True)
            elif saved is not None and _step_of(folder) > _step_of(saved.folder):
                aside = folder.with_name(f"damaged_{folder.name}")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
        cut_metrics(self.folder, _step_of(saved.folder) if saved is not None else 0)
        return saved is not None

    def follow(
        self,
        state: Any,
        metrics: Iterator[Mapping[str, float]],
        total: int,
        every_seconds: float = 30.0,
        every_steps: int | None = None,
        keep: int = 2,
        show: Sequence[str] = (),
        whole: Path | None = None,
        unit: int = 1,
    ) -> None:
        """Go through `metrics`, the steps of an algorithm that changes `state`: log, save, show how far it is.

        `total`: the value of `state.step` at the end. A checkpoint is written every `every_steps` steps or, without
        it, every `every_seconds` or more, so that saving takes at most 5% of the time; and one at the end. The newest
        `keep` stay. `show`: metrics to show beside the progress. `whole`: the run folder that this one is a part of.
        `unit`: what a step counts for in the progress, such as the environment steps of a rollout.

        Raises Diverged at the first value that is no finite number, with the last checkpoint intact; InputError if the
        disk is full; SystemExit(130), after a checkpoint, when asked to stop by Ctrl-C or SIGTERM.
        """
        if keep < 1:
            raise InputError(f"keep is {keep}: a run needs at least one checkpoint to go on from; use 1 or more")
        with _stop_on_signal() as stop:
            with closing(Log(self.folder, state.step)) as log, Progress(unit * total, unit * state.step, show) as bar:
                saved_at, cost, saved_step = time.monotonic(), 0.0, None
                before = state.step
                try:
                    for values in metrics:
                        _require_finite_metrics(values, state.step)
                        log.write(state.step, values)
                        bar.update(unit * state.step, values)
                        now = time.monotonic()
                        spacing = max(every_seconds, cost / SAVING_SHARE)
                        passed = every_steps and state.step // every_steps > before // every_steps
                        due = passed if every_steps else now - saved_at >= spacing
                        before = state.step
                        if due or stop.is_set():
                            self._save(state, log, keep)
                            saved_at, saved_step = time.monotonic(), state.step
                            cost = saved_at - now
                        if stop.is_set():
                            break
                    if saved_step != state.step:
                        self._save(state, log, keep)
                except Diverged as error:
                    raise self._explained(error, state) from error
            if stop.is_set():
                print(
                    f"stopped after step {unit * state.step}; --resume continues {whole or self.folder}",
                    file=sys.stderr,
                )
                raise SystemExit(130)

    def _save(self, state: Any, log: Log, keep: int) -> None:
        # Finite metrics may come with weights that the last update spoilt: such a checkpoint would not be a good one.
        for i, parameter in enumerate(_trained(state)):
            require_finite(parameter.detach(), f"trained parameter number {i}", state.step)
        log.sync()
        checkpoint.save(self.folder / "checkpoints" / f"step_{state.step:06d}", state)
        for folder in self.checkpoints()[:-keep]:
            (folder / "state.json").unlink()  # first, so that a kill leaves no half of a checkpoint
            shutil.rmtree(folder, ignore_errors=True)

    def _explained(self, error: Diverged, state: Any) -> Diverged:
        """The same error, with the batch (or else the whole state) saved and the way back named."""
        where = self.folder / "diverged"
        found = self.checkpoints()
        back = f"the last good checkpoint is step {_step_of(found[-1])}" if found else "there is no checkpoint yet"
        try:
            checkpoint.save(where, state if error.record is None else error.record)
            batch = f"the {'state' if error.record is None else 'batch'} is saved in {where}"
        except (InputError, TypeError) as failure:
            batch = f"the batch could not be saved ({failure})"
        return Diverged(f"{error}; {back}; {batch}", error.record)


def open_run(
    folder: Path, algorithm: str, config: dict[str, Any], resume: bool, learned: Iterable[Any] | None = None
) -> Run:
    """Start a run in a new or empty folder, or find one to resume: its `config` is then the one it was started with.

    The table [run] of config.toml is the run's own: algorithm, version, and a fingerprint of `learned`, what the run
    learns from. A setting of None is left out. Raises InputError if a new run's folder is taken, or one to resume is
    not there, of another algorithm, or learned from something else.
    """
    data = None if learned is None else fingerprint(learned)
    path = folder / "config.toml"
    if resume:
        if not path.is_file():
            raise InputError(f"there is no run to resume in {folder}: it has no config.toml; start it without --resume")
        try:
            saved = tomllib.loads(path.read_text(encoding="utf-8"))
            header = saved.pop("run")
            of, then = header["algorithm"], header.get("data", data)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error!r}); mend it, or start again in another --out") from error
        if of != algorithm:
            raise InputError(f"{folder} is a run of {of}, not of {algorithm}; use {of}, or another --out")
        if then != data:
            raise InputError(
                f"what {folder} learns from has changed since it began (its fingerprint was {then} and is {data}): to "
                "resume, the data must be as they were; put them back, or start anew with another --out"
            )
        return Run(folder, algorithm, saved)
    if path.exists():
        raise InputError(f"the run folder {folder} exists; --resume continues it, another --out starts a new one")
    if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        raise InputError(f"{folder} exists and holds something that is no run; another --out starts a new one")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    header = {"algorithm": algorithm, "operant": operant.__version__, "data": data}
    atomic_write(path, to_toml({**config, "run": header}))
    return Run(folder, algorithm, config)


def fingerprint(items: Iterable[Any]) -> str:
    """A short name for what was learned from, in its order: other data have another one."""
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _require_finite_metrics(values: Mapping[str, float], step: int) -> None:
    for name, x in values.items():
        if not math.isfinite(x):
            cure = BANDIT_CURE if name.startswith("bandit/") else USUAL
            require_finite(float(x), name, step, cure=cure)


def _trained(value: Any) -> Iterator[Tensor]:
    """The parameters of every optimiser in a state."""
    if isinstance(value, torch.optim.Optimizer):
        yield from (parameter for group in value.param_groups for parameter in group["params"])
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _trained(getattr(value, field.name))
    elif isinstance(value, list | tuple | dict):
        for x in value.values() if isinstance(value, dict) else value:
            yield from _trained(x)


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("_")[2])


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def ask(signum: int, _frame: object) -> None:
        if stop.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        os.write(2, b"\nstopping after this step, or the report that is due; Ctrl-C again stops at once and loses it\n")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
