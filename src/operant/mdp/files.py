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
Form = Literal["operant", "quantecon", "pymdptoolbox"]
"""Whose arrays an .npz holds."""


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
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: this is no model: {error}") from error


def _read_csv(path: Path, gamma: float | None) -> MDP:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if gamma is None:
            raise InputError("a .csv holds no discount: give gamma, such as 0.95 (--gamma on the command line)")
        place = _places(next(csv.reader(file), []), path)
        form = {"delimiter": ",", "quotechar": '"', "comments": None, "usecols": list(place.values()), "ndmin": 2}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a table without lines: the model then says what it lacks
                table = np.loadtxt(file, **form).reshape(-1, len(place))
        except ValueError:
            _explain(path, place)
    columns = dict(zip(place, table.T, strict=True))
    whole = np.stack([columns[name] for name in place if name not in ("probability", "reward")])
    if not (np.isfinite(table).all() and (whole >= 0).all() and (whole == np.floor(whole)).all()):
        _explain(path, place)
    s, a, t, p, r = (columns[name] for name in COLUMNS)
    ends = np.unique(t[columns.get("end", np.zeros(len(s))) > 0])
    resting = np.isin(s, ends) & (s == t) & (r == 0)
    kept = [x[~resting] for x in (s, a, t, p, r)]
    return from_transitions(*kept, gamma, ends=ends.astype(np.int64).tolist())  # pyright: ignore


def _places(header: list[str], path: Path) -> dict[str, int]:
    """Where each column stands."""
    names = [name.strip() for name in header]
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
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        next(lines)
        for cells in lines:
            where = f"{path}:{lines.line_num}"
            if cells and len(cells) <= max(place.values()):
                raise InputError(f"{where}: {len(cells)} cells, and the header names {len(place)} columns")
            for name, i in place.items() if cells else ():
                try:
                    x = float(cells[i])
                except ValueError:
                    raise InputError(f"{where}: {name} is {cells[i]!r}; give a number") from None
                if not math.isfinite(x):
                    raise InputError(f"{where}: {name} is {x}; give a finite number")
                if name not in ("probability", "reward") and (x < 0 or x != int(x)):
                    raise InputError(f"{where}: {name} is {cells[i]}; give a whole number, counting from 0")
    raise InputError("this cannot be read as a table of numbers")


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
        fields = {f.name: getattr(mdp, f.name) for f in dataclasses.fields(mdp) if f.name != "mixed"}
        return {name: x for name, x in fields.items() if x is not None}
    ends = {"ends": np.flatnonzero(mdp.end)}
    if form == "pymdptoolbox":
        transition, reward = mdp.to_arrays()
        return {"transition": transition, "reward": reward, "gamma": mdp.gamma} | ends
    reward, q, beta, s, a = to_quantecon(mdp)
    parts = {"Q_data": q.data, "Q_indices": q.indices, "Q_indptr": q.indptr}
    return {"R": reward, "beta": beta, "s_indices": s, "a_indices": a} | parts | ends


def _read_npz(path: Path, gamma: float | None) -> MDP:
    held = _load(path)
    discount = gamma if gamma is not None else held.get("gamma", held.get("beta"))
    if discount is None:
        raise InputError("the file holds no discount: give gamma, such as 0.95 (--gamma on the command line)")
    if np.ndim(discount) != 0:
        raise InputError(f"the discount has the shape {np.shape(discount)}: it is one number")
    ends = held.get("ends", np.zeros(0, dtype=np.int64)).tolist()
    fields = {f.name for f in dataclasses.fields(MDP)} - {"gamma", "mixed"}
    if fields - {"transition_reward"} <= held.keys():
        return MDP(gamma=float(discount), **{name: held[name] for name in fields & held.keys()})  # pyright: ignore
    if {"transition", "reward"} <= held.keys():
        return from_arrays(held["transition"], held["reward"], float(discount), ends)
    if "R" in held and ("Q" in held or "Q_data" in held):
        return from_quantecon(held["R"], _q(held), float(discount), held.get("s_indices"), held.get("a_indices"), ends)
    raise InputError(
        f"the arrays are {', '.join(held) or 'none'}; a model has first, action, start, next_state, probability, "
        "reward and end, or pymdptoolbox's transition and reward, or QuantEcon's R and Q"
    )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise InputError("this is no .npz file, which numpy.savez writes")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


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
