"""Options from three places, each above the one before: defaults, a TOML file, flags. A resumed run has its own."""

import dataclasses
import difflib
import inspect
import math
import re
import tomllib
import types
import typing
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro

from operant.core.errors import InputError

T = TypeVar("T")

MAY_BE_0 = {
    "seed", "threads", "checkpoint_every", "lora", "feed_forward", "micro_batch", "unknown_pages", "report_every",
    "planning_steps",
}  # fmt: skip
"""Whole numbers that may be 0; all others are 1 or more."""
MAY_BE_NEGATIVE = {"missing_stop_score", "initial", "prior_mean", "alpha", "target_entropy"}
"""Numbers below 0, and one of which each algorithm says itself what it may be."""
SHARES = {
    "warmup", "floor", "gamma", "lambda_", "held_out", "label_smoothing", "epsilon", "epsilon_end", "target_epsilon",
    "rmsprop_decay",
}  # fmt: skip
"""Numbers that are 1 or less."""
ABOVE_0 = {"max_gradient_norm", "kl_tolerance"}
"""Numbers with which, at 0, nothing would be learned."""
FINITE = ("learning_rate", "coefficient", "noise", "delay", "_beta", "_target")
"""Ends of the names of numbers that cannot be infinite; others may be, to leave something out."""

NONE = tyro.constructors.ConstructorRegistry()
"""Flags say none as TOML files do."""


@NONE.primitive_rule
def _none(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[None] | None:
    if info.type is not types.NoneType:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{none}",
        instance_from_str=lambda _: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda _: ["none"],
        choices=("none", "None"),
    )


def parse(options: type[T], command: str, arguments: list[str], preset: T | None = None) -> tuple[T, bool]:
    """(options, whether to resume). `--config FILE.toml` gives values below the flags; `--resume` takes the run's own.

    `preset` is what options are without either; by default those of the dataclass. A field with metadata
    {"saved": False} is a wish of this call and no setting of the run.
    """
    arguments, config = take(arguments, "--config")
    resume = "--resume" in arguments
    if resume:
        arguments.remove("--resume")
        out = take(arguments, "--out")[1]
        if out is None:
            raise InputError("--resume continues the run in --out FOLDER: say which folder")
        if config is not None:
            raise InputError("--resume goes on with the settings in the run's own config.toml: leave --config out")
        config = str(Path(out) / "config.toml")
        if not Path(config).is_file():
            raise InputError(f"there is no run to resume in {out}: it has no config.toml; start it without --resume")
    name_lambda(options)
    default = preset
    if config is not None:
        values = read_toml(Path(config))
        if isinstance(values.get("run"), dict):
            ran = values.pop("run").get("algorithm", command)
            if ran != command:
                raise InputError(f"{config} belongs to a run of {ran}, not of {command}; use operant {ran}")
        if resume:
            values["out"] = out  # the folder may have been moved
        default = build(options, values, config, base=preset)
    parsed = tyro.cli(
        options,
        args=arguments,
        default=default,
        prog=" ".join(["operant", command, *filter(None, [getattr(preset, "algorithm", "")])]),
        description=_description(options),
        config=(tyro.conf.FlagConversionOff,),
        use_underscores=False,
        registry=NONE,
    )
    if resume and parsed != dataclasses.replace(cast(Any, default), **_wishes(parsed)):
        raise InputError(
            "a resumed run goes on with the settings in its config.toml; leave other options out, or start a new --out"
        )
    check_numbers(parsed)
    return cast(T, parsed), resume


def name_lambda(options: type[Any]) -> None:
    """Let λ be typed `--lambda` in these options and in their parts: as a name Python keeps that word for itself."""
    for base in options.__mro__:
        own = inspect.get_annotations(base)
        if own.get("lambda_") is float:
            base.__annotations__ = own | {"lambda_": Annotated[float, tyro.conf.arg(name="lambda")]}
    for hint in typing.get_type_hints(options).values():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            name_lambda(hint)


def _description(options: Any) -> str:
    """What the command is for, and the two flags that are no fields."""
    words = f"{inspect.getdoc(options)}\n\n--config FILE.toml gives settings; flags stand above it."
    if typing.get_type_hints(options).get("out") is Path:
        words += " --resume goes on with the run in --out, with its own settings."
    return words


def _wishes(options: Any) -> dict[str, Any]:
    """What is not a setting of the run."""
    fields = [f for f in dataclasses.fields(options) if f.init and not f.metadata.get("saved", True)]
    return {f.name: getattr(options, f.name) for f in fields}


