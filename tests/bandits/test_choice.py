"""Choosing in every run at once is choosing in each alone; equals are drawn evenly."""

import numpy as np
import pytest

from operant.bandits.choice import argmax, row_max, sample, softmax


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_largest_is_chosen_wherever_it_is(rng):
    value = rng.standard_normal((500, 7))
    assert (argmax(value, rng.random(500)) == value.argmax(1)).all()
    assert (row_max(value) == value.max(1)).all()


def test_equals_are_chosen_equally_often_and_no_other():
    value = np.tile([1.0, np.inf, 0.0, np.inf, np.inf], (3000, 1))
    uniform = np.linspace(0, 1, 3000, endpoint=False)
    assert np.bincount(argmax(value, uniform), minlength=5).tolist() == [0, 1000, 0, 1000, 1000]


def test_a_uniform_number_just_below_1_stays_among_the_equals():
    assert argmax(np.zeros((1, 4)), np.array([np.nextafter(1, 0)])).tolist() == [3]


def test_draws_have_the_probabilities_given():
    probability = np.tile([0.1, 0.0, 0.6, 0.3], (1000, 1))
    uniform = (np.arange(1000) + 0.5) / 1000
    assert np.bincount(sample(probability, uniform), minlength=4).tolist() == [100, 0, 600, 300]


def test_a_draw_is_an_arm_although_probabilities_are_rounded():
    probability = np.full((1, 10), 0.1 - 1e-12)
    assert sample(probability, np.array([np.nextafter(1, 0)])).tolist() == [9]


def test_softmax_is_its_definition_and_shifting_changes_nothing(rng):
    preference = rng.standard_normal((50, 6))
    expected = np.exp(preference) / np.exp(preference).sum(1, keepdims=True)
    np.testing.assert_allclose(softmax(preference), expected, rtol=1e-14)
    np.testing.assert_allclose(softmax(preference + 1e4), expected, rtol=1e-11)
