"""Models in files. Nothing is unpickled: a file from a stranger cannot run code.

.csv    state,action,next_state,probability,reward and, where there are ends, end: 1 where the next state is one.
        A state that is an end may have lines of its own if they lead back to it and pay nothing.
.npz    Operant's arrays, as the fields of `MDP`; pymdptoolbox's `transition` [A, S, S] and `reward`; QuantEcon's
        `R`, `Q`, `beta`, with `s_indices` and `a_indices` where they are pairs; a sparse Q is `Q_data`,
        `Q_indices`, `Q_indptr`. The two others may hold `ends`, the states where an episode is over.
"""

import csv
import dataclasses
import difflib
import itertools
import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from operant.core.errors import InputError
from operant.mdp.model import MDP, from_arrays, from_transitions
from operant.mdp.quantecon import from_quantecon, to_quantecon

COLUMNS = ("state", "action", "next_state", "probability", "reward")
SUFFIXES = (".csv", ".npz")
TOO_LARGE = {"state": 2**53, "action": 2**31, "next_state": 2**53, "end": 2}
"""Whole numbers from here on are not held exactly, or mean nothing."""
Form = Literal["operant", "quantecon", "pymdptoolbox"]
"""Whose arrays an .npz holds."""
FIELDS = {f.name for f in dataclasses.fields(MDP)} - {"mixed"}
OWN = FIELDS - {"gamma", "transition_reward"}
"""The arrays that Operant's own form must have."""
ARRAYS = {*FIELDS, "transition", "R", "Q", "Q_data", "Q_indices", "Q_indptr", "beta", "s_indices", "a_indices", "ends"}
"""Names of all that is read from an .npz; what has another name may hold anything."""


def read_model(path: Path, gamma: float | None = None) -> MDP:
    """The model in a .csv or .npz. `gamma` stands above the file's discount, and is needed where it has none.

    Raises `InputError` with the file, and the line where there is one, for what cannot be read or is no model.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a model is a .csv or an .npz file")
    with _named(path):
        return _read_csv(path, gamma) if path.suffix == ".csv" else _read_npz(path, gamma)


def write_model(mdp: MDP, path: Path, form: Form = "operant") -> None:
    """Write a .csv or .npz that `read_model` reads; an .npz in the arrays of another library if `form` says so.

    A .csv holds no discount, and its probabilities and rewards to the last bit. Raises `InputError` if the file cannot
    be written, or `form` is given for a .csv.
    """
    if path.suffix not in SUFFIXES or (path.suffix == ".csv" and form != "operant"):
        what = "a .csv or an .npz file" if form == "operant" else f"an .npz file of {form}'s arrays"
        raise InputError(f"{path}: give the name of {what}")
    with _named(path):
        if path.suffix == ".csv":
            _write_csv(mdp, path)
        else:
            np.savez(path, allow_pickle=False, **_arrays(mdp, form))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """The file in front of every message, and whatever else a file can hold as an `InputError` too."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give the name of a .csv or .npz file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is no .csv, which is text in UTF-8: its byte {error.start} is not") from error
    except MemoryError as error:
        raise InputError(f"{path}: this is more than the memory of this machine holds: {error}") from error
    except (ValueError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: this is no model: {error}") from error


def _read_csv(path: Path, gamma: float | None) -> MDP:
    with path.open(encoding="utf-8-sig", newline="") as file:
        place = _places(next(csv.reader(file), []), path)
        form = {"delimiter": ",", "quotechar": '"', "comments": None, "usecols": list(place.values()), "ndmin": 2}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a table without lines: the model then says what it lacks
                table = np.loadtxt(file, **form).reshape(-1, len(place))
        except ValueError:
            _explain(path, place)
    columns = dict(zip(place, table.T, strict=True))
    whole = {name: x for name, x in columns.items() if name in TOO_LARGE}
    fits = all(((x >= 0) & (x < TOO_LARGE[name]) & (x == np.floor(x))).all() for name, x in whole.items())
    if not (np.isfinite(table).all() and fits):
        _explain(path, place)
    end = columns.get("end", np.zeros(len(table)))
    s, a, t, p, r = (columns[name] for name in COLUMNS)
    ends = np.unique(t[end > 0])
    stays = (s == t) & (r == 0)
    if (odd := np.isin(t, ends) & (end == 0) & ~stays).any():
        where, _ = next(itertools.islice(_lines(path), int(odd.argmax()), None))
        raise InputError(f"{where}: end is 0, and another line says that state {t[odd][0]:.0f} is one: give 1 in both")
    if gamma is None:
        raise InputError("a .csv holds no discount: give gamma, such as 0.95 (--gamma on the command line)")
    resting = np.isin(s, ends) & stays
    kept = [x[~resting] for x in (s, a, t, p, r)]
    return from_transitions(*kept, gamma, ends=ends.astype(np.int64).tolist())  # pyright: ignore


def _places(header: list[str], path: Path) -> dict[str, int]:
    """Where each column stands."""
    names = [name.strip() for name in header]
    if not any(names):
        raise InputError(f"{path}:1: there is no heading; the first line is {','.join(COLUMNS)} and, if wanted, end")
    if len(names) == 1 and (found := [sign for sign in ";\t|" if sign in names[0]]):
        raise InputError(f"{path}:1: {found[0]!r} stands between the columns; put commas there, in every line")
    for name in names:
        if name not in (*COLUMNS, "end") or names.count(name) > 1:
            near = difflib.get_close_matches(name, [c for c in (*COLUMNS, "end") if c not in names], 1)
            hint = f"did you mean {near[0]}?" if near else f"the columns are {','.join(COLUMNS)} and, if wanted, end"
            raise InputError(f"{path}:1: there is a column {name!r}{' twice' * (names.count(name) > 1)}; {hint}")
    if missing := [name for name in COLUMNS if name not in names]:
        raise InputError(f"{path}:1: there is no column {missing[0]!r}; the columns are {','.join(COLUMNS)}")
    return {name: names.index(name) for name in (*COLUMNS, "end") if name in names}


def _explain(path: Path, place: dict[str, int]) -> NoReturn:
    """Go through a table that numpy could not read, and say in which line."""
    for where, cells in _lines(path):
        if len(cells) <= max(place.values()):
            raise InputError(f"{where}: {len(cells)} cells, and the header names {len(place)} columns")
        for name, i in place.items():
            try:
                x = float(cells[i])
            except ValueError:
                raise InputError(f"{where}: {name} is {cells[i]!r}; give a number") from None
            if not math.isfinite(x):
                raise InputError(f"{where}: {name} is {x}; give a finite number")
            if name == "end" and x not in (0, 1):
                raise InputError(f"{where}: end is {cells[i]}; give 1 where the next state is one, else 0")
            if name in TOO_LARGE and (x < 0 or x != int(x)):
                raise InputError(f"{where}: {name} is {cells[i]}; give a whole number, counting from 0")
            if name in TOO_LARGE and x >= TOO_LARGE[name]:
                raise InputError(f"{where}: {name} is {cells[i]}, which is too large; number them from 0, without gaps")
    raise InputError("this cannot be read as a table of numbers")


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(file and line, cells) of every line below the heading that is not empty."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        next(lines)
        yield from ((f"{path}:{lines.line_num}", cells) for cells in lines if cells)


def _write_csv(mdp: MDP, path: Path) -> None:
    row = np.repeat(np.arange(len(mdp.action)), np.diff(mdp.start))
    paid = mdp.reward[row] if mdp.transition_reward is None else mdp.transition_reward
    columns = [mdp.row_states()[row], mdp.action[row], mdp.next_state, mdp.probability, paid, mdp.end[mdp.next_state]]
    unreached = np.setdiff1d(np.flatnonzero(mdp.end), mdp.next_state)
    with path.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file).writerow
        write([*COLUMNS, "end"])
        for s, a, t, p, r, end in zip(*(c.tolist() for c in columns), strict=True):
            write([s, a, t, p, r, int(end)])
        for s in unreached.tolist():
            write([s, 0, s, 1.0, 0.0, 1])


