"""The demo's figures over several worlds: reads runs of `make demo-seeds`, prints and keeps their summary."""

import json
import sys
from datetime import date
from pathlib import Path
from statistics import mean

from machine import commit, machine

STAGES = ("pretrained", "prompted", "sft", "ppo", "ppo_ptx", "dpo")
KEYS = ("true_reward", "right", "hedged_right", "unknown", "hedged_wrong", "wrong", "kl")
RESULTS = Path(__file__).parent / "results" / "almanac_seeds.json"


def value(figure: dict[str, float] | float) -> float:
    return figure["mean"] if isinstance(figure, dict) else figure


def known_right(stage: dict) -> float:
    """Right and hedged-right answers on the facts that were seen most."""
    most = max(stage["by_exposure"], key=int)
    return stage["by_exposure"][most]["right"] + stage["by_exposure"][most]["hedged_right"]


def main(folders: list[str]) -> None:
    runs = {folder: json.loads((Path(folder) / "summary.json").read_text()) for folder in folders}
    figures = {
        name: {key: [value(run["stages"][name][key]) for run in runs.values()] for key in KEYS} for name in STAGES
    }
    known = {name: [known_right(run["stages"][name]) for run in runs.values()] for name in STAGES}
    result = {
        "seeds": [run["seed"] for run in runs.values()],
        "machine": machine(),
        "date": date.today().isoformat(),
        "commit": commit(),
        "labeller_agreement": [run["labeller_agreement"] for run in runs.values()],
        "reward_model_accuracy": [run["reward_model_accuracy"] for run in runs.values()],
        "stages": figures,
        "right_or_hedged_right_on_most_seen": known,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'':<12}" + "".join(f"{key:>14}" for key in (*KEYS, "known right")))
    for name in STAGES:
        columns = [*(figures[name][key] for key in KEYS), known[name]]
        print(f"{name:<12}" + "".join(f"{mean(column):>14.3f}" for column in columns))


if __name__ == "__main__":
    main(sys.argv[1:])
