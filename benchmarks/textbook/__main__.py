"""Sutton and Barto's figures with Operant's algorithms: python -m benchmarks.textbook [PART ...], all by default.

Every file of this folder with `rows` and `draw` is a part. Writes benchmarks/results/textbook.json, the table
docs/textbook/figures.md and the drawings in docs/textbook/figures/; what other parts left there stays. Exits with 1 if
a value is out of its tolerance.
"""

import importlib
import json
import pkgutil
import shutil
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, machine
from benchmarks.textbook.common import Row

RESULTS = ROOT / "benchmarks" / "results" / "textbook.json"
PAGE = ROOT / "docs" / "textbook" / "figures.md"
DRAWINGS = PAGE.with_suffix("")

HEAD = """# Figures of the textbook

Figures of Sutton and Barto, "Reinforcement Learning" (2nd edition), computed with Operant's algorithms by
`make textbook`. Where the book prints a curve and no number, the reference is the value that another program, written
from the book alone, gave with the same settings. "±" is the standard error of our value.
"""


def parts() -> list[str]:
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return [name for name in names if name not in ("__main__", "common")]


def computed(part: str) -> dict[str, Any]:
    """The rows and the drawings of a part, with what they were made on."""
    module, begun = importlib.import_module(f"benchmarks.textbook.{part}"), time.perf_counter()
    rows: list[Row] = module.rows()
    DRAWINGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        module.draw(Path(folder))
        drawings = sorted(Path(folder).iterdir())
        for file in drawings:
            shutil.copyfile(file, DRAWINGS / file.name)
    return {
        "machine": machine(),
        "date": date.today().isoformat(),
        "commit": commit(),
        "seconds": round(time.perf_counter() - begun, 1),
        "rows": [{**row._asdict(), "ok": row.ok} for row in rows],
        "drawings": [file.name for file in drawings],
    }


def page(results: dict[str, Any]) -> str:
    text = HEAD
    for part, result in results.items():
        text += f"\n## {part.replace('_', ' ').capitalize()}\n"
        if result["rows"]:
            text += "\n| Figure | What | Reference | Ours | ± | Tolerance | |\n|---|---|---|---|---|---|---|\n"
        for row in result["rows"]:
            numbers = " | ".join(f"{row[name]:.4g}" for name in ("published", "ours", "spread", "tolerance"))
            text += f"| {row['figure']} | {row['what']} | {numbers} | {'ok' if row['ok'] else '**out**'} |\n"
        text += "".join(f"\n![{Path(name).stem}](figures/{name})\n" for name in result["drawings"])
    return text


def main(chosen: list[str]) -> None:
    if unknown := set(chosen) - set(parts()):
        raise SystemExit(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(parts())}")
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    wrong = 0
    for part in chosen or parts():
        results[part] = computed(part)
        for row in results[part]["rows"]:
            wrong += not row["ok"]
            print(json.dumps({"part": part, **row}), flush=True)
    results = dict(sorted(results.items()))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    PAGE.write_text(page(results))
    if wrong:
        raise SystemExit(f"{wrong} values are out of their tolerance")


if __name__ == "__main__":
    main(sys.argv[1:])
