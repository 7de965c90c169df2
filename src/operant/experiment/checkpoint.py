"""Checkpoints: a whole training state as one safetensors file and one JSON file. Nothing is ever unpickled.

    step_000120/
        state.json                     structure, numbers, random states (see structure.py)
        tensors_1f0c9a3e.safetensors   every tensor once, named by where it was first met

`state.json` names the tensor file, is written last and replaced in one step: a kill at any moment leaves the last good
checkpoint. A folder without it is no checkpoint.
"""

import dataclasses
import json
import random
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import operant
from operant.core.errors import InputError
from operant.experiment.files import atomic_write, sync, writing
from operant.experiment.structure import Tensors, differences, encode, place

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint that was read and found whole, not yet put into a state."""

    folder: Path
    document: dict[str, Any]
    tensors: dict[str, Tensor]


def save(folder: Path, state: Any) -> None:
    """Write the dataclass `state` and the global random states to `folder`, replacing what was saved there.

    A field with metadata {"saved": False} is left out. Raises InputError if the disk is full or cannot be written, with
    everything saved before intact, and TypeError for a value that has no place in a checkpoint.
    """
    tensors = Tensors()
    document = {
        "format": FORMAT,
        "operant": operant.__version__,
        "algorithm": _algorithm(state),
        "step": getattr(state, "step", None),
        "state": encode(state, "state", tensors),
        "random": encode(_random_states(), "random", tensors),
    }
    checksum = _checksum(tensors.named)
    document["tensors"] = f"tensors_{checksum:08x}.safetensors"
    document["checksum"] = zlib.crc32(json.dumps(document).encode(), checksum)
    partial = folder / ".tensors.partial"
    with writing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors.named, partial)
            sync(partial)
            partial.replace(folder / document["tensors"])
            sync(folder)
            sync(folder.parent)
            atomic_write(folder / "state.json", json.dumps(document))
        finally:
            _tidy(folder)


def load(folder: Path, state: Any) -> None:
    """Put the checkpoint in `folder` into `state`, which was made anew with the same settings, and restore all RNGs.

    Raises InputError if the checkpoint is damaged, or is of another algorithm or structure; `state` is then untouched.
    """
    put(read(folder), state)


def read(folder: Path, parts: tuple[str, ...] = ("",)) -> Saved:
    """Read and verify a checkpoint. Raises InputError if there is none or it is damaged.

    Of the tensors only those come into memory whose place begins with one of `parts`, such as "state.policy": a replay
    buffer may be larger than it.
    """
    try:
        document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        expected = document.pop("checksum")
        # A loaded tensor is a view of the file; its copy outlives the file.
        mapped = load_file(folder / Path(document["tensors"]).name)
        whole = zlib.crc32(json.dumps(document).encode(), _checksum(mapped)) == expected
        tensors = {name: x.clone() for name, x in mapped.items() if name.startswith(parts)}
    except FileNotFoundError as error:
        raise InputError(f"{folder} is no whole checkpoint: a file is missing ({error}); use another one") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"the checkpoint {folder} is damaged ({error!r}); use the one before it") from error
    if not whole:
        raise InputError(f"the checkpoint {folder} is damaged (its checksum is wrong); use the one before it")
    return Saved(folder, document, tensors)


def put(saved: Saved, state: Any) -> None:
    """Put what was read into `state`, in place, after a check that all of it fits. Raises InputError if it does not."""
    document, here = saved.document, saved.folder
    if document["format"] != FORMAT:
        written = f"format {document['format']}, written by Operant {document['operant']}"
        raise InputError(f"the checkpoint {here} has {written}; this Operant reads format {FORMAT}: use that version")
    if document["algorithm"] != _algorithm(state):
        raise InputError(
            f"{here} is a checkpoint of {document['algorithm']} and this run is {_algorithm(state)}; "
            f"continue it with {document['algorithm']}, or choose another folder"
        )
    if problems := list(differences(document["state"], state, "state", saved.tensors)):
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(
            f"the checkpoint {here} does not fit this run: {'; '.join(problems[:5])}{more}. "
            "Use the settings it was made with: they are in the config.toml of its run"
        )
    place(document["state"], state, saved.tensors)
    _set_random_states(place(document["random"], None, saved.tensors))


def _tidy(folder: Path) -> None:
    """Remove what `state.json` does not name (older tensors, leftovers of a kill), and a folder with nothing in it."""
    with suppress(OSError, ValueError, KeyError):
        index = folder / "state.json"
        named = {index.name, json.loads(index.read_text(encoding="utf-8"))["tensors"]} if index.exists() else set()
        for path in folder.iterdir():
            if path.name not in named:
                path.unlink()
        if not named:
            folder.rmdir()


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        flat = tensors[name].flatten()
        content = memoryview(flat.view(torch.uint8).numpy()) if len(flat) else b""  # type: ignore[arg-type]
        total = zlib.crc32(content, zlib.crc32(name.encode(), total))
    return total


def _algorithm(state: Any) -> str:
    """The file an algorithm lives in is its name: operant.algorithms.policy_gradient.ppo is ppo."""
    return type(state).__module__.rpartition(".")[2]


def _random_states() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "python": random.getstate(),
    }


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
