"""Reading of language data: formats, conversions, errors with their place, and splits by prompt."""

import csv
import dataclasses
import gzip
import json
import re
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operant.core.errors import InputError
from operant.text.data import (
    Chat,
    Dataset,
    Demonstration,
    Message,
    Prompt,
    Ranking,
    Text,
    Thumb,
    load,
    split_dataset,
    transcript,
)
from operant.text.formats import split_transcripts


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path):
    """A function that writes rows as JSONL and loads them."""
    return lambda *rows, **options: load(jsonl(tmp_path / "data.jsonl", *rows), **options)


def fails(message, source, **options):
    """Check that loading stops with this message, word for word."""
    with pytest.raises(InputError) as caught:
        load(source, **options)
    assert message in str(caught.value)


# Formats


@pytest.mark.parametrize(
    ("row", "record", "columns"),
    [
        ({"text": "a b"}, Text("a b"), ("text",)),
        ({"prompt": "p", "response": "r"}, Demonstration("p", "r"), ("prompt", "response")),
        ({"instruction": "p", "output": "r"}, Demonstration("p", "r"), ("instruction", "output")),
        ({"instruction": "p", "input": "q", "output": "r"}, Demonstration("p\n\nq", "r"), None),
        ({"instruction": "p", "input": "", "output": "r"}, Demonstration("p", "r"), None),
        ({"question": "p", "answer": "r"}, Demonstration("p", "r"), None),
        ({"prompt": "p", "completion": "r"}, Demonstration("p", "r"), None),
        ({"source": ["One.", "Two."], "target": "r"}, Demonstration("One. Two.", "r"), None),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, Ranking("p", ("c", "r"), (1, 2)), None),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": 2}, Ranking("p", ("c", "r"), (1, 2), 2.0), None),
        (
            {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 3]},
            Ranking("p", tuple("abc"), (2, 1, 3)),
            None,
        ),
        (
            {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [0, 5, 0]},
            Ranking("p", tuple("abc"), (1, 2, 1)),
            None,
        ),
        (
            {"prompt": "p", "responses": ["a", "b", "c"], "scores": [0.5, 9, 0.5]},
            Ranking("p", tuple("abc"), (2, 1, 2)),
            None,
        ),
        (
            {"prompt": "p", "responses": [{"text": "a", "rank": 1}, {"text": "b", "rank": 0}]},
            Ranking("p", ("a", "b"), (2, 1)),
            ("prompt", "responses.*.text", "responses.*.rank"),
        ),
        (
            {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "model_b"},
            Ranking("p", ("a", "b"), (2, 1)),
            ("prompt", "response_a+response_b", "winner"),
        ),
        ({"prompt": "p", "response": "r", "label": True}, Thumb("p", "r", True), ("prompt", "response", "label")),
        ({"response": "r", "label": 0}, Thumb("", "r", False), ("response", "label")),
        ({"prompt": "p"}, Prompt("p"), ("prompt",)),
        (
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
            Chat((Message("user", "u"), Message("assistant", "a"))),
            ("messages",),
        ),
        (
            {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
            Chat((Message("user", "u"), Message("assistant", "a"))),
            ("conversations",),
        ),
        ({"turns": [["user", "u"], ["agent", "a"]]}, Chat((Message("user", "u"), Message("assistant", "a"))), None),
        ({"turns": ["u", "a"]}, Chat((Message("user", "u"), Message("assistant", "a"))), None),
    ],
)
def test_a_format_is_recognised_by_its_columns(rows, row, record, columns):
    found = rows({**row, "id": 7})
    assert found.records == (record,)
    assert found.kind == type(record).__name__.lower()
    assert columns is None or found.columns == columns


@pytest.mark.parametrize(
    ("value", "good"),
    [
        *[(True, True), (False, False), (1, True), (0, False), (-1, False), (1.0, True), (-1.0, False)],
        *[("up", True), ("Down", False), ("+1", True), ("-1", False), ("true", True), ("👎", False)],
    ],
)
def test_thumbs_in_their_many_spellings(rows, value, good):
    assert rows({"prompt": "p", "response": "r", "label": value}).records == (Thumb("p", "r", good),)


@pytest.mark.parametrize(
    ("preference", "ranks"),
    [
        *[("a", (1, 2)), ("B", (2, 1)), ("tie", (1, 1)), ("tie (bothbad)", (1, 1)), (1, (1, 2)), (2, (2, 1))],
        *[("0", (1, 1)), ("a-is-slightly-better", (1, 2)), ("b-is-better", (2, 1)), ("response_a", (1, 2))],
    ],
)
def test_who_won_in_its_many_spellings(rows, preference, ranks):
    found = rows({"prompt": "p", "completion_a": "x", "completion_b": "y", "preference": preference})
    assert found.records == (Ranking("p", ("x", "y"), ranks),)


