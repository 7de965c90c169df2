"""Language data as records: recognised by columns, converted where harmless."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

from operant.core.errors import InputError
from operant.text.formats import (
    ALIASES,
    KINDS,
    AnyRecord,
    BadRecord,
    Chat,
    Demonstration,
    Format,
    Kind,
    Message,
    Prompt,
    Ranking,
    Text,
    Thumb,
    preference_code,
    read_row,
    recognise,
    transcript,
    value_at,
)
from operant.text.sources import open_rows

__all__ = [
    "Chat",
    "Dataset",
    "Demonstration",
    "Kind",
    "Message",
    "Prompt",
    "Ranking",
    "Text",
    "Thumb",
    "load",
    "split_dataset",
    "transcript",
]

Reading = tuple[Format, Kind, dict[str, str]]  # the format of a row, the kind wanted in the end, the columns by role


@dataclass(frozen=True)
class Dataset:
    """Records of one kind, where they came from, and what was done to them on the way."""

    kind: Kind
    records: tuple[Any, ...]
    source: str
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def describe(self) -> str:
        """What was recognised and read, for the user: a line, and a second one if there is more to say."""
        count = f"{len(self.records):,} {'record' if len(self.records) == 1 else 'records'}"
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        head = f"{self.kind if self.kind == 'text' else self.kind + 's'}{columns}: {count} from {self.source}"
        return "\n".join([head, "; ".join(self.notes)] if self.notes else [head])


def load(
    source: str | Path,
    kind: str | tuple[str, ...] | None = None,
    columns: dict[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    lines: bool = False,
    skip_bad: bool = False,
) -> Dataset:
    """The records of a file (.jsonl .json .csv .tsv .txt, each also .gz; .parquet), a folder, or a hub data set.

    kind: what is wanted, in order of preference; None takes what is there. Data of another kind is converted where
        that is harmless (CONVERSIONS), and the notes say so. Prompts are kept once each.
    columns: which column plays which role, where the names do not say it: {"prompt": "context", "label": "rating"};
        `formats.value_at` says how to reach inside a column or to join several.
    split: of a hub data set; in a folder, files whose name begins with it are read alone if there are any.
    limit: read at most so many records.
    lines: every line of a .txt file is a record; otherwise every file is one.
    skip_bad: leave out records that cannot be used, and count them, instead of stopping at the first.

    Raises InputError, naming file and line.
    """
    kinds = cast("tuple[Kind, ...]", KINDS if kind is None else (kind,) if isinstance(kind, str) else kind)
    columns = dict(columns or {})
    for name, given, accepted in (("kind", kinds, KINDS), ("columns", tuple(columns), tuple(ALIASES))):
        if unknown := [g for g in given if g not in accepted]:
            raise InputError(f"{name}: {unknown[0]!r} is not known; choose from {', '.join(accepted)}")
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} records cannot be read; give 1 or more, or leave it out")

    rows, notes = open_rows(source, split, lines)
    records: list[AnyRecord] = []
    left_out: Counter[str] = Counter()
    readings: dict[tuple[str, ...], Reading] = {}
    first: Reading | None = None
    codes: set[str] = set()
    for where, row in rows:
        try:
            if not isinstance(row, dict):
                raise BadRecord("not an object with named columns", json.dumps(row)[:60])
            keys = tuple(row)
            if keys not in readings:
                readings[keys] = _choose(row, kinds, columns, first)
            first = first or readings[keys]
            found, _, names = readings[keys]
            records.append(read_row(row, found, names))
        except BadRecord as error:
            if first is None:
                raise InputError(f"{where}: {error}") from None
            if not skip_bad:
                raise InputError(f"{where}: {error}. Correct the record, or leave out such ones: --skip-bad") from None
            left_out[error.reason] += 1
            continue
        if "preference" in names:
            answer = value_at(row, names["preference"])
            codes.update(map(preference_code, answer if isinstance(answer, tuple) else (answer,)))
        if len(records) == limit:
            notes.append(f"stopped at the limit of {limit:,}")
            break
    if first is None:
        raise InputError(f"{source}: no records, it is empty; check that this is the file you mean")
    notes += [f"left out {n:,}: {reason}" for reason, n in left_out.most_common()]
    found, wanted, names = first
    if {"0", "1"} == codes:
        raise InputError(
            f"{source}: the preferences in {names['preference']!r} are all 0 or 1, which may mean tie and first or "
            "first and second; write a, b and tie"
        )
    records, more = _wanted(records, found.kind, wanted)
    notes += more
    if not records:
        raise InputError(f"{source}: no usable {wanted} is left ({'; '.join(notes)}); correct the data")
    return Dataset(wanted, tuple(records), str(source), tuple(notes), tuple(names.values()))


def _wanted(records: list[AnyRecord], found: Kind, wanted: Kind) -> tuple[list[AnyRecord], list[str]]:
    """(records of the wanted kind, notes on how they came about); prompts once each."""
    notes: list[str] = []
    if records and wanted != found:
        converted, note = CONVERSIONS[found, wanted](records)
        records = list(converted)
        notes += [note] if note else []
    if wanted == "prompt":
        count = len(records)
        records = list(dict.fromkeys(records))
        notes += [f"left out {count - len(records):,} repeated prompts"] if len(records) < count else []
    return records, notes


def _choose(row: dict[str, Any], kinds: Sequence[Kind], columns: dict[str, str], first: Reading | None) -> Reading:
    """How to read a row: as the rows before it were read, or else as the likeliest format that gives a wanted kind."""
    fits = recognise(row, columns)
    for found, names in fits:
        if found.kind in kinds:
            wanted: Kind | None = found.kind
        else:
            # A prompt column is read as it stands, whatever came of the prompt: the format "prompt" fits as well.
            own = any("prompt" in other.roles for other, _ in fits)
            reached: list[Kind] = [k for k in kinds if (found.kind, k) in CONVERSIONS and not (own and k == "prompt")]
            wanted = reached[0] if reached else None
        if wanted and first and found is not first[0]:
            before, here = ", ".join(first[2].values()), ", ".join(row)
            raise BadRecord(
                "another format than the records before",
                f"columns {here} where {before} are read; a source has one format",
            )
        if wanted:
            return found, wanted, names
    found, names = fits[0]
    have, want = f"{found.kind} data ({', '.join(names.values())})", " or ".join(kinds)
    raise BadRecord(f"not {want} data", f"this is {have}; give other data, or say with columns what each column is")


def split_dataset(dataset: Dataset, held_out: float, seed: int) -> tuple[Dataset, Dataset]:
    """(train, held out), by prompt: all records of one prompt, and of one conversation's beginning, stay together.

    Prompts are drawn in the order of a hash of prompt and seed, so the same prompts tend to be held out of every data
    set split with the same seed, and a reward model is tested on prompts that no earlier stage has seen. A text alone
    is cut at a line: its end is held out.
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out: {held_out} is no share; give a number between 0 and 1, such as 0.1")
    if dataset.kind == "text" and len(dataset.records) == 1:
        text = dataset.records[0].text
        cut = round(len(text) * (1 - held_out))
        cut = text.rfind("\n", 1, cut) + 1 or cut
        parts = [(Text(part),) if part.strip() else () for part in (text[:cut], text[cut:])]
    else:
        groups: dict[str, list[int]] = {}
        for i, record in enumerate(dataset.records):
            groups.setdefault(_opening(record), []).append(i)
        drawn = sorted(groups.values(), key=lambda group: _hash(seed, _opening(dataset.records[group[0]])))
        room = min(max(round(held_out * len(dataset.records)), 1), len(dataset.records) - 1)
        taken: set[int] = set()
        for group in drawn:
            if len(taken) + len(group) <= room:
                taken.update(group)
        if not taken and len(drawn) > 1:
            taken.update(min(drawn, key=len))
        parts = [tuple(r for i, r in enumerate(dataset.records) if (i in taken) is side) for side in (False, True)]
    if not all(parts):
        raise InputError(f"{dataset.source}: nothing can be held out, there is only one prompt or text; add data")
    train, test = parts
    return replace(dataset, records=train), replace(dataset, records=test)


