"""Rows from files, folders and the hub, a line at a time, each with its place for messages."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from operant.core.errors import InputError

Rows = Iterator[tuple[str, Any]]  # where a row stands, for messages, and the row


def _suffix(path: Path) -> str:
    """The suffix that says the format: .jsonl for both a.jsonl and a.jsonl.gz."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def open_rows(source: str | Path, split: str, lines: bool) -> tuple[Rows, list[str]]:
    """(rows, notes on what was left unread) of a file, a folder or a hub data set; nothing is read yet."""
    path = Path(source)
    if path.is_dir():
        files, notes = _files(path, split)
        return (row for file in files for row in _rows(file, lines)), notes
    if path.exists():
        return _rows(path, lines), []
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and _suffix(path) not in SUFFIXES and not path.parent.exists():
        return _hub(str(source), split), [f"split {split}"]
    raise InputError(f"{source}: there is no such file or folder; check the path (seen from {Path.cwd()})")


def _files(folder: Path, split: str) -> tuple[list[Path], list[str]]:
    """The data files of a folder, by name. Those of the commonest format are read; the notes name the others."""
    data = [f for f in sorted(folder.iterdir()) if f.is_file() and _suffix(f) in SUFFIXES]
    data = [f for f in data if not re.match(r"\.|readme|licen[cs]e", f.name.lower())]
    if not data:
        raise InputError(f"{folder}: there is no data file in this folder; accepted: {', '.join(SUFFIXES)}")
    files = [f for f in data if re.match(rf"{re.escape(split)}(?![a-z0-9])", f.name)]
    if not files and split != "train":
        raise InputError(f"{folder}: no file is named {split}; there are {', '.join(f.name for f in data[:8])}")
    files = files or data
    ranked = Counter(map(_suffix, files)).most_common()
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        names = ", ".join(f.name for f in files[:8])
        raise InputError(f"{folder}: files of several formats ({names}); name the one to read")
    files = [f for f in files if _suffix(f) == ranked[0][0]]
    rest = [f.name for f in data if f not in files]
    notes = [f"{len(files)} files" if len(files) > 1 else files[0].name]
    return files, notes + ([f"not read: {', '.join(rest[:8])}{' ...' if len(rest) > 8 else ''}"] if rest else [])


def _rows(path: Path, lines: bool) -> Rows:
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: {path.suffix or 'no suffix'} is no format that is read here: {', '.join(SUFFIXES)}")
    return _read_txt_lines(path) if lines and suffix == ".txt" else SUFFIXES[suffix](path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, plain or gzipped, without a byte order mark and with bare line feeds."""
    offset = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode()
                except UnicodeDecodeError as error:
                    byte = f"byte {offset + error.start} is 0x{raw[error.start]:02x}"
                    raise InputError(f"{path}:{number}: not UTF-8, {byte}; save the file as UTF-8") from None
                offset += len(raw)
                line = line.removeprefix("\ufeff") if number == 1 else line
                yield number, line[:-2] + "\n" if line.endswith("\r\n") else line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); check the file, or fetch it again") from None


def _json(text: str, path: Path, line: int, advice: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{path}:{line + error.lineno - 1}"
        raise InputError(f"{at}: broken JSON at column {error.colno}: {error.msg}; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{line}: JSON that cannot be read: {error}; {advice}") from None


def _read_jsonl(path: Path) -> Rows:
    for number, line in _lines(path):
        if line.strip():
            yield f"{path}:{number}", _json(line.rstrip(), path, number, "every line must be one whole object")


def _read_json(path: Path) -> Rows:
    text = "".join(line for _, line in _lines(path))
    if not text.strip():
        return
    data = _json(text, path, 1, "if every line is an object of its own, name the file .jsonl")
    rows = data.get("data") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise InputError(f"{path}:1: a .json file must hold a list of objects, or one under 'data'")
    for number, row in enumerate(rows, 1):
        yield f"{path}: record {number}", row


def _read_table(path: Path, delimiter: str = ",") -> Rows:
    csv.field_size_limit(2**31 - 1)  # a document is one field
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path}:1: two columns have one name ({', '.join(header)}); rename one")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise InputError(
                    f"{path}:{line}: {len(cells)} fields under {len(header)} columns; put quotes round text that "
                    f"contains {delimiter!r} or a line break"
                )
            if cells:
                yield f"{path}:{line}", dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{line}: broken table: {error}; double the quotes inside a quoted field") from None


def _read_parquet(path: Path) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{path}: reading .parquet needs pyarrow: pip install 'operant[parquet]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: record {number}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: broken Parquet after record {number}: {error}; fetch the file again") from None


def _read_txt(path: Path) -> Rows:
    text = "".join(line for _, line in _lines(path))
    if text.strip():
        yield f"{path}:1", {"text": text}


def _read_txt_lines(path: Path) -> Rows:
    return ((f"{path}:{n}", {"text": line.rstrip("\n")}) for n, line in _lines(path) if line.strip())


def _hub(name: str, split: str) -> Rows:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"{name}: there is no such file, and reading a data set from the hub needs the package datasets: "
            "pip install 'operant[hub]'"
        ) from None
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:
        raise InputError(
            f"{name}: the hub did not give split {split!r} ({type(error).__name__}: {error}); check the name, the "
            "split and the connection, or download the file and name it here"
        ) from None
    for number, row in enumerate(rows, 1):
        yield f"{name}[{split}]: record {number}", row


SUFFIXES: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_table,
    ".tsv": lambda path: _read_table(path, "\t"),
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}
