"""Random numbers of compiled loops: the published generator, uniform, and the same compiled or not."""

import numpy as np
from scipy import stats

from operant.core.random import below, draw, stream, uniform


def word(state: np.ndarray) -> int:
    """The 53 bits that `uniform` makes its number of."""
    return int(uniform(state) * 2**53)


def test_these_are_the_outputs_of_splitmix64():
    """The reference implementation (Vigna 2015) with the seed 1234567; `uniform` keeps the upper 53 bits."""
    state = np.array([1234567], dtype=np.uint64)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [word(state) for _ in published] == [x >> 11 for x in published]


def test_a_stream_goes_on_where_it_was_saved():
    state = stream(3)
    uniform(state)
    saved = state.copy()
    ahead = [uniform(state) for _ in range(5)]
    assert [uniform(saved) for _ in range(5)] == ahead


def test_streams_of_a_seed_differ():
    assert len({int(stream(seed, n)[0]) for seed in range(10) for n in range(10)}) == 100


def test_numbers_are_uniform():
    state = stream(0)
    x = np.array([uniform(state) for _ in range(100_000)])
    assert x.min() >= 0
    assert x.max() < 1
    assert stats.kstest(x, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.015


def test_whole_numbers_are_uniform():
    state = stream(1)
    counts = np.bincount([below(state, 7) for _ in range(70_000)], minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 0.001


def test_draws_follow_their_chances():
    state, chance = stream(2), np.array([0.5, 0.0, 0.3, 0.2])
    counts = np.bincount([draw(state, chance) for _ in range(50_000)], minlength=4)
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3]], 50_000 * chance[[0, 2, 3]]).pvalue > 0.001