def _opening(record: AnyRecord) -> str:
    """What makes two records one prompt for splitting: the conversation up to the first answer to a user."""
    if isinstance(record, Text):
        return record.text
    if isinstance(record, Chat):
        users = [i for i, message in enumerate(record.messages) if message.role == "user"]
        return transcript(record.messages[: users[0] + 1] if users else record.messages)
    if isinstance(record, Thumb) and not record.prompt:
        return record.response
    if isinstance(record, Ranking) and not record.prompt:
        return record.responses[0]
    start = re.match(r"(?ms).*?^(?:User|Human):.*?(?=^Assistant:)", record.prompt)
    return start[0] if start else record.prompt


def _hash(seed: int, text: str) -> bytes:
    return blake2b(f"{seed}:{text}".encode()).digest()


def _best(rankings: Sequence[Ranking]) -> tuple[list[Demonstration], str]:
    best = [Demonstration(r.prompt, r.responses[r.ranks.index(1)]) for r in rankings]
    return best, "the best response of each ranking (the first of those tied)"


def _good(thumbs: Sequence[Thumb]) -> tuple[list[Demonstration], str]:
    good = [Demonstration(t.prompt, t.response) for t in thumbs if t.good and t.prompt]
    return good, f"the {len(good):,} responses judged good, of {len(thumbs):,}"


def _good_above_bad(thumbs: Sequence[Thumb]) -> tuple[list[Ranking], str]:
    """One ranking for each prompt with both verdicts. A response that was itself judged both ways is left out."""
    judged: dict[str, dict[str, set[bool]]] = {}
    for t in thumbs:
        judged.setdefault(t.prompt, {}).setdefault(t.response, set()).add(t.good)
    rankings = []
    for prompt, responses in judged.items():
        clear = {response: min(verdicts) for response, verdicts in responses.items() if len(verdicts) == 1}
        if prompt and set(clear.values()) == {True, False}:
            rankings.append(Ranking(prompt, tuple(clear), tuple(1 if good else 2 for good in clear.values())))
    return rankings, f"good above bad in {len(rankings):,} of {len(judged):,} prompts, those that have both"


def _replies(chats: Sequence[Chat]) -> tuple[list[Demonstration], str]:
    replies = [
        Demonstration(transcript(chat.messages[:i], reply=True), message.content)
        for chat in chats
        for i, message in enumerate(chat.messages)
        if i > 0 and message.role == "assistant"
    ]
    return replies, f"every reply of the assistant in {len(chats):,} chats"


CONVERSIONS: dict[tuple[Kind, Kind], Callable[[Sequence[Any]], tuple[Sequence[AnyRecord], str]]] = {
    ("ranking", "demonstration"): _best,
    ("thumb", "demonstration"): _good,
    ("thumb", "ranking"): _good_above_bad,
    ("chat", "demonstration"): _replies,
    ("chat", "text"): lambda chats: ([Text(transcript(c.messages)) for c in chats], "chats as transcripts"),
    ("chat", "prompt"): lambda chats: ([Prompt(d.prompt) for d in _replies(chats)[0]], "prompts of chats"),
    ("ranking", "prompt"): lambda rankings: ([Prompt(r.prompt) for r in rankings], "prompts of rankings"),
    ("text", "prompt"): lambda texts: ([Prompt(t.text) for t in texts], "each text is a prompt"),
}
