"""The queue of urgent states, against sorting."""

import numpy as np

from operant.mdp import problems
from operant.mdp.backup import NONE, optimal_backup
from operant.mdp.priority import pop, predecessors, prioritized_backups, push, queue, refill


def test_states_come_out_by_their_last_urgency():
    generator = np.random.default_rng(0)
    for _ in range(50):
        waiting, due = queue(20), {}
        for _ in range(60):
            s, urgency = int(generator.integers(20)), float(generator.random())
            push(waiting, s, urgency)
            due[s] = urgency
        order = [pop(waiting) for _ in range(len(due))]
        assert order == sorted(due, key=due.__getitem__, reverse=True)
        assert pop(waiting) == -1


def test_predecessors_are_those_of_the_matrix():
    mdp = problems.car_rental(4, 2)
    found, dense = predecessors(mdp), np.zeros((mdp.states, mdp.states))
    for target in range(mdp.states):
        for k in range(found.start[target], found.start[target + 1]):
            dense[found.state[k], target] = found.chance[k]
    due = np.zeros_like(dense)
    np.maximum.at(due, mdp.row_states(), mdp.matrix().toarray())
    assert (dense == due).all()


def test_an_empty_queue_means_that_no_state_would_change_by_more():
    mdp, least = problems.car_rental(6, 2), 1e-3
    value, out, waiting = np.zeros(mdp.states), np.zeros(mdp.states), queue(mdp.states)
    optimal_backup(mdp.rows, mdp.gamma, value, out, NONE)
    refill(waiting, np.abs(out - value), least)
    before = predecessors(mdp)
    while waiting.size[0]:
        done = prioritized_backups(mdp.rows, mdp.gamma, value, before, waiting, least, 100)
        assert done <= 100
        optimal_backup(mdp.rows, mdp.gamma, value, out, NONE)
        assert (np.abs(out - value) <= waiting.urgency + 1e-12).all()
    assert np.abs(out - value).max() <= least
