"""Options from three places, each above the one before: defaults, a TOML file, flags. A resumed run has its own."""

import dataclasses
import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro

from operant.core.errors import InputError

T = TypeVar("T")


def parse(options: type[T], command: str, arguments: list[str]) -> tuple[T, bool]:
    """(options, whether to resume). `--config FILE.toml` stands below the flags; `--resume` takes the run's own."""
    arguments, config = _take(arguments, "--config")
    resume = "--resume" in arguments
    if resume:
        arguments.remove("--resume")
        out = _take(list(arguments), "--out")[1]
        if out is None:
            raise InputError("--resume continues the run in --out FOLDER: say which folder")
        config = str(Path(out) / "config.toml")
        if not Path(config).is_file():
            raise InputError(f"there is no run to resume in {out}: it has no config.toml; start it without --resume")
    default = None
    if config is not None:
        values = read_toml(Path(config))
        ran = values.pop("run", {}).get("algorithm", command)
        if ran != command:
            raise InputError(f"{config} belongs to a run of {ran}, not of {command}; use operant {ran}")
        if not resume and "--out" not in " ".join(arguments):
            values.pop("out", None)
        default = build(options, values, config)
    parsed = tyro.cli(
        options,
        args=arguments,
        default=default,
        prog=f"operant {command}",
        config=(tyro.conf.FlagConversionOff,),
        use_underscores=False,
    )
    if resume and default is not None and parsed != default:
        raise InputError(
            "a resumed run goes on with the settings in its config.toml; leave other options out, or start a new --out"
        )
    return cast(T, parsed), resume


def _take(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """The arguments without `flag VALUE` or `flag=VALUE`, and the value."""
    rest, value = [], None
    pending = iter(arguments)
    for argument in pending:
        if argument == flag:
            value = next(pending, None)
            if value is None:
                raise InputError(f"{flag} needs a value")
        elif argument.startswith(flag + "="):
            value = argument.removeprefix(flag + "=")
        else:
            rest.append(argument)
    return rest, value


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dictionaries. Raises `InputError` with file and reason."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"the settings file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None


def build(kind: type[T], values: dict[str, Any], where: str, prefix: str = "") -> T:
    """A dataclass from nested dictionaries; an unknown key is an error that names the nearest known one.

    Fields without a default that are not given stay open, for the flags to fill.
    """
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise InputError(f"{where}: there is no setting {prefix}{name}; {hint}")
    made: dict[str, Any] = {}
    for name, field in known.items():
        inner = _dataclass_of(hints[name])
        if inner is not None:
            made[name] = build(inner, values.get(name, {}), where, f"{prefix}{name}.")
        elif name in values:
            made[name] = _converted(values[name], hints[name], f"{where}: {prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            made[name] = tyro.MISSING
    return kind(**made)


def _dataclass_of(hint: Any) -> type | None:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return hint if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None


def _converted(value: Any, hint: Any, where: str) -> Any:
    """`value` as what `hint` asks for: TOML has no paths, tuples or optional values."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    choices = typing.get_args(hint) if union else (hint,)
    if value == "none" and types.NoneType in choices:
        return None
    for choice in choices:
        origin = typing.get_origin(choice) or choice
        if origin is typing.Literal and value in typing.get_args(choice):
            return value
        if origin is Path and isinstance(value, str):
            return Path(value)
        if origin is tuple and isinstance(value, list):
            return tuple(value)
        if origin is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if origin in (int, str, bool, list, dict) and type(value) is origin:
            return value
    raise InputError(f"{where} is {value!r}, which does not fit {getattr(hint, '__name__', hint)}")


def as_dict(options: Any) -> dict[str, Any]:
    """Options as nested dictionaries of what TOML knows; None becomes "none"."""
    found = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = as_dict(value)
        elif value is None:
            found[field.name] = "none"
        else:
            found[field.name] = (
                str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            )
    return found
