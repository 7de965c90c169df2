"""Keep the final figures of a pipeline under `results/`, with machine, date and commit.

.venv/bin/python benchmarks/keep_summary.py runs/sentiment
"""

import json
import sys
from datetime import date
from pathlib import Path

from language_models import commit, machine

RESULTS = Path(__file__).parent / "results"


def main(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    kept = {"machine": machine(), "date": date.today().isoformat(), "commit": commit(), **summary}
    (RESULTS / f"{folder.name}.json").write_text(json.dumps(kept, indent=2) + "\n")
    for name, stage in summary["stages"].items():
        shown = {
            key: stage[key]["mean"] if isinstance(stage[key], dict) else stage[key] for key in stage if key in SHOWN
        }
        print(f"{name:<12}" + "  ".join(f"{key} {value:.3f}" for key, value in shown.items()))


SHOWN = ("positive", "judge_score", "kl", "learned_reward", "distinct_2", "length")

if __name__ == "__main__":
    main(Path(sys.argv[1]))