def test_of_several_judges_the_commonest_answer_counts(rows):
    names = ["ann", "ben", "cat"]
    cases = {(1, 1, 2): (1, 2), (2, 0, 2): (2, 1), (0, 0, 1): (1, 1), (0, 1, 2): (1, 1), (2, 1, 0): (1, 1)}
    pair = {"prompt": "p", "response1": "x", "response2": "y"}
    found = rows(
        *[{**pair, **dict(zip(names, votes, strict=True))} for votes in cases], columns={"preference": "ann+ben+cat"}
    )
    assert [r.ranks for r in found.records] == list(cases.values())


def test_preferences_that_are_all_0_or_1_are_not_guessed_at(rows, tmp_path):
    pair = {"prompt": "p", "response_a": "x", "response_b": "y"}
    with pytest.raises(InputError, match="all 0 or 1, which may mean tie and first or first and second"):
        rows({**pair, "preference": 0}, {**pair, "preference": 1})
    found = rows({**pair, "preference": 0}, {**pair, "preference": 1}, {**pair, "preference": 2})
    assert [r.ranks for r in found.records] == [(1, 1), (1, 2), (2, 1)]


def test_columns_are_mapped_and_reached_into(rows):
    row = {"context": "p", "reply": {"text": "r"}, "rating": "up", "targets": ["s", "t"]}
    thumb = rows(row, columns={"prompt": "context", "response": "reply.text", "label": "rating"})
    assert thumb.records == (Thumb("p", "r", True),)
    assert rows(row, columns={"prompt": "context", "response": "targets.1"}).records == (Demonstration("p", "t"),)
    assert rows(row, columns={"prompt": "context+rating"}, kind="prompt").records == (Prompt("p\n\nup"),)
    scored = {"question": "q", "models": [{"out": "x", "ok": False}, {"out": "y", "ok": True}]}
    ranking = rows(scored, columns={"responses": "models.*.out", "scores": "models.*.ok"})
    assert ranking.records == (Ranking("q", ("x", "y"), (2, 1)),)


def test_a_column_named_like_an_expression_is_itself(rows):
    assert rows({"a+b": "p", "c.d": "r"}, columns={"prompt": "a+b", "response": "c.d"}).records == (
        Demonstration("p", "r"),
    )


def test_named_columns_are_enough_to_leave_one_unread(rows):
    row = {"prompt": "p", "response": "r", "label": "poetry"}
    assert rows(row, columns={"prompt": "prompt", "response": "response"}).records == (Demonstration("p", "r"),)


def test_messages_as_prompt_become_a_transcript(rows):
    prompt = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}, ["prompter", "v"]]
    text = "User:\nu\n\nAssistant:\na\n\nUser:\nv\n\nAssistant:\n"
    assert rows({"prompt": prompt, "response": "r"}).records == (Demonstration(text, "r"),)
    reply = [{"role": "assistant", "content": "r"}]
    assert rows({"prompt": prompt, "completion": reply}).records == (Demonstration(text, "r"),)


@pytest.mark.parametrize("with_prompt", ["none", "text", "messages"])
@pytest.mark.parametrize("whole", [True, False])
def test_pairs_of_message_lists(rows, with_prompt, whole):
    """The prompt stands in the prompt column, in both lists, or in both places: always the same record."""
    user = {"role": "user", "content": "u"}
    good, bad = ({"role": "assistant", "content": c} for c in ("good", "bad"))
    prompt = {"none": {}, "text": {"prompt": "u"}, "messages": {"prompt": [user]}}[with_prompt]
    row = {**prompt, "chosen": [user, good] if whole else [good], "rejected": [user, bad] if whole else [bad]}
    if with_prompt == "none" and not whole:
        with pytest.raises(InputError, match="empty prompt"):
            rows(row)
    else:
        text = "u" if with_prompt == "text" and not whole else "User:\nu\n\nAssistant:\n"
        assert rows(row).records == (Ranking(text, ("good", "bad"), (1, 2)),)


def test_a_conversation_may_go_on_in_the_pair(rows):
    common = [["assistant", "a"], ["user", "v"]]
    row = {
        "prompt": [["user", "u"]],
        "chosen": [*common, ["assistant", "b"]],
        "rejected": [*common, ["assistant", "c"]],
    }
    text = "User:\nu\n\nAssistant:\na\n\nUser:\nv\n\nAssistant:\n"
    assert rows(row).records == (Ranking(text, ("b", "c"), (1, 2)),)


