"""The run folder of a command: whether there is one to do, and how it begins. Loads no language model."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from operant.cli.options import as_dict
from operant.core.errors import InputError
from operant.experiment.files import writing
from operant.experiment.run import Run, open_run


def pending(out: Path, resume: bool) -> bool:
    """Asked before any work: whether the run in `out` is still to be done. False, said aloud, where it is finished.

    Raises `InputError` where a new run has no place.
    """
    if resume and (out / "summary.json").is_file():
        print(f"{out} is finished; nothing to resume")
        return False
    if not resume and (out / "config.toml").exists():
        raise InputError(f"the run folder {out} exists; --resume continues it, another --out starts a new one")
    return True


def start(options: Any, command: str, resume: bool, learned: Iterable[Any]) -> Run:
    """The run folder of `options.out`. After all that may be wrong with the input was found: this writes."""
    return open_run(options.out, command, as_dict(options), resume, learned)


def last_metrics(run: Run) -> dict[str, float]:
    """The last line of metrics.jsonl."""
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1]) if lines else {}


def make_room(file: Path) -> None:
    """Make the folder that `file` is to be written to. Raises `InputError` if it is there, or could not be written."""
    if file.is_dir():
        raise InputError(f"{file} is a folder: give the name of a file in it")
    if file.exists():
        raise InputError(f"{file} exists: give another name, nothing is overwritten")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
