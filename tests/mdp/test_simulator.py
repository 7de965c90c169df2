"""A simulator draws what its model says, compiled or not."""

import numpy as np
import pytest
from scipy import stats

from operant.core.errors import InputError
from operant.core.linear import Active
from operant.mdp.model import MDP, from_transitions
from operant.mdp.problems import car_rental, cliff, gambler
from operant.mdp.simulator import actions, current, reset, simulator, step


def model() -> MDP:
    """State 0 with two actions, one of them random with rewards of its outcomes, 1 that goes on, 2 an end."""
    table = [
        (0, 0, 0, 0.5, 1.0), (0, 0, 1, 0.2, -2.0), (0, 0, 2, 0.3, 5.0), (0, 1, 1, 1.0, 0.5), (1, 0, 0, 0.25, 0.0),
        (1, 0, 2, 0.75, 1.0),
    ]  # fmt: skip
    return from_transitions(*zip(*table, strict=True), 0.9, ends=[2])


def test_frequencies_are_those_of_the_model():
    world, counts = simulator(model(), 0, seed=1), np.zeros(3)
    paid = {0: 1.0, 1: -2.0, 2: 5.0}
    for _ in range(20_000):
        world.place[0] = 0
        reward, after, terminated, truncated = step(world, 0)
        counts[after] += 1
        assert reward == paid[after]
        assert terminated == (after == 2)
        assert not truncated
    assert stats.chisquare(counts, 20_000 * np.array([0.5, 0.2, 0.3])).pvalue > 0.001


def test_episodes_begin_by_their_distribution_and_never_at_an_end():
    world = simulator(model(), np.array([0.3, 0.7, 0.0]), seed=2)
    counts = np.bincount([reset(world) for _ in range(20_000)], minlength=3)
    assert stats.chisquare(counts[:2], [6000, 14000]).pvalue > 0.001
    assert counts[2] == 0
    thirds = simulator(model(), np.array([1 / 3 + 1e-12, 2 / 3 - 1e-12, 0.0]))
    assert thirds.begin[1] == 1.0


def test_actions_are_those_of_the_state():
    world = simulator(gambler(), 50)
    for s, n in ((1, 1), (30, 30), (99, 1)):
        world.place[0] = s
        assert actions(world) == n
    assert simulator(gambler(), 50).shape == (101, 50)
    rental = simulator(car_rental(3), 0)
    rental.place[0] = 0
    assert actions(rental) == 1  # the action called 5: nothing to move
    assert step(rental, 0)[0] == pytest.approx(car_rental(3).reward[0])


def test_a_limit_truncates_and_an_end_terminates():
    world = simulator(cliff(), 36, limit=3)
    assert [step(world, 0)[2:] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    assert (world.place[2], world.returns[0], world.lengths[0]) == (1, -3.0, 3)
    assert reset(world) == current(world) == 36
    last = simulator(from_transitions([0], [0], [1], [1.0], [2.0], 1.0, ends=[1]), 0, limit=1)
    assert step(last, 0) == (2.0, 1, True, False)  # an end at the limit is an end


def test_returns_of_the_last_episodes_are_kept_in_a_ring():
    world = simulator(cliff(), 36, limit=2, episodes=3)
    for n in range(1, 8):
        reset(world)
        step(world, 0)
        step(world, 1 if n % 2 else 0)
        assert world.place[2] == n
        assert world.lengths[(n - 1) % 3] == 2


def test_features_are_those_of_the_state():
    x = Active(np.array([[0, 1], [1, 2], [0, 2]]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    world = simulator(model(), 1, features=x)
    assert world.shape == (3, 2)
    seen = current(world)
    assert (seen.index.tolist(), seen.weight.tolist()) == ([1, 2], [3.0, 4.0])
    dense = simulator(model(), 1, features=np.eye(3))
    assert current(dense).weight.tolist() == [0.0, 1.0, 0.0]


def test_a_saved_world_goes_on_in_place():
    def walk(world):
        return [step(world, 0)[:2] if not over(world) else reset(world) for _ in range(200)]

    def over(world):
        return world.end[world.place[0]]

    one = simulator(model(), 0, seed=5)
    walk(one)
    saved = {name: array.copy() for name, array in one.state_dict().items()}
    ahead = walk(one)
    other = simulator(model(), 0, seed=6)
    arrays = [id(other.place), id(other.random)]
    other.load_state_dict(saved)
    assert walk(other) == ahead
    assert [id(other.place), id(other.random)] == arrays


@pytest.mark.parametrize(
    ("begin", "features", "words"),
    [
        (3, None, "begin in state 3; states go from 0 to 2"),
        (2, None, "state 2 is an end"),
        (np.array([0.5, 0.5]), None, r"shape \(2,\)"),
        (np.array([0.5, 0.4, 0.0]), None, "sum 0.9"),
        (np.array([0.5, 0.0, 0.5]), None, "state 2 is an end"),
        (0, np.eye(2), "the model has 3 states"),
    ],
)
def test_bad_input_is_refused(begin, features, words):
    with pytest.raises(InputError, match=words):
        simulator(model(), begin, features=features)