def test_calls_to_tools_are_json_and_parts_are_joined(rows):
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Where "}, {"type": "text", "text": "is Oslo?"}]},
        {"role": "agent", "api": {"find": "Oslo"}},
        {"role": "api", "response": {"land": "Norge", "lat": 59.9}},
        {"role": "assistant", "content": "In Norway.", "tool_calls": None},
    ]
    assert rows({"messages": turns}).records[0].messages == (
        Message("user", "Where is Oslo?"),
        Message("assistant", '{"find": "Oslo"}'),
        Message("tool", '{"land": "Norge", "lat": 59.9}'),
        Message("assistant", "In Norway."),
    )


# Transcripts with a common beginning


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("\n\nHuman: Hi\n\nAssistant: Yes.", "\n\nHuman: Hi\n\nAssistant: No.", "\n\nHuman: Hi\n\nAssistant:"),
        (
            "\n\nHuman: Hi\n\nAssistant: I say yes",
            "\n\nHuman: Hi\n\nAssistant: I say no",
            "\n\nHuman: Hi\n\nAssistant:",
        ),
        (
            "Human: Hi\n\nAssistant: Ho\n\nHuman: So?\n\nAssistant: A",
            "Human: Hi\n\nAssistant: Ho\n\nHuman: So?\n\nAssistant: B",
            "Human: Hi\n\nAssistant: Ho\n\nHuman: So?\n\nAssistant:",
        ),
        ("User:\nHi\n\nAssistant:\nA", "User:\nHi\n\nAssistant:\nB", "User:\nHi\n\nAssistant:\n"),
        ("Q: two and two?\nfour", "Q: two and two?\nfive", "Q: two and two?\n"),
        ("The cat sat", "The cat ran", "The cat"),
        ("The catalogue", "The cathedral", "The"),
        ("A b", "A b c", "A"),
    ],
)
def test_transcripts_part_at_a_turn_a_line_or_a_word(rows, chosen, rejected, prompt):
    for best, worst in ((chosen, rejected), (rejected, chosen)):
        found = rows({"chosen": best, "rejected": worst}).records[0]
        assert found.prompt == prompt
        assert [found.prompt + r for r in found.responses] == [best, worst]
        assert found.ranks == (1, 2)


@given(
    st.text(alphabet="ab \n", max_size=20), st.text(alphabet="ab \n", max_size=6), st.text(alphabet="cd ", max_size=6)
)
def test_parted_transcripts_come_together_again(common, chosen, rejected):
    """Whatever the border, nothing is lost, and beyond an Assistant turn the border is that turn."""
    start = f"Human:{common}\n\nAssistant:"
    prompt, best, worst = split_transcripts(start + " " + chosen, start + " " + rejected)
    assert (prompt, best, worst) == (start, " " + chosen, " " + rejected)


