"""`operant report`: one HTML page for one run or several."""

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """Write one HTML page, to be opened without a network: curves, figures, samples, settings."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, shown side by side."""
    out: Path | None = None
    """The page; without it, report.html in the first run folder."""


def run(options: Options, resume: bool) -> None:
    from operant.experiment.report import write_report

    if not options.runs:
        from operant.core.errors import InputError

        raise InputError("say which run folders to report on: operant report runs/demo")
    out = options.out or options.runs[0] / "report.html"
    write_report(list(options.runs), out)
    print(f"the report is {out}")
