"""A training state as JSON and named tensors, and back into a state of the same structure.

A JSON object whose first key starts with "$" stands for what JSON lacks:

    {"$tuple": [...]}  {"$dict": [[key, value], ...]}  {"$float": "inf"}           what JSON would lose
    {"$tensor": name}  {"$array": name}  {"$scalar": name}                         torch tensor, numpy array and scalar
    {"$fields": class, "values": {...}}                                            a dataclass
    {"$object": class, "state": ...}                                               what saves and loads itself
"""

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from operant.core.record import Record


class Tensors:
    """Tensors by name. One that occurs twice, such as a tied weight, is kept once."""

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self._met: dict[tuple[Any, ...], tuple[str, Tensor]] = {}
        self._storages: set[int] = set()

    def add(self, x: Tensor, name: str) -> str:
        """The name under which `x` is kept: `name`, unless it was met before."""
        key = (x.device, x.data_ptr(), x.dtype, x.shape, x.stride())
        if key not in self._met:
            while name in self.named:
                name += "'"
            kept = x.detach().cpu().contiguous()
            storage = kept.untyped_storage()
            if storage.data_ptr() in self._storages or storage.nbytes() != kept.nbytes:
                kept = kept.clone()  # safetensors takes no two tensors that share memory
            self.named[name] = kept
            self._storages.add(kept.untyped_storage().data_ptr())
            # Keeping `x` alive keeps its address: a temporary's would be given to the next tensor of its size.
            self._met[key] = (name, x)
        return self._met[key][0]