def _arrays(mdp: MDP, form: Form) -> dict[str, Any]:
    if form == "operant":
        return {name: x for name in FIELDS if (x := getattr(mdp, name)) is not None}
    ends = {"ends": np.flatnonzero(mdp.end)}
    if form == "pymdptoolbox":
        transition, reward = mdp.to_arrays()
        return {"transition": transition, "reward": reward, "gamma": mdp.gamma} | ends
    reward, q, beta, s, a = to_quantecon(mdp)
    parts = {"Q_data": q.data, "Q_indices": q.indices, "Q_indptr": q.indptr}
    return {"R": reward, "beta": beta, "s_indices": s, "a_indices": a} | parts | ends


def _read_npz(path: Path, gamma: float | None) -> MDP:
    held = _load(path)
    _check_kinds(held)
    pairs = "R" in held and ("Q" in held or "Q_data" in held)
    if not (pairs or held.keys() >= OWN or {"transition", "reward"} <= held.keys()):
        raise InputError(
            f"the arrays are {', '.join(held) or 'none'}; a model has first, action, start, next_state, probability, "
            "reward and end, or pymdptoolbox's transition and reward, or QuantEcon's R and Q"
        )
    discount = gamma if gamma is not None else held.get("gamma", held.get("beta"))
    if discount is None:
        raise InputError("the file holds no discount: give gamma, such as 0.95 (--gamma on the command line)")
    if np.ndim(discount) != 0:
        raise InputError(f"the discount has the shape {np.shape(discount)}: it is one number")
    if held.keys() >= OWN:
        arrays = {name: held[name] for name in (*OWN, "transition_reward") if name in held}
        return MDP(gamma=float(discount), **arrays)  # pyright: ignore
    ends = held.get("ends", np.zeros(0, dtype=np.int64)).tolist()
    if pairs:
        return from_quantecon(held["R"], _q(held), float(discount), held.get("s_indices"), held.get("a_indices"), ends)
    shape = held["transition"].shape
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(f"transition has the shape {shape}: give A of [S, S], a matrix for each action")
    return from_arrays(held["transition"], held["reward"], float(discount), ends)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise InputError("this is no .npz file, which numpy.savez writes")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _check_kinds(held: dict[str, NDArray[Any]]) -> None:
    """Raises `InputError` for an array of a model that holds no real numbers."""
    for name, array in held.items():
        if name in ARRAYS and array.dtype.kind not in "biuf":
            words = {"c": "complex numbers", "U": "text", "S": "text"}
            raise InputError(f"{name} holds {words.get(array.dtype.kind, array.dtype)}: give real numbers")


def _q(held: dict[str, NDArray[Any]]) -> Any:
    """Q, put together from its parts where it is sparse."""
    if "Q" in held:
        return held["Q"]
    if missing := [name for name in ("Q_indices", "Q_indptr", "s_indices") if name not in held]:
        raise InputError(f"there is no {missing[0]}: a sparse Q is Q_data, Q_indices and Q_indptr, with s_indices")
    states = 1 + int(max(held["Q_indices"].max(initial=-1), held["s_indices"].max(initial=-1)))
    parts = (held["Q_data"], held["Q_indices"], held["Q_indptr"])
    found = sparse.csr_array(parts, shape=(len(held["Q_indptr"]) - 1, states))
    found.check_format(full_check=True)
    return found
