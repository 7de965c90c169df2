"""Records map, index and refuse wrong shapes; micro-batches are a partition within a budget."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from operant.core.losses import masked_mean
from operant.core.record import Preference, Record, Trajectory, Transition, micro_batches, minibatches


def trajectory(rows: int = 4, steps: int = 3, **fields: Tensor | Record) -> Trajectory:
    floats = {name: torch.rand(rows, steps) for name in ("log_prob", "value", "next_value", "reward", "discount")}
    flags = {name: torch.rand(rows, steps) < 0.3 for name in ("terminated", "truncated", "mask")}
    seen = {"observation": torch.rand(rows, steps, 2, 5), "action": torch.randint(9, (rows, steps))}
    return Trajectory(**(seen | floats | flags | fields))


@dataclasses.dataclass(frozen=True)
class Pair(Record):
    left: Tensor
    right: Record | Tensor | None


class TestRecord:
    def test_map_reaches_every_tensor_and_leaves_none_alone(self):
        record = Pair(torch.ones(2), Pair(torch.ones(2), None))
        doubled = record.map(lambda x: 2 * x)
        assert doubled.left.tolist() == doubled.right.left.tolist() == [2.0, 2.0]
        assert doubled.right.right is None
        assert record.left.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("index", [slice(1, 3), [2, 0], torch.tensor([3, 3, 1]), torch.tensor([True, False] * 2)])
    def test_an_index_selects_the_same_rows_everywhere(self, index):
        whole = trajectory(observation=trajectory())
        part = whole[index]
        assert isinstance(part, Trajectory)
        for field in dataclasses.fields(Trajectory)[1:]:
            assert torch.equal(getattr(part, field.name), getattr(whole, field.name)[index])
        assert torch.equal(part.observation.reward, whole.observation.reward[index])
        assert len(part) == len(part.reward)

    def test_flatten_makes_every_decision_a_row(self):
        whole = trajectory(4, 3)
        flat = whole.flatten()
        assert len(flat) == 12
        for row, (b, t) in enumerate(itertools.product(range(4), range(3))):
            assert flat.reward[row, 0] == whole.reward[b, t]
            assert torch.equal(flat.observation[row, 0], whole.observation[b, t])

    def test_to_moves_every_tensor(self):
        moved = trajectory(observation=trajectory()).to("meta")
        assert moved.reward.device.type == moved.observation.mask.device.type == "meta"

    def test_records_are_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            trajectory().reward = torch.zeros(4, 3)


def test_a_trace_is_cut_by_either_end():
    record = trajectory()
    assert torch.equal(record.done, record.terminated | record.truncated)


@pytest.mark.parametrize("name", ["value", "reward", "discount", "mask", "action"])
def test_a_column_that_would_broadcast_is_refused(name):
    with pytest.raises(TypeError, match=name):
        trajectory(**{name: getattr(trajectory(4, 1), name)})


def test_other_records_refuse_wrong_shapes():
    x, y = torch.rand(5, 2), torch.rand(5)
    assert len(Transition(x, x, y, y, x)) == 5
    with pytest.raises(TypeError, match="reward"):
        Transition(x, x, y.unsqueeze(-1), y, x)
    assert len(Preference(torch.rand(5, 3, 7), torch.ones(5, 3, dtype=torch.long))) == 5
    with pytest.raises(TypeError, match="rank"):
        Preference(torch.rand(5, 3, 7), torch.ones(5, 2, dtype=torch.long))


masks = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=12).map(torch.tensor)


class TestMicroBatches:
    @given(masks, st.integers(1, 40))
    def test_every_row_once_and_no_batch_over_the_budget(self, mask, budget):
        batches = list(micro_batches(mask, budget))
        assert sorted(torch.cat(batches).tolist()) == list(range(len(mask)))
        for rows in batches:
            used = mask[rows].any(0).nonzero()
            width = int(used.max()) + 1 if len(used) else 1
            assert len(rows) == 1 or len(rows) * width <= budget

    @given(masks, st.integers(1, 40))
    def test_no_batch_that_could_have_taken_the_next_row(self, mask, budget):
        batches = list(micro_batches(mask, budget))
        for rows, following in itertools.pairwise(batches):
            used = mask[following[:1]].any(0).nonzero()
            assert (len(rows) + 1) * (int(used.max()) + 1 if len(used) else 1) > budget

    def test_no_budget_is_one_batch(self):
        assert [rows.tolist() for rows in micro_batches(torch.ones(3, 2, dtype=torch.bool), 0)] == [[0, 1, 2]]

    @pytest.mark.parametrize("budget", [0, 1, 7, 12, 1000])
    def test_gradients_of_micro_batches_add_up_to_that_of_the_whole(self, budget):
        weight, x = torch.randn(5, requires_grad=True), torch.randn(8, 6, 5)
        mask = torch.arange(6) < torch.randint(1, 7, (8, 1))
        (whole,) = torch.autograd.grad(masked_mean((x @ weight).tanh(), mask), weight)
        for rows in micro_batches(mask, budget):
            masked_mean((x[rows] @ weight).tanh(), mask[rows], mask.sum()).backward()
        torch.testing.assert_close(weight.grad, whole)


@pytest.mark.parametrize("rows", [1, 5, 30, 31])
@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_minibatches_hold_every_row_once_and_are_alike(rows, size):
    parts = [list(range(rows))[part] for part in minibatches(rows, size)]
    assert [row for part in parts for row in part] == list(range(rows))
    lengths = [len(part) for part in parts]
    assert len(lengths) == -(-rows // size)
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
