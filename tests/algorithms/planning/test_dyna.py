"""Planning in a learned model: expectations by brute force, and the order of prioritised updates."""

import numpy as np
import pytest
from scipy import stats

from operant.algorithms.planning import dyna_q, modified_policy_iteration, prioritized_dyna
from operant.core.control import Rule
from operant.core.heap import heap, pop, push
from operant.core.random import stream
from operant.mdp.learned import as_mdp, learned_model, record
from operant.mdp.problems import dyna_maze
from operant.mdp.simulator import simulator

GAMMA = 0.9


def rule(alpha: float = 0.5, seed: int = 0) -> Rule:
    return Rule(
        GAMMA, alpha, 0.0, 0.0, 0.0, 0.0, np.zeros(1, np.int64), np.zeros((0, 0), np.int64), stream(seed)
    )  # fmt: skip


def learned():
    """After 300 random steps among three states with two actions."""
    rng, model = np.random.default_rng(0), learned_model(3, 2)
    model.actions[:] = 2
    for _ in range(300):
        s, a, after = (int(rng.integers(n)) for n in (3, 2, 3))
        record(model, s, a, float(rng.normal()), after, bool(rng.random() < 0.2))
    return model


W = np.random.default_rng(1).normal(size=(3, 2))


def operator(w: np.ndarray) -> np.ndarray:
    """[3, 2]: the Bellman operator of the learned model, from its matrix."""
    mdp = as_mdp(learned(), GAMMA)
    value = np.append(w.max(1), 0.0)
    return (mdp.reward + GAMMA * mdp.matrix() @ value).reshape(3, 2)


def test_the_backup_is_the_bellman_operator_of_the_learned_model():
    model = learned()
    found = [[prioritized_dyna.backup(W, model, s, a, GAMMA) for a in range(2)] for s in range(3)]
    np.testing.assert_allclose(found, operator(W), atol=1e-12)


def test_imagined_steps_are_q_learning_in_the_learned_model():
    """The mean over many single imagined steps is that of the operator, each pair as likely as any other."""
    model, random, moves = learned(), rule(0.5), np.zeros((30_000, 3, 2))
    for move in moves:
        w = W.copy()
        dyna_q.plan(w, model, random, 1)
        move[...] = w - W
    due = 0.5 * (operator(W) - W) / 6
    scores = (moves.mean(0) - due) / (moves.std(0) / np.sqrt(len(moves)))
    assert np.abs(scores).max() < 4
    counts = (moves != 0).sum(0).ravel()
    assert stats.chisquare(counts).pvalue > 0.001


def test_prioritised_planning_takes_the_largest_change_first_and_ends_at_the_models_optimum():
    model, queue, w = learned(), heap(6), W.copy()
    changes = np.abs(operator(W) - W)
    for pair, change in enumerate(changes.ravel()):
        push(queue, pair, float(change))
    assert pop(queue) == changes.argmax()
    push(queue, int(changes.argmax()), float(changes.max()))
    prioritized_dyna.plan(w, model, queue, rule(1.0), 1e-9, 5000)
    best = modified_policy_iteration.solve(as_mdp(model, GAMMA))
    np.testing.assert_allclose(w.max(1), best.value[:3], atol=1e-6)
    assert pop(queue) == -1  # nothing is left that would change by more than θ


def test_changes_below_the_threshold_are_left():
    model, queue, w = learned(), heap(6), W.copy()
    for pair in range(6):
        prioritized_dyna.enqueue(w, model, queue, pair, GAMMA, 1e9)
    prioritized_dyna.plan(w, model, queue, rule(), 1e9, 10)
    np.testing.assert_array_equal(w, W)


def steps_to_learn(module, planning_steps: int) -> float:
    """Mean steps of the episodes 2 to 5 in the maze, over ten runs; the first finds the reward by chance."""
    found = []
    for seed in range(10):
        world = simulator(dyna_maze(), 18, seed)
        config = module.Config(steps=1_000_000, report_every=50, planning_steps=planning_steps)
        for metrics in module.train(module.init(world, config, seed), config):
            if metrics["rollout/episodes"] >= 5:
                break
        found.append(world.lengths[1:5].sum())
    return float(np.mean(found))


@pytest.mark.parametrize("module", [dyna_q, prioritized_dyna])
def test_planning_saves_steps_in_the_world(module):
    without, little, much = steps_to_learn(dyna_q, 0), steps_to_learn(module, 3), steps_to_learn(module, 30)
    assert much < 0.8 * little < 0.8 * 0.6 * without