def flag(options: type[Any], name: str, prefix: str = "") -> str:
    """The option that sets the field `name` of a dataclass, as it is typed."""
    marks = getattr(typing.get_type_hints(options, include_extras=True).get(name), "__metadata__", ())
    named = next((mark.name for mark in marks if getattr(mark, "name", None)), name)
    return "--" + re.sub(r"(?<=\w)_(?=\w)", "-", f"{prefix}{named}")


def check_numbers(options: Any, prefix: str = "") -> None:
    """Raise `InputError` for a number that no algorithm can use, the same for all commands."""
    hints = typing.get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        name, value = field.name, getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            short = tyro.conf.OmitArgPrefixes in getattr(hints[name], "__metadata__", ())
            check_numbers(value, prefix if short else f"{prefix}{name}.")
            continue
        if name == "hidden":
            value = min(value, default=1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        needed = None
        if isinstance(value, int) and value < (name not in MAY_BE_0):
            needed = "a whole number, 0 or more" if name in MAY_BE_0 else "a whole number, 1 or more"
        elif math.isnan(value) or (value < 0 and name not in MAY_BE_NEGATIVE):
            needed = "a number" if name in MAY_BE_NEGATIVE else "a number, 0 or more"
            needed = "a number between 0 and 1" if name in SHARES else needed
        elif value == 0 and name in ABOVE_0:
            needed = "a number above 0"
        elif value > 1 and name in SHARES:
            needed = "a number between 0 and 1"
        elif math.isinf(value) and name.endswith(FINITE):
            needed = "a finite number"
        if needed:
            raise InputError(f"{flag(type(options), name, prefix)} is {value}: give {needed}")


def take(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
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
    except OSError as error:
        raise InputError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None


def build(kind: type[T], values: dict[str, Any], where: str, prefix: str = "", base: T | None = None) -> T:
    """A dataclass from nested dictionaries; an unknown key is an error that names the nearest known one.

    What is not given is as in `base`, or has the field's default; without one it stays open, for the flags to fill.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: {prefix.rstrip('.')} is {values!r}; it must be a table of settings")
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
    known = {field.name: field for field in fields if field.init}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise InputError(f"{where}: there is no setting {prefix}{name}; {hint}")
    made: dict[str, Any] = {}
    for name, field in known.items():
        plain = _default(field) if base is None else getattr(base, name)
        if dataclasses.is_dataclass(hints[name]):
            plain = None if plain is tyro.MISSING else plain
            made[name] = build(cast(type, hints[name]), values.get(name, {}), where, f"{prefix}{name}.", plain)
        elif name in values:
            try:
                made[name] = _fit(values[name], hints[name])
            except TypeError:
                needed = _words(hints[name])
                raise InputError(f"{where}: {prefix}{name} is {values[name]!r}; it must be {needed}") from None
        else:
            made[name] = plain
    return kind(**made)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


def _fit(value: Any, hint: Any) -> Any:
    """`value` as what `hint` asks for: TOML has no paths, tuples or optional values. TypeError if it is none."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in sorted(inner, key=lambda x: x is not types.NoneType):  # "none" is a text as well
            with suppress(TypeError):
                return _fit(value, choice)
    elif origin is typing.Literal and value in inner:
        return value
    elif origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[1:] == (...,) else inner
        if len(kinds) == len(value):
            return tuple(map(_fit, value, kinds))
    elif origin is dict and isinstance(value, dict):
        return {key: _fit(x, inner[1]) for key, x in value.items()}
    elif hint is types.NoneType and value == "none":
        return None
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise TypeError


def _words(hint: Any) -> str:
    """What a setting must be, for a person."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin is tuple:
        count = "" if inner[1:] == (...,) else f"{len(inner)} values, "
        return f"a list: {count}each {_words(inner[0])}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: '"none"', Path: "a path"}
    return plain.get(hint, "a table of texts" if origin is dict else "a text in quotes")


def as_dict(options: Any) -> dict[str, Any]:
    """Options as nested dictionaries of what TOML knows; None becomes "none"."""
    found = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if not field.init or field.name in _wishes(options):
            continue
        if dataclasses.is_dataclass(value):
            found[field.name] = as_dict(value)
        elif value is None:
            found[field.name] = "none"
        elif isinstance(value, tuple):
            found[field.name] = [str(x) if isinstance(x, Path) else x for x in value]
        else:
            found[field.name] = str(value) if isinstance(value, Path) else value
    return found