def encode(value: Any, path: str, tensors: Tensors, move: bool = True) -> Any:
    """`value` as JSON, its tensors added to `tensors`. `move`: remember on which device a tensor was.

    Raises TypeError for a value that has no place in a checkpoint; `path` says which.
    """
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, float):
        return {"$float": repr(float(value))}
    if isinstance(value, Tensor):
        node = {"$tensor": tensors.add(value, path)}
        return node if value.device.type == "cpu" or not move else {**node, "device": str(value.device)}
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufc":
        array = np.asarray(value)
        if not (array.flags.c_contiguous and array.flags.writeable):
            array = array.copy(order="C")
        return {"$array" if isinstance(value, np.ndarray) else "$scalar": tensors.add(torch.from_numpy(array), path)}
    if (state := _own_state(value)) is not None:
        move = not isinstance(value, nn.Module | torch.optim.Optimizer)
        return {"$object": _object_name(value), "state": encode(state, path, tensors, move)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values = {name: encode(getattr(value, name), f"{path}.{name}", tensors, move) for name in _saved_fields(value)}
        return {"$fields": _class_name(type(value)), "values": values}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [encode(x, f"{path}.{i}", tensors, move) for i, x in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, dict) and type(value) in (dict, OrderedDict):
        nodes = {k: encode(x, f"{path}.{k}", tensors, move) for k, x in value.items()}
        plain = all(isinstance(k, str) and not k.startswith("$") for k in nodes)
        return nodes if plain else {"$dict": [[encode(k, path, tensors), x] for k, x in nodes.items()]}
    raise TypeError(
        f"{path} is of type {type(value).__name__}, which a checkpoint cannot hold: give it state_dict() and "
        'load_state_dict(), or leave it out with dataclasses.field(metadata={"saved": False})'
    )


def place(node: Any, current: Any, tensors: dict[str, Tensor], move: bool = True) -> Any:
    """The value that `node` stands for. `current` is its counterpart in a state made anew, or None.

    What keeps its identity there (modules, optimisers, generators, mutable dataclasses, tensors that are trained) is
    changed in place and returned; anything else is made anew.
    """
    if isinstance(node, list):
        return [place(x, _item(current, i), tensors, move) for i, x in enumerate(node)]
    if not isinstance(node, dict):
        return node
    kind, content = _first(node)
    match kind:
        case "$float":
            return float(content)
        case "$tuple":
            return tuple(place(content, current, tensors, move))
        case "$dict":
            pairs = [(place(k, None, tensors), x) for k, x in content]
            return {k: place(x, _item(current, k), tensors, move) for k, x in pairs}
        case "$array":
            return tensors[content].numpy()
        case "$scalar":
            return tensors[content].numpy()[()]
        case "$tensor":
            return _place_tensor(tensors[content], current, node.get("device", "cpu") if move else "cpu")
        case "$object":
            _set_own_state(current, node["state"], tensors)
            return current
        case "$fields":
            return _place_fields(node, current, tensors)
        case _:
            return {k: place(x, _item(current, k), tensors, move) for k, x in node.items()}


def differences(node: Any, current: Any, path: str, tensors: dict[str, Tensor]) -> Iterator[str]:
    """What in `node` does not fit `current`, in words. A tensor keeps its shape, unless it is in a `Record`: data."""
    if isinstance(node, list):
        for i, x in enumerate(node):
            yield from differences(x, _item(current, i), f"{path}.{i}", tensors)
    if not isinstance(node, dict):
        return
    kind, content = _first(node)
    if kind == "$tuple":
        yield from differences(content, current, path, tensors)
    elif kind in ("$tensor", "$array"):
        if isinstance(current, Tensor | np.ndarray):
            theirs, ours = (_dtype_and_shape(x) for x in (tensors[content], torch.as_tensor(current)))
            if theirs != ours:
                yield f"{path} is {theirs} in the checkpoint and {ours} in this run"
    elif kind == "$object":
        name = _object_name(current)
        if content != name:
            yield f"{path} is a {content} in the checkpoint and a {name} in this run"
        else:
            yield from _object_differences(node["state"], current, path, tensors)
    elif kind == "$fields":
        same = dataclasses.is_dataclass(current) and _class_name(type(current)) == content
        if same:
            yield from _name_differences(node["values"], _saved_fields(current), path)
            for name in [] if isinstance(current, Record) else _saved_fields(current):
                yield from differences(node["values"].get(name), getattr(current, name), f"{path}.{name}", tensors)
        elif _record_class(content) is None:
            yield f"{path} is a {content} in the checkpoint and a {_class_name(type(current))} in this run"
    else:
        for name, x in content if kind == "$dict" else node.items():
            yield from differences(x, _item(current, name), f"{path}.{name}", tensors)


def _object_differences(state: Any, current: Any, path: str, tensors: dict[str, Tensor]) -> Iterator[str]:
    ours = _own_state(current)
    if isinstance(current, torch.optim.Optimizer):
        sizes = [[len(group["params"]) for group in x["param_groups"]] for x in (state, ours)]
        if sizes[0] != sizes[1]:
            yield f"{path} moves {sizes[0]} parameters in the checkpoint and {sizes[1]} in this run"
    elif isinstance(ours, dict) and isinstance(state, dict) and "$dict" not in state:
        yield from _name_differences(state, list(ours), path)
        if isinstance(current, nn.Module):
            for name in (name for name in ours if name in state):
                yield from differences(state[name], ours[name], f"{path}.{name}", tensors)


def _name_differences(theirs: dict[str, Any], ours: list[str], path: str) -> Iterator[str]:
    yield from (f"{path}.{name} is missing in the checkpoint" for name in ours if name not in theirs)
    yield from (f"{path}.{name} is in the checkpoint only" for name in theirs if name not in ours)


def _place_tensor(saved: Tensor, current: Any, device: str) -> Tensor:
    if isinstance(current, Tensor):
        if current.requires_grad:  # an optimiser holds this very tensor
            with torch.no_grad():
                return current.copy_(saved)
        return saved.to(current.device)
    return saved.to(device if torch.device(device).type != "cuda" or torch.cuda.is_available() else "cpu")


def _place_fields(node: dict[str, Any], current: Any, tensors: dict[str, Tensor]) -> Any:
    record = _record_class(node["$fields"])
    if dataclasses.is_dataclass(current) and _class_name(type(current)) == node["$fields"]:
        values = {name: place(x, getattr(current, name), tensors) for name, x in node["values"].items()}
        if not type(current).__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
            for name, x in values.items():
                setattr(current, name, x)
            return current
        unchanged = all(x is getattr(current, name) for name, x in values.items())
        return current if unchanged else dataclasses.replace(current, **values)  # pyright: ignore[reportArgumentType]
    assert record is not None
    return record(**{name: place(x, None, tensors) for name, x in node["values"].items()})


def _record_class(name: str) -> type[Record] | None:
    """The Record class of that name among those already loaded: a checkpoint cannot make anything be imported."""
    waiting: list[type[Record]] = [Record]
    for kind in waiting:
        if _class_name(kind) == name:
            return kind
        waiting += kind.__subclasses__()
    return None


def _own_state(value: Any) -> Any:
    """What an object that can save itself says its state is; None for any other."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return value.state_dict()
    return None


def _set_own_state(current: Any, node: Any, tensors: dict[str, Tensor]) -> None:
    if isinstance(current, nn.Module | torch.optim.Optimizer):
        current.load_state_dict(place(node, None, tensors, move=False))
    elif isinstance(current, torch.Generator):
        current.set_state(place(node, None, tensors))
    elif isinstance(current, np.random.Generator):
        current.bit_generator.state = place(node, None, tensors)
    else:
        current.load_state_dict(place(node, current.state_dict(), tensors))


def _object_name(value: Any) -> str:
    return type(value.bit_generator if isinstance(value, np.random.Generator) else value).__name__


def _class_name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _saved_fields(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value) if field.metadata.get("saved", True)]


def _first(node: dict[str, Any]) -> tuple[str, Any]:
    return next(iter(node.items()), ("", None))


def _dtype_and_shape(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"


def _item(current: Any, key: Any) -> Any:
    if isinstance(current, dict):
        return current.get(key)
    return current[key] if isinstance(current, list | tuple) and key < len(current) else None
