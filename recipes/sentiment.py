"""Review sentences as the files that `operant align` reads: continue a review, and let it turn out well.

Needs, in one folder: text_classic_books, sentiment_movie_reviews, sentiment_sentence_polarity, sentiment_pros_cons
(JSONL with `text` and `label`, and plain text). Sentences are cut into an opening of a few words and the rest.
"""

import json
import random
from pathlib import Path
from typing import Any

from operant.text.data import load

OPENING = 3
"""Words of a sentence that are the prompt."""
PHRASES = 12_000
"""Short phrases with a thumb that the reward model reads, and as many others for the judge."""
SIZES = {"sentiment_movie_reviews": 8_000_000, "text_classic_books": 3_000_000}
"""Characters of each source of text that are read."""


def prepare(data: Path, out: Path, seed: int) -> None:
    rng = random.Random(seed)
    thumbs = [t for t in sentences(data / "sentiment_sentence_polarity") if len(t.response.split()) > OPENING + 3]
    rng.shuffle(thumbs)
    evaluation, judged, taught = thumbs[:800], thumbs[800:4400], thumbs[4400:]
    demonstrations = [cut(t.response) for t in taught]
    phrases = sentences(data / "sentiment_pros_cons")
    rng.shuffle(phrases)
    write(out / "text.jsonl", [{"text": t} for t in texts(data, rng)])
    write(out / "demonstrations.jsonl", [{"prompt": p, "response": r} for p, r in demonstrations])
    pairs = [*compared(taught, rng), *compared(taught, rng), *compared(phrases[PHRASES : 2 * PHRASES], rng)]
    rng.shuffle(pairs)
    write(out / "judgements.jsonl", [{"prompt": "", "chosen": better, "rejected": worse} for better, worse in pairs])
    write(out / "prompts.jsonl", [{"prompt": p} for p in sorted({p for p, _ in demonstrations})])
    openings = {cut(t.response)[0] for t in evaluation}
    write(out / "evaluation.jsonl", [{"prompt": p} for p in sorted(openings)[:500]])
    reviews = [{"prompt": "", "response": t.response, "label": int(t.good)} for t in [*judged, *phrases[:PHRASES]]]
    rng.shuffle(reviews)
    write(out / "judge.jsonl", reviews)


def sentences(folder: Path) -> list[Any]:
    """Sentences with a thumb."""
    return list(load(folder, kind="thumb", columns={"response": "text"}).records)


def compared(thumbs: list[Any], rng: random.Random) -> list[tuple[str, str]]:
    """(liked, not liked) at random, as many as there are of the rarer kind, but for the same words under both."""
    liked, not_liked = ([t.response for t in thumbs if t.good is good] for good in (True, False))
    rng.shuffle(liked)
    rng.shuffle(not_liked)
    return [(a, b) for a, b in zip(liked, not_liked, strict=False) if a != b]


def cut(sentence: str) -> tuple[str, str]:
    """(the opening, the rest with its space)."""
    words = sentence.split()
    return " ".join(words[:OPENING]), " " + " ".join(words[OPENING:])


def texts(data: Path, rng: random.Random) -> list[str]:
    """Reviews and paragraphs of books in lower case, of each source up to its size."""
    kept = []
    for source, limit in SIZES.items():
        found = [
            " ".join(piece.lower().split())
            for record in load(data / source, kind="text").records
            for piece in (record.text.split("\n\n") if "books" in source else [record.text])
            if len(piece) > 200
        ]
        rng.shuffle(found)
        size = 0
        for piece in found:
            if (size := size + len(piece)) > limit:
                break
            kept.append(piece)
    rng.shuffle(kept)
    return kept


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