def test_transcripts_that_share_nothing(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", {"chosen": "yes", "rejected": "no"})
    fails(f"{path}:1: transcripts with no common beginning", path)


# Files


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_file_format_gives_the_same_records(tmp_path, suffix):
    pairs = [("Wer?\nIch", 'Er sagte: "ja",\t\r\nso'), ("日本", "🙂 ok"), ("[1]", "{x}")]
    table = [{"prompt": p, "response": r.replace("\r", "")} for p, r in pairs]
    path = tmp_path / f"d{suffix}"
    if suffix == ".jsonl":
        jsonl(path, *table)
    elif suffix == ".json":
        path.write_text(json.dumps(table, indent=2), encoding="utf-8")
    elif suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pa.parquet = pytest.importorskip("pyarrow.parquet")
        pa.parquet.write_table(pa.Table.from_pylist(table), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "response"], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(table)
    expected = tuple(Demonstration(**row) for row in table)
    assert load(path).records == expected
    assert load(str(path)).source == str(path)
    if suffix != ".parquet":
        packed = tmp_path / f"packed{suffix}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert load(packed).records == expected
        marked = tmp_path / f"marked{suffix}"
        marked.write_bytes(b"\xef\xbb\xbf" + re.sub(rb"\r?\n", b"\r\n", path.read_bytes()))
        assert load(marked).records == expected


@given(st.lists(st.tuples(*[st.text(min_size=1).filter(str.strip)] * 3), min_size=1, max_size=3))
def test_what_is_written_as_json_is_read_again(tmp_path_factory, triples):
    """Every kind of record survives the way through a file, whatever characters it holds."""
    triples = [(p, a, a + b) for p, a, b in triples]
    kinds = {
        "text": [Text(p) for p, _, _ in triples],
        "demonstration": [Demonstration(p, a) for p, a, _ in triples],
        "ranking": [Ranking(p, (a, b, a), (2, 1, 2), 0.5) for p, a, b in triples],
        "thumb": [Thumb(p, a, len(b) % 2 == 0) for p, a, b in triples],
        "chat": [Chat((Message("system", p), Message("user", b), Message("assistant", a))) for p, a, b in triples],
        "prompt": [Prompt(p) for p in dict.fromkeys(p for p, _, _ in triples)],
    }
    for kind, records in kinds.items():
        path = jsonl(tmp_path_factory.mktemp("data") / "d.jsonl", *map(dataclasses.asdict, records))
        found = load(path)
        assert (found.kind, list(found.records)) == (kind, records)


def test_json_under_data_and_blank_lines(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}')
    assert load(path).records == (Text("a"), Text("b"))
    path = tmp_path / "d.jsonl"
    path.write_text('\n{"text": "a"}\n\n{"text": "b"}')
    assert load(path).records == (Text("a"), Text("b"))


def test_lists_in_table_cells(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('prompt,responses,ranks\np,"[""a"", ""b"", ""c""]","[2, 1, 2]"\n')
    assert load(path).records == (Ranking("p", ("a", "b", "c"), (2, 1, 2)),)


def test_a_text_file_is_a_document_or_its_lines(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.\r\n\r\nTwo \xe2\x80\x94 2.\r\n")
    assert load(path).records == (Text("One.\n\nTwo — 2.\n"),)
    assert load(path, lines=True).records == (Text("One."), Text("Two — 2."))
    prompts = load(path, kind="prompt", lines=True)
    assert prompts.records == (Prompt("One."), Prompt("Two — 2."))
    assert "each text is a prompt" in prompts.notes


def test_a_folder_is_its_files_in_order(tmp_path):
    for name, text in (
        ("b.txt", "B"),
        ("a.txt", "A"),
        ("README.txt", "not data"),
        (".hidden.txt", "no"),
        ("i.tsv", "x"),
    ):
        (tmp_path / name).write_text(text)
    found = load(tmp_path)
    assert found.records == (Text("A"), Text("B"))
    assert found.notes == ("2 files", "not read: i.tsv")
    assert found.source == str(tmp_path)


def test_a_folder_with_splits(tmp_path):
    for name in ("train-0", "train-1", "test", "trainer"):
        jsonl(tmp_path / f"{name}.jsonl", {"text": name})
    assert load(tmp_path).records == (Text("train-0"), Text("train-1"))
    assert load(tmp_path, split="test").records == (Text("test"),)
    fails("no file is named dev; there are test.jsonl", tmp_path, split="dev")


def test_folders_that_cannot_be_read(tmp_path):
    fails(f"{tmp_path}: there is no data file in this folder", tmp_path)
    jsonl(tmp_path / "a.jsonl", {"text": "a"})
    (tmp_path / "b.csv").write_text("text\nb\n")
    fails(f"{tmp_path}: files of several formats (a.jsonl, b.csv)", tmp_path)
    other = jsonl(tmp_path / "c.jsonl", {"prompt": "p", "response": "r"})
    fails(f"{other}:1: another format than the records before: columns prompt, response where text are read", tmp_path)


def test_a_limit_stops_the_reading(tmp_path):
    """Nothing after the limit is looked at: the second line is no JSON."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a"}\n{"text"\n')
    found = load(path, limit=1)
    assert found.records == (Text("a"),)
    assert found.notes == ("stopped at the limit of 1",)
    fails("limit: 0 records cannot be read", path, limit=0)


# The hub, by a stand-in


def test_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load_dataset(name, split):
        if (name, split) != ("owner/name", "test"):
            raise ConnectionError("no route")
        return [{"prompt": "p", "chosen": "c", "rejected": "r"}, {"prompt": "p", "chosen": "c", "rejected": "c"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    found = load("owner/name", split="test", skip_bad=True)
    assert found.records == (Ranking("p", ("c", "r"), (1, 2)),)
    assert found.notes == ("split test", "left out 1: chosen equals rejected")
    fails("owner/name[test]: record 2: chosen equals rejected", "owner/name", split="test")
    fails("owner/name: the hub did not give split 'train' (ConnectionError: no route)", "owner/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    fails("pip install 'operant[hub]'", "owner/name")
    (tmp_path / "owner").mkdir()
    fails("owner/name: there is no such file or folder", "owner/name")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fails(f"{path}: reading .parquet needs pyarrow: pip install 'operant[parquet]'", path)


def test_broken_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "d.parquet"
    path.write_bytes(b"no parquet at all")
    fails(f"{path}: broken Parquet after record 0", path)


# Conversions


def test_rankings_as_demonstrations_and_prompts(rows):
    row = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 1]}
    best = rows(row, kind="demonstration")
    assert best.records == (Demonstration("p", "b"),)
    assert best.notes == ("the best response of each ranking (the first of those tied)",)
    assert rows({"chosen": "Q? a", "rejected": "Q? b"}, kind="prompt").records == (Prompt("Q?"),)


def test_prompts_are_kept_once(rows):
    found = rows(*[{"prompt": p, "response": r} for p in "abab" for r in ("x", "")], kind="prompt")
    assert found.records == (Prompt("a"), Prompt("b"))
    assert found.notes == ("left out 6 repeated prompts",)


def test_thumbs_as_demonstrations_and_rankings(rows):
    judged = [("p", "a", 1), ("p", "b", 0), ("p", "c", 0), ("p", "d", 0), ("p", "d", 1), ("q", "e", 1), ("r", "f", 0)]
    thumbs = [{"prompt": p, "response": r, "label": label} for p, r, label in judged]
    good = rows(*thumbs, kind="demonstration")
    assert good.records == (Demonstration("p", "a"), Demonstration("p", "d"), Demonstration("q", "e"))
    assert good.notes == ("the 3 responses judged good, of 7",)
    ranking = rows(*thumbs, kind="ranking")
    assert ranking.records == (Ranking("p", ("a", "b", "c"), (1, 2, 2)),)
    assert ranking.notes == ("good above bad in 1 of 3 prompts, those that have both",)
    assert rows(*thumbs, kind=("thumb", "ranking")).kind == "thumb"


def test_thumbs_without_a_prompt_make_no_ranking(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", {"response": "a", "label": 1}, {"response": "b", "label": 0})
    fails(f"{path}: no usable ranking is left (good above bad in 0 of 1 prompts", path, kind="ranking")


def test_chats_as_demonstrations_prompts_and_text(rows):
    chat = {"turns": ["u", "a", "v", "b"]}
    first, second = "User:\nu\n\nAssistant:\n", "User:\nu\n\nAssistant:\na\n\nUser:\nv\n\nAssistant:\n"
    assert rows(chat, kind="demonstration").records == (Demonstration(first, "a"), Demonstration(second, "b"))
    assert rows(chat, kind="prompt").records == (Prompt(first), Prompt(second))
    assert rows(chat, kind="text").records == (Text(second + "b"),)


def test_kinds_that_cannot_be_had(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", {"prompt": "p", "response": "r"})
    fails(
        f"{path}:1: not ranking or thumb data: this is demonstration data (prompt, response)",
        path,
        kind=("ranking", "thumb"),
    )
    fails("kind: 'reward' is not known; choose from text, demonstration", path, kind="reward")
    fails("columns: 'reply' is not known; choose from text, prompt", path, columns={"reply": "r"})


def test_what_is_said_aloud(rows, tmp_path):
    path = tmp_path / "data.jsonl"
    pair = {"prompt": "p", "response": "r"}
    assert rows(pair).describe() == f"demonstrations (prompt, response): 1 record from {path}"
    many = rows(*[pair] * 1200, {"prompt": "p", "response": ""}, {"prompt": " ", "response": "r"}, skip_bad=True)
    assert many.describe() == (
        f"demonstrations (prompt, response): 1,200 records from {path}\n"
        "left out 1: empty response; left out 1: empty prompt"
    )


def test_comparisons_of_whole_texts_can_be_held_out(rows):
    pairs = rows(*({"prompt": "", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)))
    train, test = split_dataset(pairs, 0.2, seed=0)
    assert (len(train.records), len(test.records)) == (16, 4)


def test_whole_texts_may_be_judged_with_an_empty_prompt(rows):
    assert rows({"prompt": "", "response": "r", "label": 1}).records == (Thumb("", "r", True),)
    assert rows({"prompt": "", "chosen": "a", "rejected": "b"}).records == (Ranking("", ("a", "b"), (1, 2)),)


# Errors


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "response": " \n"}, "empty response"),
        ({"prompt": "p", "response": None}, "empty response"),
        ({"prompt": "", "response": "r"}, "empty prompt"),
        ({"prompt": [], "response": "r"}, "empty prompt"),
        ({"prompt": "p", "response": 42}, "response is not text: it is 42"),
        ({"prompt": True, "response": "r"}, "prompt is not text: it is true"),
        ({"prompt": "p", "response": "\ud83d"}, "response is not Unicode text: half a surrogate pair at character 0"),
        ({"prompt": "p"}, "another format than the records before: columns prompt where prompt, response are read"),
        ([1, 2], "not an object with named columns: [1, 2]"),
    ],
)
def test_a_bad_record_stops_with_its_line(tmp_path, row, message):
    good = {"prompt": "p", "response": "r"}
    path = jsonl(tmp_path / "d.jsonl", good, good, row)
    fails(f"{path}:3: {message}", path)
    assert load(path, skip_bad=True).records == (Demonstration("p", "r"),) * 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "x", "rejected": "x"}, 'chosen equals rejected: "x"'),
        ({"chosen": "Q? x", "rejected": "Q? x"}, 'chosen equals rejected: "Q? x"'),
        ({"prompt": "p", "chosen": "x", "rejected": ""}, "empty rejected"),
        ({"prompt": "p", "responses": ["a"], "ranks": [1]}, "fewer than two responses: K = 1"),
        ({"prompt": "p", "responses": [], "ranks": []}, "fewer than two responses: K = 0"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [1]}, "wrong number of ranks: 1 ranks for 2 responses"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [1, 1.5]}, "rank is not a whole number: [1, 1.5]"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [1, "x"]}, 'rank is not a number: "x"'),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1, float("nan")]}, "score is not a number: NaN"),
        ({"prompt": "p", "responses": "a", "ranks": [1]}, 'responses is not a list: "a"'),
        ({"prompt": "p", "responses": "[1", "ranks": [1]}, 'responses is not a list: "[1" is broken JSON'),
        ({"prompt": "p", "responses": ["a", "a", "b"], "ranks": [1, 2, 3]}, 'one response with two ranks: "a"'),
        ({"prompt": "p", "responses": ["a", "b"], "preference": "c"}, 'preference is not one: "c"'),
        ({"prompt": "p", "response": "r", "label": 3}, "label is not a thumb: 3: write true or false"),
        ({"prompt": "p", "response": "r", "label": None}, "label is not a thumb: null"),
        ({"messages": [{"role": "user", "content": "u"}]}, "a chat needs the assistant and someone else: roles: user"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "a chat needs the assistant and someone else"),
        ({"messages": []}, "a chat needs the assistant and someone else"),
        ({"messages": [{"role": "king", "content": "u"}]}, 'unknown role: "king"'),
        ({"messages": [{"role": "user"}]}, "a message without one content"),
        ({"messages": ["u", 3]}, 'not a message: "u"'),
        ({"messages": ["u", " "]}, "empty message: of the assistant"),
        (
            {"chosen": [["user", "u"], ["user", "v"]], "rejected": [["user", "u"], ["bot", "w"]]},
            "chosen or rejected does",
        ),
        (
            {"chosen": [["user", "u"], ["bot", "v"]], "rejected": [["user", "x"], ["bot", "w"]]},
            "chosen and rejected answer",
        ),
        ({"title": "t", "body": "b"}, "unknown columns: title, body. Accepted: prompt, chosen, rejected | "),
        ({}, "unknown columns: none"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, row, message):
    path = tmp_path / "d.jsonl"
    path.write_text("\n\n" + json.dumps(row))
    fails(f"{path}:3: {message}", path)


def test_no_usable_record_left(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", *[{"prompt": "p", "response": ""}] * 2)
    fails(f"{path}: no usable demonstration is left (left out 2: empty response)", path, skip_bad=True)


def test_a_mapped_column_that_is_missing(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", {"a": "p"}, {"b": "p"})
    fails(f"{path}:1: missing column: 'c', named for prompt; the columns are a", path, columns={"prompt": "c"})
    fails(f"{path}:2: missing column: 'a', named for prompt; the columns are b", path, columns={"prompt": "a"})


def test_a_value_that_is_missing_inside_a_column(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", {"prompt": "p", "out": ["r"]}, {"prompt": "p", "out": []})
    fails(f"{path}:2: missing response: there is no 'out.0' here", path, columns={"response": "out.0"})


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.tsv", "d.txt"])
@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf"])
def test_an_empty_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    fails(f"{path}: no records, it is empty", path)


def test_files_that_are_not_there_or_not_data(tmp_path):
    fails(f"{tmp_path / 'no.jsonl'}: there is no such file or folder", tmp_path / "no.jsonl")
    path = tmp_path / "d.xlsx"
    path.write_text("x")
    fails(f"{path}: .xlsx is no format that is read here: .jsonl, .json, .csv", path)


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("d.jsonl", '{"text": "a"}\n{"text": "b"\n', 2, "broken JSON at column "),
        ("d.jsonl", '{"text": "a"}\n{"text": "b"}{"text": "c"}\n', 2, "broken JSON at column 14: Extra data"),
        ("d.jsonl", '[\n{"text": "a"}\n]\n', 1, "broken JSON at column "),
        ("d.json", '[\n {"text": "a"},\n {"text": b}\n]', 3, "broken JSON at column 11: Expecting value"),
        (
            "d.json",
            '{"text": "a"}\n{"text": "b"}\n',
            2,
            "broken JSON at column 1: Extra data; if every line is an object",
        ),
        ("d.json", '{"rows": []}', 1, "a .json file must hold a list of objects"),
        ("d.jsonl", "[" * 200_000, 1, "JSON that cannot be read"),
        ("d.csv", 'prompt,response\np,"a\nb"\np,q,r\n', 4, "3 fields under 2 columns"),
        ("d.csv", 'prompt,response\np,r\np,"a" b\n', 3, "broken table"),
        ("d.csv", 'prompt,response\np,r\np,"a\n\n', 3, "broken table"),
        ("d.csv", "text,text\na,b\n", 1, "two columns have one name (text, text)"),
    ],
)
def test_broken_files_are_told_by_line(tmp_path, name, content, line, message):
    path = tmp_path / name
    path.write_text(content)
    fails(f"{path}:{line}: {message}", path)


def test_a_bad_record_in_a_table_is_told_by_the_line_it_begins_on(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('prompt,response\n"a\n\nb",c\np,""\n')
    fails(f"{path}:5: empty response", path)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.txt"])
def test_bytes_that_are_not_utf8(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'text\n{"a": "\xe9"}\n' if name != "d.jsonl" else b'{"text": 1}\n{"a": "\xe9"}\n'[14:])
    data = path.read_bytes()
    at = data.index(0xE9)
    line = data[:at].count(b"\n") + 1
    fails(f"{path}:{line}: not UTF-8, byte {at} is 0xe9; save the file as UTF-8", path)


def test_the_byte_is_counted_from_the_start_of_the_file(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "\xff"}\n')
    fails(f"{path}:2: not UTF-8, byte 28 is 0xff", path)
    assert path.read_bytes()[28] == 0xFF


def test_broken_gzip(tmp_path):
    path = tmp_path / "d.jsonl.gz"
    whole = gzip.compress(json.dumps({"text": "a" * 1000}).encode())
    for content in (b"plain text", whole[:-9], whole[:12] + b"\xff\xff" + whole[14:]):
        path.write_bytes(content)
        fails(f"{path}: cannot be read (", path)


# Splitting


def of(records, kind="demonstration"):
    return Dataset(kind, tuple(records), "here")


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 99)), min_size=2),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_no_prompt_stands_on_both_sides(pairs, held_out, seed):
    data = of([Demonstration(p, str(i)) for p, i in pairs])
    prompts = {p for p, _ in pairs}
    if len(prompts) == 1:
        with pytest.raises(InputError, match="only one prompt"):
            split_dataset(data, held_out, seed)
        return
    train, test = split_dataset(data, held_out, seed)
    assert not {r.prompt for r in train.records} & {r.prompt for r in test.records}
    assert sorted(map(repr, train.records + test.records)) == sorted(map(repr, data.records))
    assert train.records
    assert test.records
    assert [r for r in data.records if r in set(train.records)] == list(train.records)
    assert split_dataset(data, held_out, seed) == (train, test)


def test_the_share_is_kept_and_the_seed_matters():
    data = of([Demonstration(f"p{i}", "r") for i in range(1000)])
    assert [len(split_dataset(data, 0.1, seed)[1].records) for seed in range(5)] == [100] * 5
    assert split_dataset(data, 0.1, 0)[1] != split_dataset(data, 0.1, 1)[1]


def test_stages_hold_out_the_same_prompts():
    """Two data sets over the same prompts, in another order and of another kind, part in the same way."""
    prompts = [f"p{i}" for i in range(200)]
    _, first = split_dataset(of([Demonstration(p, "r") for p in prompts]), 0.2, 3)
    _, second = split_dataset(of([Prompt(p) for p in reversed(prompts)], "prompt"), 0.2, 3)
    assert {r.prompt for r in first.records} == {r.prompt for r in second.records}


def test_a_conversation_stays_together(rows):
    """Replies of one chat have prompts that begin alike: the later ones would give the earlier ones away."""
    chats = [{"turns": [f"u{i}", f"a{i}", f"v{i}", f"b{i}", "w", "c"]} for i in range(40)]
    train, test = split_dataset(rows(*chats, kind="demonstration"), 0.25, 0)
    starts = [{transcript_start(r.prompt) for r in side.records} for side in (train, test)]
    assert not starts[0] & starts[1]
    assert [len(s) for s in starts] == [30, 10]
    train, test = split_dataset(rows(*chats, {"turns": ["u0", "other"]}), 0.25, 0)
    starts = [{r.messages[0].content for r in side.records} for side in (train, test)]
    assert not starts[0] & starts[1]


def transcript_start(prompt):
    return prompt.split("\n")[1]


def test_a_text_alone_is_cut_at_a_line():
    text = "".join(f"line {i}\n" for i in range(100))
    train, test = split_dataset(of([Text(text)], "text"), 0.1, 0)
    assert train.records[0].text + test.records[0].text == text
    assert test.records[0].text.startswith("line ")
    assert len(test.records[0].text) == pytest.approx(0.1 * len(text), abs=8)
    train, test = split_dataset(of([Text("x" * 100)], "text"), 0.1, 0)
    assert (len(train.records[0].text), len(test.records[0].text)) == (90, 10)


def test_thumbs_without_a_prompt_are_split_by_response():
    data = of([Thumb("", f"s{i % 50}", bool(i % 2)) for i in range(100)], "thumb")
    train, test = split_dataset(data, 0.2, 0)
    assert (len(train.records), len(test.records)) == (80, 20)
    assert not {r.response for r in train.records} & {r.response for r in test.records}


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(InputError, match=r"held_out: .* is no share"):
        split_dataset(of([Prompt("a"), Prompt("b")], "prompt"), share, 0)


def test_transcript():
    messages = [Message("system", "Be kind."), Message("user", "Hi")]
    assert transcript(messages) == "System:\nBe kind.\n\nUser:\nHi"
    assert transcript(messages, reply=True) == "System:\nBe kind.\n\nUser:\nHi\n\nAssistant:\n"


# The development data sets, where they are

INSTANCE = {"prompt": "instruction+instances.0.input", "response": "instances.0.output"}
REWARD = {"prompt": "context", "response": "generation", "label": "reward"}
EVALS = {"chosen": "answer_matching_behavior", "rejected": "answer_not_matching_behavior"}
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@pytest.mark.data
@pytest.mark.parametrize(
    ("source", "options", "kind", "count"),
    [
        ("text_classic_books", {}, "text", 57),
        ("text_tinyshakespeare", {}, "text", 1),
        ("text_names", {"lines": True, "limit": 1000}, "text", 1000),
        ("text_coco_captions/image_coco.txt", {"lines": True, "limit": 1000}, "text", 1000),
        ("sentiment_sentence_polarity", {"limit": 1000}, "text", 1000),
        ("sentiment_sentence_polarity", {"columns": {"response": "text"}, "limit": 1000}, "thumb", 1000),
        ("sentiment_pros_cons", {"columns": {"response": "text"}, "limit": 1000}, "thumb", 1000),
        ("sentiment_movie_reviews", {"columns": {"response": "text"}}, "thumb", 2000),
        ("demos_self_instruct/seed_tasks.jsonl", {"columns": INSTANCE}, "demonstration", 175),
        ("demos_self_instruct/user_oriented_instructions.jsonl", {"columns": INSTANCE}, "demonstration", 252),
        ("demos_self_instruct/predictions.jsonl", {"skip_bad": True}, "demonstration", 1965),
        ("demos_self_instruct/predictions.jsonl", {"kind": "prompt"}, "prompt", 252),
        ("rank_oasst100/demonstrations.jsonl", {}, "demonstration", 249),
        ("rank_oasst100/rankings.jsonl", {}, "ranking", 207),
        ("rank_oasst100/trees.jsonl", {}, "prompt", 100),
        ("pref_tulu_human", {"skip_bad": True}, "ranking", 1149),
        (
            "pref_pandalm",
            {"columns": {"preference": "annotator1+annotator2+annotator3"}, "skip_bad": True},
            "ranking",
            945,
        ),
        ("pref_anthropic_evals", {"columns": EVALS, "limit": 2000}, "ranking", 2000),
        ("pref_taskmaster_reward", {"columns": REWARD, "limit": 500, "skip_bad": True}, "thumb", 500),
        ("pref_taskmaster_reward", {"columns": REWARD, "skip_bad": True, "kind": "ranking"}, "ranking", 230),
        ("dialogue_taskmaster4", {}, "chat", 3710),
        ("dialogue_taskmaster4", {"kind": "demonstration"}, "demonstration", 6920),
        ("dialogue_self_dialogue", {"limit": 1000}, "chat", 1000),
        ("summ_scitldr", {"columns": {"response": "targets.0"}}, "demonstration", 1992),
        ("summ_scitldr", {"columns": {"response": "targets.0"}, "split": "dev"}, "demonstration", 619),
        ("math_gsm8k", {}, "demonstration", 7473),
        ("math_gsm8k", {"split": "test"}, "demonstration", 1319),
        (
            "math_gsm8k/example_model_solutions.jsonl",
            {
                "columns": {
                    r: "+".join(f"{m}.{f}" for m in MODELS)
                    for r, f in (("responses", "solution"), ("scores", "is_correct"))
                }
            },
            "ranking",
            1319,
        ),
    ],
)
def test_the_development_data_can_be_read(data, source, options, kind, count):
    found = load(data / source, **options)
    assert (found.kind, len(found.records)) == (kind, count)
    train, test = split_dataset(found, 0.1, 0)
    assert train.records
    assert test.records
