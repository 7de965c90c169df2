"""A learned model holds the counts, and becomes the model when they are enough."""

import numpy as np
from scipy import stats

from operant.core.random import stream
from operant.mdp.learned import as_mdp, imagine, learned_model, record

SEEN = [
    (0, 1, 1.0, 2, False),
    (0, 1, 3.0, 2, False),
    (0, 1, -1.0, 1, True),
    (0, 0, 0.5, 0, False),
    (2, 0, 4.0, 1, True),
]


def learned():
    model = learned_model(3, 2, room=4)
    for s, a, reward, after, terminated in SEEN:
        record(model, s, a, reward, after, terminated)
    return model


def test_it_is_the_most_likely_model():
    mdp = as_mdp(learned(), 0.9)
    assert mdp.end.tolist() == [False, True, False, True]  # nothing was tried in state 1; the last is the common end
    assert mdp.action[mdp.first[0] : mdp.first[1]].tolist() == [0, 1]
    np.testing.assert_allclose(mdp.matrix().toarray()[1], [0, 0, 2 / 3, 1 / 3])
    np.testing.assert_allclose(mdp.reward, [0.5, 1.0, 4.0])


def test_a_state_that_ends_an_episode_at_times_is_two_outcomes():
    """Both are at state 1, with chances and rewards of their own."""
    model = learned_model(2, 1, room=4)
    for reward, terminated in ((1.0, True), (3.0, False), (5.0, True), (8.0, True)):
        record(model, 0, 0, reward, 1, terminated)
    record(model, 1, 0, 2.0, 0, False)
    assert (model.visits[0, 0], model.size.tolist()) == (4, [2, 3])
    found = {bool(model.terminated[i]): (model.times[i], model.paid[i]) for i in range(2)}
    assert found == {True: (3, 14.0), False: (1, 3.0)}
    mdp = as_mdp(model, 0.9)
    np.testing.assert_allclose(mdp.matrix().toarray()[0], [0, 1 / 4, 3 / 4])
    np.testing.assert_array_equal(mdp.end, [False, False, True])


def test_chains_lead_through_all_outcomes_of_a_pair_and_into_a_state():
    model = learned()
    assert (model.size.tolist(), model.full) == ([3, 4], True)
    assert model.known[:3].tolist() == [1, 0, 4]
    into, i = [], model.into[1]
    while i >= 0:
        into.append((int(model.pair[i]), bool(model.terminated[i])))
        i = model.fellow[i]
    assert sorted(into) == [(1, True), (4, True)]


def test_it_imagines_what_it_saw_as_often():
    model, random = learned(), stream(0)
    counts = np.bincount([imagine(model, 0, 1, random) for _ in range(9000)], minlength=4)
    of_pair = model.times[:4] * (model.pair[:4] == 1)
    assert (counts[of_pair == 0] == 0).all()
    assert stats.chisquare(counts[of_pair > 0], 3000 * of_pair[of_pair > 0]).pvalue > 0.001


def test_more_room_keeps_what_is_there():
    model = learned()
    before = as_mdp(model, 0.9)
    model.make_room(8)
    np.testing.assert_array_equal(as_mdp(model, 0.9).matrix().toarray(), before.matrix().toarray())
    record(model, 1, 1, 0.0, 0, False)
    other = learned_model(3, 2, room=4)
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(as_mdp(other, 0.9).matrix().toarray(), as_mdp(model, 0.9).matrix().toarray())
