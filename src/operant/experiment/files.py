"""Files that are whole or not there, errors of writing in one message, and settings as TOML."""

import errno
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from operant.core.errors import InputError


def atomic_write(path: Path, text: str) -> None:
    """Write a file so that, whatever happens, `path` holds either what it held before or all of `text`.

    Raises InputError if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one InputError. safetensors reports its own as "... (os error 28) ..."."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and "os error" not in str(error):
            raise
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"(os error {errno.ENOSPC})" in str(
            error
        )
        reason = "the disk is full; make room" if full else f"{error}; mend that"
        raise InputError(
            f"cannot write {path}: {reason} and try again; a run goes on with --resume, and what it saved before is "
            "intact"
        ) from error


def to_toml(table: dict[str, Any], name: str = "") -> str:
    """Settings as TOML: nested dicts become tables. TOML has no null, so a value of None is left out.

    Raises TypeError for a value that TOML cannot say.
    """
    plain = [f"{_key(k)} = {_value(v)}\n" for k, v in table.items() if v is not None and not isinstance(v, dict)]
    tables = [(f"{name}.{_key(k)}".lstrip("."), v) for k, v in table.items() if isinstance(v, dict)]
    parts = ["".join(plain)] if plain else []
    parts += [f"[{inner}]\n{to_toml(v, inner)}" for inner, v in tables]
    return "\n".join(parts)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    raise TypeError(f"{value!r} of type {type(value).__name__} has no form in TOML")
