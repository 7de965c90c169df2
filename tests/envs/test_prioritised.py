"""Prioritised replay against its definition: probabilities, weights, sums, resume."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from operant.core.errors import InputError
from operant.envs.prioritised import PrioritisedReplay, find, set_leaves
from operant.envs.replay import Replay
from operant.experiment.structure import Tensors, encode, place


def filled(count: int, capacity: int = 12, alpha: float = 0.6, n: int = 1) -> PrioritisedReplay:
    """`count` transitions whose reward is their number."""
    memory = PrioritisedReplay(Replay(capacity, (1,), n=n), alpha)
    for i in range(count):
        x, no = np.full((1, 1), i, np.float32), np.zeros((1, 1), bool)
        memory.add(x[..., None], x.astype(int), x, no, no, x[..., None], ~no)
    return memory


def test_every_node_is_the_sum_of_the_leaves_below_it():
    rng, tree, leaves = np.random.default_rng(0), np.zeros(32), np.zeros(16)
    for _ in range(200):
        rows, values = rng.integers(16, size=3), rng.random(3)
        set_leaves(tree, rows, values)
        for row, value in zip(rows, values, strict=True):
            leaves[row] = value
    np.testing.assert_array_equal(tree[16:], leaves)
    for level in range(4):
        np.testing.assert_allclose(tree[2**level : 2 ** (level + 1)], leaves.reshape(2**level, -1).sum(1))


def test_a_point_falls_where_the_running_sum_passes_it():
    rng, tree = np.random.default_rng(0), np.zeros(32)
    leaves = rng.random(11)
    set_leaves(tree, np.arange(11), leaves)
    points = rng.random(1000) * leaves.sum()
    np.testing.assert_array_equal(find(tree, points), np.searchsorted(leaves.cumsum(), points, side="right"))


def test_a_point_at_the_very_end_is_the_last_transition():
    tree = np.zeros(32)
    set_leaves(tree, np.arange(11), np.full(11, 0.1))
    assert find(tree, np.array([tree[1], 2 * tree[1]])).tolist() == [10, 10]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_transition_is_drawn_in_proportion_to_the_power_of_its_error(alpha):
    memory = filled(9, alpha=alpha)
    error = torch.arange(9) / 4 - 1.0
    memory.update(np.arange(9), error)
    chance = (error.abs().numpy() + 1e-6) ** alpha
    count = np.zeros(9)
    for _ in range(300):
        count += np.bincount(memory.sample(40, 0.5)[1], minlength=9)
    due = chance / chance.sum() * count.sum()
    kept = due > 1
    assert chisquare(count[kept], due[kept] * count[kept].sum() / due[kept].sum()).pvalue > 1e-3
    assert count[~kept].sum() < 10


def test_a_draw_is_stratified():
    """With equal priorities and as many draws as transitions, each is drawn once."""
    assert sorted(filled(8).sample(8, 0.5)[1].tolist()) == list(range(8))


def test_weights_undo_the_priorities():
    """With β = 1 the weighted mean is the uniform one, times the largest weight (Schaul section 3.4)."""
    memory = filled(9, alpha=1.0)
    memory.update(np.arange(9), torch.arange(9) + 1.0)
    chance = (np.arange(9) + 1) / 45
    batch, rows, weight = memory.sample(200_000, 1.0)
    np.testing.assert_array_equal(batch.reward.numpy(), rows)
    np.testing.assert_allclose(weight, chance.min() / chance[rows], rtol=1e-5)
    # E[w r] / E[w] = mean r
    assert (weight * batch.reward).mean().item() / weight.mean().item() == pytest.approx(4, abs=0.02)
    half = memory.sample(1000, 0.5)
    np.testing.assert_allclose(half[2], (chance[half[1]] / chance[half[1]].min()) ** -0.5, rtol=1e-5)
    assert (memory.sample(100, 0.0)[2] == 1).all()


@pytest.mark.parametrize("n", [1, 3])
def test_new_transitions_have_the_highest_priority_so_far_and_take_the_place_of_old_ones(n):
    memory = filled(11 + n, capacity=12, alpha=1.0, n=n)
    memory.update(np.array([0, 5]), torch.tensor([7.0, 0.5]))
    x, no = np.full((1, 1), 99, np.float32), np.zeros((1, 1), bool)
    rows = memory.add(x[..., None], x.astype(int), x, no, no, x[..., None], ~no)
    assert rows.tolist() == [0]
    priorities = memory.tree[memory.leaves :][:12]
    assert priorities[0] == pytest.approx(7, abs=1e-5)
    assert priorities[5] == pytest.approx(0.5, abs=1e-5)
    assert (np.delete(priorities, [0, 5]) == 1).all()


def test_goes_on_as_if_it_had_not_stopped():
    memory = filled(30)
    memory.update(np.arange(12), torch.rand(12) * 5)
    resumed, tensors = filled(4), Tensors()
    node = encode(memory, "replay", tensors)
    place(node, resumed, {name: x.clone() for name, x in tensors.named.items()})
    np.testing.assert_array_equal(memory.tree, resumed.tree)
    assert memory.highest == resumed.highest
    torch.manual_seed(1)
    due = memory.sample(20, 0.5)
    torch.manual_seed(1)
    ours = resumed.sample(20, 0.5)
    assert ours[1].tolist() == due[1].tolist()
    assert torch.equal(ours[0].reward, due[0].reward)


@pytest.mark.parametrize(("alpha", "epsilon"), [(-0.1, 1e-6), (0.6, 0.0)])
def test_priorities_that_cannot_be_meant_are_refused(alpha, epsilon):
    with pytest.raises(InputError, match="priority_alpha"):
        PrioritisedReplay(Replay(5, (1,)), alpha, epsilon)


def test_an_empty_buffer_is_refused():
    with pytest.raises(InputError, match="empty"):
        filled(0).sample(3, 0.5)
