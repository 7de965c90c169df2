"""metrics.jsonl, one JSON object per step, and the same for TensorBoard."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from operant.experiment.files import writing


class Log:
    """Adds to the metrics of a run folder in which `step` steps are logged; `time/seconds` goes on from theirs."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.jsonl"
        with writing(self.path):
            self.file = self.path.open("a+", buffering=1, encoding="utf-8")
            self.file.seek(0)
            last = deque(self.file, maxlen=1)
            # TensorBoard hides what was logged at `purge_step` or later before the run was resumed.
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        self.start = time.monotonic() - (json.loads(last[0])["time/seconds"] if last else 0.0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        seconds = round(time.monotonic() - self.start, 3)
        line = {"step": step, "time/seconds": seconds, **{name: float(x) for name, x in values.items()}}
        with writing(self.path):
            self.file.write(json.dumps(line) + "\n")
            for name, x in values.items():
                self.board.add_scalar(name, x, step)

    def sync(self) -> None:
        """Wait until all is on the disk: a checkpoint must not be there before the metrics that led to it."""
        with writing(self.path):
            os.fsync(self.file.fileno())
            self.board.flush()

    def close(self) -> None:
        with writing(self.path):
            self.file.close()
            self.board.close()


def cut_metrics(folder: Path, step: int) -> None:
    """Drop the lines after `step` from a run's metrics, and what is left of a line that was not written to its end."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = 0
        for line in file:
            if _step_of(line) > step:
                break
            end += len(line)
        file.truncate(end)


def _step_of(line: bytes) -> float:
    """The step of a line; infinity for what a kill or a power cut left of one."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except ValueError:
        return math.inf
