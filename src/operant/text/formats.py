"""What a row of language data means: the records, and the columns by which each kind of data is recognised."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["text", "demonstration", "ranking", "thumb", "chat", "prompt"]
KINDS: tuple[Kind, ...] = ("text", "demonstration", "ranking", "thumb", "chat", "prompt")


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Demonstration:
    prompt: str
    response: str


@dataclass(frozen=True)
class Ranking:
    """K responses to one prompt. Rank 1 is best, equal ranks are a tie; a chosen and rejected pair has ranks (1, 2)."""

    prompt: str
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    margin: float = 0.0


@dataclass(frozen=True)
class Thumb:
    """One response, judged alone. `prompt` is empty where the data has none (sentences with a sentiment)."""

    prompt: str
    response: str
    good: bool


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Prompt:
    prompt: str


AnyRecord = Text | Demonstration | Ranking | Thumb | Chat | Prompt


class BadRecord(ValueError):
    """A row of a known format that cannot be used. `reason` is what such rows are counted under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


# Where each role is looked for, first match first. The same expressions may be given as `columns`: see `value_at`.
ALIASES: dict[str, tuple[str, ...]] = {
    "text": ("text", "content"),
    "prompt": ("prompt", "instruction+input", "instruction", "question", "query", "source"),
    "response": ("response", "output", "answer", "completion", "reply", "target"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "responses": (
        "responses.*.text",
        "responses",
        "response_a+response_b",
        "completion_a+completion_b",
        "response1+response2",
    ),
    "ranks": ("ranks", "ranking", "responses.*.rank"),
    "scores": ("scores", "responses.*.score"),
    "preference": ("preference", "winner"),
    "label": ("label", "thumb", "good", "feedback"),
    "messages": ("messages", "conversations", "turns"),
    "margin": ("margin",),
}
ROLES = {"human": "user", "prompter": "user", "agent": "assistant", "gpt": "assistant", "bot": "assistant"}
ROLES |= {"api": "tool", "function": "tool"} | {role: role for role in ("system", "user", "assistant", "tool")}
GOOD = {"1", "+1", "true", "yes", "up", "good", "thumbs up", "👍"}
BAD = {"0", "-1", "false", "no", "down", "bad", "thumbs down", "👎"}
PREFERENCES = {"a": 1, "1": 1, "first": 1, "b": 2, "2": 2, "second": 2, "tie": 0, "0": 0, "equal": 0, "same": 0}


def value_at(row: Any, expression: str) -> Any:
    """The value that a column expression names; KeyError if the row has none.

    "reward" is a column; "answer.text" and "targets.0" go inside one; "responses.*.text" takes every item of a list;
    "instruction+input" takes several columns together (a tuple: joined by a blank line, or the items of a list).
    """
    if isinstance(row, dict) and expression in row:
        return row[expression]
    if "+" in expression:
        return tuple(value_at(row, part.strip()) for part in expression.split("+"))
    step, _, rest = expression.partition(".")
    if step == "*" and isinstance(row, list) and rest:
        return [value_at(item, rest) for item in row]
    if isinstance(row, dict) and step in row:
        inner = row[step]
    elif isinstance(row, list) and step.isdecimal() and int(step) < len(row):
        inner = row[int(step)]
    else:
        raise KeyError(expression)
    return value_at(inner, rest) if rest else inner


def transcript(messages: Iterable[Message], reply: bool = False) -> str:
    """Messages as plain text, "User:\\n...\\n\\nAssistant:\\n..."; with `reply`, up to where the assistant answers."""
    turns = [f"{m.role.capitalize()}:\n{m.content}" for m in messages]
    return "\n\n".join([*turns, "Assistant:\n"] if reply else turns)


def split_transcripts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of two transcripts that begin alike.

    The prompt ends after the last "Assistant:" that both share, else after their last common line, else after their
    last common word. Prompt and response put together are the transcript again, to the character.
    """
    common = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - character by character is meant
    for border in (r"(?m)^Assistant:\n?", r"\n+", r"(?=\s)"):
        ends = [found.end() for found in re.finditer(border, common)]
        if ends and common[: ends[-1]].strip():
            return common[: ends[-1]], chosen[ends[-1] :], rejected[ends[-1] :]
    raise BadRecord("transcripts with no common beginning", "the prompt is what they share; or give a prompt column")


def _show(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict | list) for v in value)


def _content(message: dict[str, Any]) -> str:
    given = [k for k, v in message.items() if v is not None and k not in ("role", "from")]
    keys = [k for k in ("content", "text", "value") if k in given] or given
    if len(keys) != 1:
        raise BadRecord("a message without one content", f"{_show(message)}: write {{'role': ..., 'content': ...}}")
    content = message[keys[0]]
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    # A call to a tool and its answer are data: JSON is how the model is to write and read them.
    return json.dumps(content, ensure_ascii=False) if isinstance(content, dict | list) else _plain(content, "message")


def _message(value: Any) -> Message:
    if isinstance(value, dict):
        role, content = value.get("role", value.get("from")), _content(value)
    elif isinstance(value, list) and len(value) == 2:
        role, content = value[0], _plain(value[1], "message")
    else:
        raise BadRecord("not a message", f"{_show(value)}: write {{'role': ..., 'content': ...}}")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadRecord("unknown role", f"{_show(role)}: the roles are {', '.join(sorted(ROLES))}")
    return Message(ROLES[role.lower()], content)


def _plain(value: Any, role: str) -> str:
    """`value` as text, which may be empty."""
    if isinstance(value, tuple):
        return "\n\n".join(part for part in (_plain(v, role) for v in value) if part.strip())
    if role == "prompt" and (isinstance(value, dict) or _is_conversation(value)):
        return transcript(map(_message, [value] if isinstance(value, dict) else value), reply=True)
    if _is_conversation(value) and len(value) == 1:
        return _message(value[0]).content
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return " ".join(value)
    if isinstance(value, dict):
        return _content(value)
    if not isinstance(value, str | None):
        raise BadRecord(f"{role} is not text", f"it is {_show(value)}: write it in quotes")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{role} is not Unicode text", f"half a surrogate pair at character {error.start}") from None
    return value or ""


def _text(value: Any, role: str) -> str:
    text = _plain(value, role)
    if not text.strip():
        raise BadRecord(f"empty {role}")
    return text


def _context(prompt: Any) -> str:
    """The prompt of a judgement; it is "", and said to be, where whole texts are judged."""
    return prompt if prompt == "" else _text(prompt, "prompt")


def _list(value: Any, role: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # a list in a CSV cell
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRecord(f"{role} is not a list", f"{_show(value)} is broken JSON ({error})") from None
    if not isinstance(value, list | tuple):
        raise BadRecord(f"{role} is not a list", _show(value))
    return list(value)


def _number(value: Any, role: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRecord(f"{role} is not a number", _show(value))
    return number


def _ranking(prompt: str, responses: Sequence[str], ranks: Sequence[float]) -> Ranking:
    """Ranks become 1, 2, ... without gaps; the lowest is best."""
    if len(responses) < 2:
        raise BadRecord("fewer than two responses", f"K = {len(responses)}; a ranking compares at least two")
    if len(ranks) != len(responses):
        raise BadRecord("wrong number of ranks", f"{len(ranks)} ranks for {len(responses)} responses")
    if len(set(zip(responses, ranks, strict=True))) > len(set(responses)):
        twice = next(r for r in responses if responses.count(r) > 1)
        what = "chosen equals rejected" if len(responses) == 2 else "one response with two ranks"
        raise BadRecord(what, _show(twice))
    order = sorted(set(ranks))
    return Ranking(prompt, tuple(responses), tuple(order.index(r) + 1 for r in ranks))


def _responses(value: Any) -> list[str]:
    return [_text(v, "response") for v in _list(value, "responses")]


def _ranked(prompt: Any, responses: Any, ranks: Any) -> Ranking:
    numbers = [_number(v, "rank") for v in _list(ranks, "ranks")]
    if any(n != int(n) for n in numbers):
        raise BadRecord("rank is not a whole number", _show(ranks))
    return _ranking(_text(prompt, "prompt"), _responses(responses), numbers)


def _scored(prompt: Any, responses: Any, scores: Any) -> Ranking:
    numbers = [-_number(v, "score") for v in _list(scores, "scores")]
    return _ranking(_text(prompt, "prompt"), _responses(responses), numbers)


def preference_code(value: Any) -> str:
    """The answer without its wording: "a" for "A-is-slightly-better" and for "model_a"."""
    words = [w for w in re.split(r"[^a-z0-9]+", str(value).lower()) if w not in ("model", "response", "completion")]
    return words[0] if words and not isinstance(value, bool) else _show(value)


def _judged(prompt: Any, responses: Any, preference: Any) -> Ranking:
    """Two responses and who won; of several judges the commonest answer counts, and no majority is a tie."""
    answers = preference if isinstance(preference, tuple) else (preference,)
    unknown = [a for a in answers if preference_code(a) not in PREFERENCES]
    if unknown:
        raise BadRecord("preference is not one", f"{_show(unknown[0])}: write a, b or tie; 1, 2 or 0")
    votes = Counter(PREFERENCES[preference_code(a)] for a in answers).most_common()
    winner = 0 if len(votes) > 1 and votes[0][1] == votes[1][1] else votes[0][0]
    return _ranking(_text(prompt, "prompt"), _responses(responses), {0: (1, 1), 1: (1, 2), 2: (2, 1)}[winner])


def _pair(prompt: Any, chosen: Any, rejected: Any) -> Ranking:
    """A pair. As lists of messages the two may hold the prompt as well (`prompt` None, or given once more)."""
    if not (_is_conversation(chosen) and _is_conversation(rejected)):
        return _ranking(_context(prompt), (_text(chosen, "chosen"), _text(rejected, "rejected")), (1, 2))
    (*head, best), (*other, worst) = map(_message, chosen), map(_message, rejected)
    if head != other:
        raise BadRecord("chosen and rejected answer different prompts", "all messages but the last must be the same")
    if (best.role, worst.role) != ("assistant", "assistant"):
        raise BadRecord("chosen or rejected does not end with the assistant", f"{best.role}, {worst.role}")
    if _is_conversation(prompt):
        begin = list(map(_message, prompt))
        head = head if head[: len(begin)] == begin else begin + head
    context = transcript(head, reply=True) if head else _text(prompt, "prompt")
    return _ranking(context, (_text(best.content, "chosen"), _text(worst.content, "rejected")), (1, 2))


def _transcripts(chosen: Any, rejected: Any) -> Ranking:
    if _is_conversation(chosen):
        return _pair(None, chosen, rejected)
    chosen, rejected = _text(chosen, "chosen"), _text(rejected, "rejected")
    if chosen == rejected:
        raise BadRecord("chosen equals rejected", _show(chosen))
    prompt, best, worst = split_transcripts(chosen, rejected)
    return _pair(prompt, best, worst)


def _thumb(prompt: Any, response: Any, label: Any) -> Thumb:
    return replace(_judged_text(response, label), prompt=_context(prompt))


def _judged_text(response: Any, label: Any) -> Thumb:
    word = str(int(label) if isinstance(label, float) and label.is_integer() else label).strip().lower()
    if word not in GOOD | BAD:
        advice = "write true or false, 1 or 0, +1 or -1, up or down, or name the columns to use without this one"
        raise BadRecord("label is not a thumb", f"{_show(label)}: {advice}")
    return Thumb("", _text(response, "response"), word in GOOD)


def _chat(messages: Any) -> Chat:
    turns = _list(messages, "messages")
    if turns and all(isinstance(turn, str) for turn in turns):  # bare turns: two speakers in alternation
        turns = [[("user", "assistant")[i % 2], turn] for i, turn in enumerate(turns)]
    found = tuple(map(_message, turns))
    if empty := [m.role for m in found if not m.content.strip()]:
        raise BadRecord("empty message", f"of the {empty[0]}")
    if {m.role == "assistant" for m in found} != {True, False}:
        raise BadRecord("a chat needs the assistant and someone else", f"roles: {', '.join(m.role for m in found)}")
    return Chat(found)


@dataclass(frozen=True)
class Format:
    """A kind of data, the roles its columns play, and how the values of those columns become one record."""

    kind: Kind
    roles: tuple[str, ...]
    read: Callable[..., AnyRecord]


# The first that fits is taken: those that use more of a row stand above those that use less.
FORMATS = (
    Format("ranking", ("prompt", "chosen", "rejected"), _pair),
    Format("ranking", ("chosen", "rejected"), _transcripts),
    Format("ranking", ("prompt", "responses", "ranks"), _ranked),
    Format("ranking", ("prompt", "responses", "scores"), _scored),
    Format("ranking", ("prompt", "responses", "preference"), _judged),
    Format("thumb", ("prompt", "response", "label"), _thumb),
    Format(
        "demonstration", ("prompt", "response"), lambda p, r: Demonstration(_text(p, "prompt"), _text(r, "response"))
    ),
    Format("thumb", ("response", "label"), _judged_text),
    Format("chat", ("messages",), _chat),
    Format("text", ("text",), lambda text: Text(_text(text, "text"))),
    Format("prompt", ("prompt",), lambda prompt: Prompt(_text(prompt, "prompt"))),
)


def recognise(row: dict[str, Any], columns: dict[str, str]) -> list[tuple[Format, dict[str, str]]]:
    """The formats that a row fits, the likeliest first, with the column expression of each of their roles.

    `columns` names the expression of some roles, and a format must use all of these. Where the prompt is among them, a
    format that uses just these comes first: so a column can be left unread. Raises BadRecord if a named column is
    missing or nothing fits.
    """

    def has(expression: str) -> bool:
        try:
            value_at(row, expression)
        except KeyError:
            return False
        return True

    there = ", ".join(row) or "none"
    for role, expression in columns.items():
        if not has(expression):
            raise BadRecord("missing column", f"{expression!r}, named for {role}; the columns are {there}")
    where = {role: columns.get(role) or next(filter(has, names), "") for role, names in ALIASES.items()}
    named = set(columns) - {"margin"}
    fits = [f for f in FORMATS if all(where[role] for role in f.roles) and named <= set(f.roles)]
    if not fits:
        accepted = " | ".join(", ".join(f.roles) for f in FORMATS)
        advice = "Say which is which with columns, for example {'prompt': 'title', 'response': 'body.text'}"
        raise BadRecord("unknown columns", f"{there}. Accepted: {accepted}. {advice}")
    fits.sort(key=lambda f: "prompt" not in named or set(f.roles) != named)
    extra = ("margin",) if where["margin"] else ()
    return [(f, {r: where[r] for r in (*f.roles, *(extra if f.kind == "ranking" else ()))}) for f in fits]


def read_row(row: dict[str, Any], found: Format, columns: dict[str, str]) -> AnyRecord:
    """One record; BadRecord if the row is of the format but cannot be used."""
    values = {}
    for role, expression in columns.items():
        try:
            values[role] = value_at(row, expression)
        except KeyError:
            raise BadRecord(f"missing {role}", f"there is no {expression!r} here") from None
    margin = values.pop("margin", None)
    record = found.read(*values.values())
    return replace(record, margin=_number(margin, "margin")) if isinstance(record, Ranking) and margin else record
