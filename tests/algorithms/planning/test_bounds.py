"""What solvers promise, against the optimum in rational arithmetic."""

from types import ModuleType

import numpy as np
import pytest

from operant.algorithms.planning import (
    gauss_seidel,
    modified_policy_iteration,
    policy_iteration,
    prioritized_sweeping,
    value_iteration,
)
from operant.core.errors import InputError
from operant.mdp import problems
from operant.mdp.chain import policy_reward_process
from operant.mdp.free_loops import merge_free_loops
from operant.mdp.model import from_transitions

from .exact import (
    best_of_all_policies,
    chance_of_reward,
    exact_optimum,
    random_episodic_model,
    random_model,
    random_reaching_model,
)

DISCOUNTED = [value_iteration, modified_policy_iteration]
IN_PLACE = [gauss_seidel, prioritized_sweeping]
ITERATIVE = [*DISCOUNTED, *IN_PLACE]
SOLVERS = [*ITERATIVE, policy_iteration]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("gamma", "models"), [(0.0, 40), (0.5, 300), (0.95, 350), (0.9999, 12)])
def test_the_true_optimum_lies_within_the_error_that_is_stated(solver: ModuleType, gamma: float, models: int):
    generator = np.random.default_rng(int(gamma * 1e4))
    for _ in range(models):
        mdp = random_model(generator, gamma)
        found = solver.solve(mdp, solver.Config(error=1e-4))
        assert found.reached
        assert found.error <= 1e-4
        for lower, upper, due in zip(found.lower, found.upper, exact_optimum(mdp), strict=True):
            assert lower <= due <= upper


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_error_below_rounding_is_not_claimed(solver: ModuleType):
    mdp = random_model(np.random.default_rng(0), 0.9999)
    found = solver.solve(mdp, solver.Config(error=1e-13))
    assert not found.reached
    assert found.error < 1e-4
    for lower, upper, due in zip(found.lower, found.upper, exact_optimum(mdp), strict=True):
        assert lower <= due <= upper


def test_a_small_change_says_nothing_near_gamma_1():
    """Where each sweep changes little, a solver that waits for little is wrong by 10,000 times what it waited for."""
    mdp = from_transitions([0], [0], [0], [1.0], [1e-3], 0.9999)
    value = 0.0
    while True:
        value, before = 1e-3 + 0.9999 * value, value
        if value - before < 5e-4:
            break
    due = 1e-3 / (1 - 0.9999)
    assert due - value > 1e3 * 5e-4
    for solver in SOLVERS:
        found = solver.solve(mdp, solver.Config(error=5e-4))
        assert abs(found.value[0] - due) <= found.error <= 5e-4


@pytest.mark.parametrize("solver", ITERATIVE)
def test_a_limit_on_sweeps_is_said_and_the_bound_still_holds(solver: ModuleType):
    mdp = random_model(np.random.default_rng(3), 0.9999)
    name = "max_improvements" if solver is modified_policy_iteration else "max_sweeps"
    found = solver.solve(mdp, solver.Config(error=1e-8, **{name: 2}))
    assert not found.reached
    assert found.error > 1e-8
    for lower, upper, due in zip(found.lower, found.upper, exact_optimum(mdp), strict=True):
        assert lower <= due <= upper


@pytest.mark.parametrize("solver", ITERATIVE)
def test_any_start_leads_to_the_same_answer(solver: ModuleType):
    mdp = random_model(np.random.default_rng(5), 0.95)
    due = solver.solve(mdp)
    for start in (np.full(mdp.states, 1e6), np.random.default_rng(0).normal(size=mdp.states) * 100):
        found = solver.solve(mdp, value=start)
        assert np.abs(found.value - due.value).max() <= found.error + due.error
        assert (found.policy == due.policy).all()


def test_of_equal_actions_the_lowest_is_chosen():
    mdp = from_transitions([0, 0, 0], [0, 2, 5], [0, 0, 0], [1.0] * 3, [1.0, 3.0, 3.0], 0.5)
    for solver in SOLVERS:
        assert solver.solve(mdp).policy.tolist() == [2]


@pytest.mark.parametrize("solver", DISCOUNTED)
def test_without_a_discount_they_refuse(solver: ModuleType):
    mdp = from_transitions([0], [0], [1], [1.0], [1.0], 1.0, ends=[1])
    with pytest.raises(InputError, match="needs one below 1"):
        solver.solve(mdp)


