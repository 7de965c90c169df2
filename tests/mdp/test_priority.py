"""Sweeps by urgency, against the bound that they promise."""

import numpy as np

from operant.core.heap import heap
from operant.mdp import problems
from operant.mdp.backup import NO_COPY, NONE, optimal_backup
from operant.mdp.priority import predecessors, prioritized_backups, refill


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
    value, out, waiting = np.zeros(mdp.states), np.zeros(mdp.states), heap(mdp.states)
    optimal_backup(mdp.rows, mdp.gamma, value, out, NONE, NO_COPY)
    urgency = np.abs(out - value)
    refill(waiting, urgency, least)
    before = predecessors(mdp)
    while waiting.count[0]:
        done = prioritized_backups(mdp.rows, mdp.gamma, value, before, urgency, waiting, least, 100)
        assert done <= 100
        optimal_backup(mdp.rows, mdp.gamma, value, out, NONE, NO_COPY)
        assert (np.abs(out - value) <= urgency + 1e-12).all()
    assert np.abs(out - value).max() <= least
