"""A state comes back as it was, or not at all."""

import dataclasses
import errno
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from operant.core.divergences import AdaptiveKL
from operant.core.errors import InputError
from operant.core.record import Record
from operant.experiment import checkpoint, files
from operant.experiment.structure import Tensors, encode, place


@dataclasses.dataclass(frozen=True)
class Rows(Record):
    x: Tensor
    inner: "Rows | None" = None


class Tied(nn.Module):
    """A language model in small: the head is the embedding. Batch norm brings buffers and an int64."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(x)))


@dataclasses.dataclass
class Counter:
    n: int = 0


@dataclasses.dataclass
class State:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    rng: np.random.Generator
    penalty: AdaptiveKL
    counter: Counter
    theta: Tensor
    table: np.ndarray
    critics: list[nn.Module]
    reference: nn.Module = dataclasses.field(metadata={"saved": False})
    batch: Rows | None = None
    seen: Any = None
    step: int = 0


def init(width: int = 3, seed: int = 0, rng: str = "PCG64") -> State:
    torch.manual_seed(seed)
    model, theta = Tied(width), torch.randn(2, requires_grad=True)
    return State(
        model=model,
        optimizer=torch.optim.AdamW([*model.parameters(), theta], lr=0.01),
        generator=torch.Generator().manual_seed(seed),
        rng=np.random.Generator(getattr(np.random, rng)(seed)),
        penalty=AdaptiveKL(0.1, rule="ziegler"),
        counter=Counter(),
        theta=theta,
        table=np.zeros((2, 2)),
        critics=[nn.Linear(2, 1), nn.Linear(2, 1)],
        reference=nn.Linear(1, 1),
    )


def update(state: State) -> float:
    """One step that draws on everything that is saved."""
    x = torch.randint(5, (8,), generator=state.generator)
    x = x if state.batch is None else torch.cat([x, state.batch.x])
    loss = nn.functional.cross_entropy(nn.functional.dropout(state.model(x)), x) * state.penalty.coefficient
    loss = loss + (state.theta * state.rng.standard_normal()).sum() * random.random() * np.random.rand()  # noqa: NPY002
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    state.penalty.update(loss.item())
    state.batch = Rows(x[-4:].clone(), Rows(torch.rand(1 + state.step % 3)))
    state.table += state.rng.random((2, 2))
    state.counter.n += 1
    state.step += 1
    return loss.item()


def contents(state: State) -> dict[str, Any]:
    return {name: x.clone() for name, x in _encoded(state)[1].items()}


def _encoded(value: Any) -> tuple[str, dict[str, Tensor]]:
    tensors = Tensors()
    return json.dumps(encode(value, "state", tensors)), tensors.named


def assert_same(a: State, b: State) -> None:
    (json_a, tensors_a), (json_b, tensors_b) = _encoded(a), _encoded(b)
    assert json_a == json_b
    assert tensors_a.keys() == tensors_b.keys()
    for name, x in tensors_a.items():
        assert x.dtype == tensors_b[name].dtype
        assert torch.equal(x, tensors_b[name]), name


def test_a_loaded_state_goes_on_like_the_saved_one(tmp_path):
    state = init()
    for _ in range(3):
        update(state)
    checkpoint.save(tmp_path / "c", state)
    expected = [update(state) for _ in range(4)]
    other = init(seed=7)
    checkpoint.load(tmp_path / "c", other)
    assert other.step == other.counter.n == 3
    assert other.model.head.weight is other.model.embed.weight
    assert [update(other) for _ in range(4)] == expected
    assert_same(state, other)


def test_every_part_of_the_state_matters_for_going_on(tmp_path):
    """The test above would not notice a part that `update` does not use."""
    state = init()
    update(state)
    checkpoint.save(tmp_path / "c", state)
    expected = update(state)
    for spoil in (
        lambda s: s.generator.manual_seed(9),
        lambda s: s.rng.random(),
        lambda s: random.random(),
        lambda s: np.random.rand(),  # noqa: NPY002
        lambda s: torch.rand(1),
        lambda s: s.penalty.update(9.0),
        lambda s: setattr(s, "batch", None),
        lambda s: s.theta.data.add_(1),
    ):
        checkpoint.load(tmp_path / "c", other := init())
        spoil(other)
        assert update(other) != expected


@pytest.mark.usefixtures("unchecked_types")  # checking the type of a list draws from `random`
def test_saving_changes_nothing(tmp_path):
    state, other = init(), init()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = [update(other) for _ in range(3)]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    losses = []
    for i in range(3):
        checkpoint.save(tmp_path / str(i), state)
        losses.append(update(state))
    assert losses == expected


@dataclasses.dataclass
class Plain:
    value: Any = None
    step: int = 0


def round_trip(value: Any, folder: Path) -> Any:
    checkpoint.save(folder / "plain", Plain(value))
    checkpoint.load(folder / "plain", state := Plain())
    return state.value


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.integers(), st.booleans()), inner)
        | st.dictionaries(st.sampled_from(["$tuple", "$tensor", "$", ""]), inner)
    ),
)


@given(plain)
def test_plain_values_come_back_with_their_types(value):
    tensors = Tensors()
    back = place(json.loads(json.dumps(encode(value, "state", tensors), allow_nan=False)), None, tensors.named)
    assert repr(back) == repr(value)


def test_numbers_that_json_cannot_say(tmp_path):
    value = [math.inf, -math.inf, -0.0, 5e-324, 0.1, 2**200, np.float32(0.1), np.int64(3), np.bool_(True)]
    back = round_trip([math.nan, *value], tmp_path)
    assert math.isnan(back[0])
    assert repr(back[1:]) == repr(value)
    assert [type(x) for x in back[1:]] == [type(x) for x in value]


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool, torch.uint32],
)
def test_dtypes_and_odd_shapes(tmp_path, dtype):
    for x in (torch.arange(6).reshape(2, 3), torch.tensor(1), torch.zeros(0, 4), torch.arange(6).reshape(2, 3).T):
        back = round_trip(x.to(dtype), tmp_path)
        assert back.dtype == dtype
        assert torch.equal(back, x.to(dtype))


def test_arrays_that_torch_would_not_take_as_they_are(tmp_path):
    frozen = np.arange(4.0)
    frozen.flags.writeable = False
    for x in (np.arange(6)[::-2], frozen, np.array(2, dtype=np.uint16), np.asfortranarray(np.eye(3)[:, :2])):
        back = round_trip(x, tmp_path)
        np.testing.assert_array_equal(back, x, strict=True)
        assert back.flags.writeable


def test_shared_memory_is_kept_once_and_temporaries_are_not_mixed_up(tmp_path):
    x = torch.arange(6.0)
    a, b, c, d = round_trip([x, x, x.view(2, 3), x[::2]], tmp_path)
    assert a is b
    assert torch.equal(c, x.view(2, 3))
    assert torch.equal(d, x[::2])
    # State tensors of generators are temporaries of one size: a freed one's address goes to the next.
    generators = {str(i): torch.Generator().manual_seed(i) for i in range(20)}
    others = {str(i): torch.Generator() for i in range(20)}
    checkpoint.save(tmp_path / "g", Plain(generators))
    checkpoint.load(tmp_path / "g", Plain(others))
    for name, generator in generators.items():
        assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=others[name]))


def test_an_object_that_saves_itself_may_hold_generators_and_records(tmp_path):
    class World:
        def __init__(self, seed: int) -> None:
            self.rng, self.last = np.random.default_rng(seed), None

        def state_dict(self) -> dict[str, Any]:
            return {"rng": self.rng, "last": self.last}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.rng, self.last = state["rng"], state["last"]

    world, other = World(0), World(1)
    world.last = Rows(torch.arange(3))
    checkpoint.save(tmp_path, Plain(world))
    checkpoint.load(tmp_path, Plain(other))
    assert isinstance(other.last, Rows)
    assert torch.equal(other.last.x, torch.arange(3))
    assert world.rng.random() == other.rng.random()


def test_a_loaded_tensor_does_not_live_in_the_file(tmp_path):
    x = round_trip(torch.arange(1000), tmp_path)
    path = next((tmp_path / "plain").glob("*.safetensors"))
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(x, torch.arange(1000))


def test_parts_are_read_alone_and_the_rest_is_verified(tmp_path):
    checkpoint.save(tmp_path, init())
    names = checkpoint.read(tmp_path).tensors.keys()
    own = {name for name in names if name.startswith(("state.model", "state.theta"))}
    assert checkpoint.read(tmp_path, ("state.model", "state.theta")).tensors.keys() == own
    assert 0 < len(own) < len(names)
    path = next(tmp_path.glob("*.safetensors"))
    content = path.read_bytes()
    for at in range(len(content) // 2, len(content), len(content) // 20):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(InputError, match="damaged"):
            checkpoint.read(tmp_path, ("state.theta",))


def test_what_cannot_be_saved_is_named(tmp_path):
    for value, kind in ((object(), "object"), (lambda: 0, "function"), ({1}, "set"), (np.array(["a"]), "ndarray")):
        with pytest.raises(TypeError, match=rf"state\.value\.0 is of type {kind}"):
            checkpoint.save(tmp_path / "c", Plain([value]))
    assert not (tmp_path / "c").exists()


def test_only_safetensors_and_json(tmp_path):
    state = init()
    update(state)
    checkpoint.save(tmp_path, state)
    document = json.loads((tmp_path / "state.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"state.json", document["tensors"]}
    assert document["algorithm"] == "test_checkpoint"
    assert (document["format"], document["step"]) == (1, 1)
    assert "state.model.embed.weight" in load_file(tmp_path / document["tensors"])
    words = "pickle", "torch.load", "torch.save", "eval(", "exec(", "import_module", "__import__", "allow_pickle"
    for source in Path(checkpoint.__file__).parent.glob("*.py"):
        text = source.read_text(encoding="utf-8").replace("unpickled", "").replace(".eval(", "")
        assert not [word for word in words if word in text], source


# What does not fit.


def change(attribute: str, value: Any) -> State:
    state = init()
    setattr(state, attribute, value)
    return state


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: init(width=4),
            r"state\.model\.embed\.weight is float32\[5, 3\] in the checkpoint and float32\[5, 4\]",
        ),
        (
            lambda: change("model", nn.Linear(2, 2)),
            r"state\.model is a Tied in the checkpoint and a Linear in this run",
        ),
        (lambda: change("critics", [nn.Linear(2, 1)]), r"state\.critics\.1 is a Linear .* and a NoneType"),
        (
            lambda: change("critics", [nn.Linear(2, 1), nn.Linear(2, 1, bias=False)]),
            r"critics\.1\.bias is in the check",
        ),
        (lambda: change("theta", torch.zeros(3, requires_grad=True)), r"state\.theta is float32\[2\] .* float32\[3\]"),
        (lambda: change("table", np.zeros((2, 3))), r"state\.table is float64\[2, 2\] in the .* float64\[2, 3\]"),
        (lambda: change("counter", None), r"state\.counter is a .*Counter in the checkpoint and a builtins:NoneType"),
        (lambda: init(rng="Philox"), r"state\.rng is a PCG64 in the checkpoint and a Philox in this run"),
        (
            lambda: change("optimizer", torch.optim.AdamW(Tied().parameters())),
            r"state\.optimizer moves \[4\] parameters in the checkpoint and \[3\] in this run",
        ),
        (lambda: change("optimizer", torch.optim.SGD(Tied().parameters())), "AdamW in the checkpoint and a SGD"),
        (lambda: Plain(), r"state is a \S*test_checkpoint:State in the checkpoint and a \S*test_checkpoint:Plain in"),
    ],
)
def test_another_structure_is_refused_and_nothing_is_loaded(tmp_path, other, message):
    state = init()
    update(state)
    checkpoint.save(tmp_path, state)
    fresh = other()
    before = contents(fresh)
    torch.manual_seed(3)
    with pytest.raises(InputError, match=message):
        checkpoint.load(tmp_path, fresh)
    after = contents(fresh)
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(3).get_state())


def test_missing_and_unexpected_fields_are_named(tmp_path):
    new = dataclasses.make_dataclass("S", [("a", int), ("c", int)], namespace={"__module__": "m"})
    old = dataclasses.make_dataclass("S", [("a", int), ("b", int)], namespace={"__module__": "m"})
    checkpoint.save(tmp_path, old(1, 2))
    with pytest.raises(InputError, match=r"state\.c is missing in the checkpoint; state\.b is in the checkpoint only"):
        checkpoint.load(tmp_path, new(3, 4))


def test_another_algorithm_or_format_is_refused(tmp_path):
    dpo = dataclasses.make_dataclass("State", [("step", int)], namespace={"__module__": "operant.algorithms.x.dpo"})
    checkpoint.save(tmp_path, dpo(1))
    with pytest.raises(InputError, match="is a checkpoint of dpo and this run is test_checkpoint"):
        checkpoint.load(tmp_path, Plain())
    saved = checkpoint.read(tmp_path)
    saved.document["format"] = 2
    with pytest.raises(InputError, match="format 2, written by Operant"):
        checkpoint.put(saved, dpo(0))


def test_a_record_class_must_be_loaded_already(tmp_path):
    checkpoint.save(tmp_path, Plain(Rows(torch.zeros(1))))
    saved = checkpoint.read(tmp_path)
    saved.document["state"]["values"]["value"]["$fields"] = "os:system"
    with pytest.raises(InputError, match="value is a os:system in the checkpoint"):
        checkpoint.put(saved, Plain())


# Damage and full disks.


def test_every_truncation_and_every_flipped_bit_is_noticed(tmp_path):
    checkpoint.save(tmp_path, Plain(torch.arange(30), 5))
    for path in sorted(tmp_path.iterdir()):
        good = path.read_bytes()
        for size in range(0, len(good), len(good) // 20):
            path.write_bytes(good[:size])
            with pytest.raises(InputError, match=r"damaged|no whole"):
                checkpoint.read(tmp_path)
        for at in range(5, len(good), len(good) // 40):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(InputError, match=r"damaged|no whole"):
                checkpoint.read(tmp_path)
        path.write_bytes(good)
        checkpoint.read(tmp_path)
        path.unlink()
        with pytest.raises(InputError, match="no whole checkpoint"):
            checkpoint.read(tmp_path)
        path.write_bytes(good)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_in_rust(tensors: dict[str, Tensor], path: Path) -> None:
    path.write_bytes(b"half of it")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("module", "name", "failure"),
    [
        (checkpoint, "save_file", full_disk_in_rust),
        (checkpoint, "sync", full_disk),
        (files, "sync", full_disk),
        (files.os, "fsync", full_disk),
    ],
)
@pytest.mark.parametrize("same_folder", [True, False])
def test_a_full_disk_is_one_message_and_the_last_checkpoint_stays(
    tmp_path, monkeypatch, module, name, failure, same_folder
):
    checkpoint.save(tmp_path / "1", Plain(torch.arange(3), 1))
    target = tmp_path / ("1" if same_folder else "2")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failure)
        with pytest.raises(InputError, match="the disk is full"):
            checkpoint.save(target, Plain(torch.arange(4), 2))
    assert len(list((tmp_path / "1").iterdir())) == 2
    checkpoint.load(tmp_path / "1", state := Plain())
    # Only the sync after the last rename comes too late to keep the old one; then the new one is whole.
    late = same_folder and module is files and name == "sync"
    assert state.step == (2 if late else 1)
    if not same_folder and name != "sync":
        assert not target.exists()


def test_other_failures_to_write_are_one_message_too(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file.*; mend that"):
        checkpoint.save(tmp_path / "file", Plain())


class Killed(BaseException):
    pass


def test_a_kill_at_any_call_leaves_a_good_checkpoint(tmp_path, monkeypatch):
    """Every call that changes the disk is made the last one in turn; nothing may clean up afterwards."""
    calls = [
        (Path, "mkdir"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir"), (os, "fsync"), (checkpoint, "save_file"),
    ]  # fmt: skip
    countdown = [0]

    def mortal(f):
        def call(*args, **kwargs):
            countdown[0] -= 1
            if countdown[0] < 0:
                raise Killed
            return f(*args, **kwargs)

        return call

    checkpoint.save(tmp_path, Plain(torch.arange(3), 0))
    done = 0
    for moment in range(100):
        with monkeypatch.context() as patch:
            for owner, name in calls:
                patch.setattr(owner, name, mortal(getattr(owner, name)))
            countdown[0] = moment
            try:
                checkpoint.save(tmp_path, Plain(torch.arange(moment), moment + 1))
                killed = False
            except Killed:
                killed = True
        checkpoint.load(tmp_path, state := Plain())
        assert state.step in (done, moment + 1)
        assert len(state.value) == (moment if state.step == moment + 1 else 3 if done == 0 else done - 1)
        done = state.step
        if not killed:
            break
    assert moment > 5
    assert not killed
    assert len(list(tmp_path.iterdir())) == 2