@pytest.mark.parametrize("solver", [policy_iteration, *IN_PLACE])
def test_without_a_discount_the_optimum_lies_within_the_error_too(solver: ModuleType):
    """Where some policies never end but lose by it."""
    generator = np.random.default_rng(0)
    proved = refused = 0
    for _ in range(300):
        mdp = random_episodic_model(generator)
        first = policy_iteration.init(mdp).rows
        try:
            found = solver.solve(mdp)
        except InputError:
            refused += 1
            continue
        proved += 1
        assert found.reached
        for lower, upper, due in zip(found.lower, found.upper, exact_optimum(mdp, first), strict=True):
            assert lower <= due <= upper
    assert proved > 150 > refused


@pytest.mark.parametrize("solver", [policy_iteration, *IN_PLACE])
@pytest.mark.parametrize("loop", [(1.0, 1.0), (1.0, -1.0)])
def test_going_on_for_ever_without_a_loss_is_refused(solver: ModuleType, loop: tuple[float, float]):
    """Between 0 and 1 one may go to and fro for what `loop` pays, or end for -1."""
    mdp = from_transitions([0, 0, 1], [0, 1, 0], [2, 1, 0], [1.0] * 3, [-1.0, *loop], 1.0, ends=[2])
    with pytest.raises(InputError, match="can go on for ever without losing"):
        solver.solve(mdp)


@pytest.mark.parametrize("solver", [policy_iteration, *IN_PLACE])
def test_staying_for_ever_at_no_cost_is_worth_nothing(solver: ModuleType):
    """From 0 and 1 one may go to and fro for nothing; 0 can end for -1, and 1 for what is given."""
    for paid, due, policy in ((-2.0, 0.0, [1, 0, -1]), (3.0, 3.0, [1, 1, -1])):
        mdp = from_transitions(
            [0, 0, 1, 1], [0, 1, 0, 1], [2, 1, 0, 2], [1.0] * 4, [-1.0, 0.0, 0.0, paid], 1.0, ends=[2]
        )
        found = solver.solve(mdp)
        assert np.abs(found.value - [due, due, 0.0]).max() <= found.error <= 1e-6
        assert found.policy.tolist() == policy


@pytest.mark.parametrize("solver", [policy_iteration, *IN_PLACE])
def test_without_a_discount_an_end_must_be_in_reach(solver: ModuleType):
    mdp = from_transitions([0, 1], [0, 0], [0, 2], [1.0, 1.0], [-1.0, -1.0], 1.0, ends=[2])
    with pytest.raises(InputError, match="from state 0 no end can be reached, whatever is done"):
        solver.solve(mdp)


@pytest.mark.parametrize("solver", [policy_iteration, *IN_PLACE])
def test_free_loops_hide_nothing(solver: ModuleType):
    """Reaching one end of two in a random model where nothing else is paid, against the best of all policies."""
    generator = np.random.default_rng(0)
    merged = 0
    for _ in range(60):
        mdp = random_reaching_model(generator)
        merged += merge_free_loops(mdp) is not None
        found = solver.solve(mdp)
        assert found.reached
        assert np.abs(found.value - best_of_all_policies(mdp)).max() <= found.error + 1e-9
        reached = policy_reward_process(mdp, found.policy)
        assert np.abs(chance_of_reward(reached) - found.value).max() <= 2 * found.error + 1e-9
    assert merged > 30


@pytest.mark.parametrize(
    ("problem", "state", "due"),
    [("cliff", 36, -13), ("windy_grid", 30, -15), ("corner_grid", 3, -3), ("random_walk", 2, 1 / 3)],
)
@pytest.mark.parametrize("solver", [policy_iteration, *IN_PLACE])
def test_episodic_classics(solver: ModuleType, problem: str, state: int, due: float):
    found = solver.solve(getattr(problems, problem)())
    assert found.error <= 1e-6
    assert abs(found.value[state] - due) <= found.error


def test_the_gambler():
    found = policy_iteration.solve(problems.gambler(0.4))
    np.testing.assert_allclose(found.value[[25, 50, 75]], [0.16, 0.4, 0.64], atol=1e-9)
    assert policy_iteration.solve(problems.gambler(0.55)).value[1] == pytest.approx(0.1818, abs=1e-4)
    np.testing.assert_allclose(
        policy_iteration.solve(problems.gambler(0.25)).value[[25, 50, 75]], [0.0625, 0.25, 0.4375]
    )
