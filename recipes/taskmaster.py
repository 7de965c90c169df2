"""Coffee orders as the files that `operant align` reads: human dialogues, human thumbs, and the true pairs among them.

Needs, in one folder: dialogue_taskmaster4, pref_taskmaster_reward and dialogue_self_dialogue. The reward is pointwise,
since most thumbs are unpaired; DPO learns from contexts with a liked and a disliked reply, movie tickets among them.
The coffee conversations are split in three: for the reward model, for the judge, and for evaluation, without the
contexts that others learn from too: openings that many conversations share.
"""

import json
import random
from pathlib import Path
from typing import Any

from operant.text.data import load

CHATTER = 4_000_000
"""Characters of small talk that are read."""
COLUMNS = {"prompt": "context", "response": "generation", "label": "reward"}


def prepare(data: Path, out: Path, seed: int) -> None:
    rng = random.Random(seed)
    parts = split(data / "pref_taskmaster_reward" / "reward.jsonl", out, rng)
    thumbs = {name: load(path, kind="thumb", columns=COLUMNS, skip_bad=True).records for name, path in parts.items()}
    replies = load(data / "dialogue_taskmaster4", kind="demonstration").records
    demonstrations = [(d.prompt, d.response) for d in replies]
    demonstrations += [(t.prompt, t.response) for t in thumbs["reward"] if t.good]
    texts = [p + r for p, r in demonstrations] + small_talk(data / "dialogue_self_dialogue", rng)
    rng.shuffle(demonstrations)
    rng.shuffle(texts)
    write(out / "text.jsonl", [{"text": t} for t in texts])
    write(out / "demonstrations.jsonl", [{"prompt": p, "response": r} for p, r in demonstrations])
    for name, part in (("judgements", "reward"), ("judge", "judge")):
        labelled = [{"prompt": t.prompt, "response": t.response, "label": int(t.good)} for t in thumbs[part]]
        rng.shuffle(labelled)
        write(out / f"{name}.jsonl", labelled)
    labels = data / "pref_taskmaster_reward"
    rankings = load(labels, kind="ranking", columns=COLUMNS, skip_bad=True).records
    both = [{"prompt": r.prompt, "responses": list(r.responses), "ranks": list(r.ranks)} for r in rankings]
    write(out / "comparisons.jsonl", both)
    write(out / "prompts.jsonl", [{"prompt": p} for p in sorted({t.prompt for t in thumbs["reward"]})])
    seen = {r.prompt for r in rankings} | {t.prompt for part in ("reward", "judge") for t in thumbs[part]}
    held_out = sorted({t.prompt for t in thumbs["evaluation"]} - seen)
    write(out / "evaluation.jsonl", [{"prompt": p} for p in rng.sample(held_out, min(400, len(held_out)))])


def split(path: Path, out: Path, rng: random.Random) -> dict[str, Path]:
    """Coffee (TM-4) in three files, a conversation in one of them only."""
    rows: dict[str, list[dict[str, Any]]] = {"reward": [], "judge": [], "evaluation": []}
    part_of: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["set"].startswith("TM-4"):
            part = part_of.setdefault(row["conversation_id"], rng.choices(list(rows), weights=(5, 3, 2))[0])
            rows[part].append(row)
    files = {name: out / f"thumbs_{name}.jsonl" for name in rows}
    for name, file in files.items():
        write(file, rows[name])
    return files


def small_talk(folder: Path, rng: random.Random) -> list[str]:
    """Open-domain chats as transcripts, up to a size."""
    chats = list(load(folder, kind="text").records)
    rng.shuffle(chats)
    size, kept = 0, []
    for chat in chats:
        if (size := size + len(chat.text)) > CHATTER:
            break
        kept.append(chat.text)
    return kept


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
