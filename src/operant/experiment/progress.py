"""How far a run is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self, TextIO

from operant.experiment.plots import duration, number

SECONDS_BETWEEN_LINES = 10.0
SHARE_BETWEEN_LINES = 0.05
SECONDS_AT_LEAST = 1.0
"""Lines of a run that is soon over are no closer than this."""


class Progress:
    """Steps done of `total`, the rate, the remaining time and the metrics named in `show` (by default the first two).

    Used in a `with` statement. `done` steps were done before, by a run that is resumed. What is `brief` has no line for
    its end: where it takes seconds, nothing is said of it.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        show: Sequence[str] = (),
        stream: TextIO | None = None,
        unit: str = "step",
        brief: bool = False,
    ) -> None:
        self.total, self.first, self.show = total, done, tuple(show)
        self.unit, self.brief = unit, brief
        self.stream = sys.stderr if stream is None else stream
        self.start = self.line_time = time.monotonic()
        self.line_step = done
        self.latest: dict[str, float] = {}
        self.bar = _bar(self.stream) if self.stream.isatty() else None

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total, completed=self.first, words="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=step, words=self._words(step, metrics, now))
            return
        since = now - self.line_time
        waited = since >= SECONDS_BETWEEN_LINES
        moved = since >= SECONDS_AT_LEAST and step - self.line_step >= SHARE_BETWEEN_LINES * self.total
        if waited or (not self.brief and (moved or step >= self.total)):
            share = f"{100 * step / max(self.total, 1):.0f}%"
            print(
                f"{self.unit} {step}/{self.total} ({share})  {self._words(step, metrics, now)}",
                file=self.stream,
                flush=True,
            )
            self.line_time, self.line_step = now, step

    def _words(self, step: int, metrics: Mapping[str, float], now: float) -> str:
        """3.2 steps/s, 1 min 05 s left  policy/entropy 0.61"""
        rate = (step - self.first) / max(now - self.start, 1e-9)
        speed = f"{rate:.3g} {self.unit}s/s" if rate >= 1 or rate == 0 else f"{duration(1 / rate)} a {self.unit}"
        left = f", {duration((self.total - step) / rate)} left" if rate > 0 and step < self.total else ""
        names = self.show or [name for name in metrics if not name.startswith("time/")][:2]
        self.latest |= {name: metrics[name] for name in names if name in metrics}
        words = [f"{name} {number(self.latest[name])}" for name in names if name in self.latest]
        return "  ".join([f"{speed}{left}", *words])


def _bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    words = TextColumn("{task.fields[words]}", markup=False)
    return Bar(BarColumn(), MofNCompleteColumn(), words, console=Console(file=stream), refresh_per_second=4)
