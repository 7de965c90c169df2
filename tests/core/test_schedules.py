"""Schedules at the points that define them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operant.core.schedules import scheduled

SCHEDULES = ["constant", "linear", "cosine"]


@pytest.mark.parametrize(
    ("schedule", "at_quarter", "at_half", "at_end"),
    [
        ("constant", 1.0, 1.0, 1.0),
        ("linear", 0.75, 0.5, 0.0),
        ("cosine", 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.0),
    ],
)
def test_shapes(schedule, at_quarter, at_half, at_end):
    assert [scheduled(schedule, x) for x in (0, 0.25, 0.5, 1)] == pytest.approx([1, at_quarter, at_half, at_end])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_rises_in_a_line_and_hands_over_at_1(schedule):
    rise = [scheduled(schedule, x, warmup=0.2, floor=0.1) for x in (0.0, 0.05, 0.1, 0.2)]
    assert rise == pytest.approx([0.0, 0.25, 0.5, 1.0])
    assert scheduled(schedule, 1.0, warmup=1.0) == 1.0


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.55), ("cosine", 0.55), ("constant", 1.0)])
def test_what_follows_the_warmup_is_stretched_over_the_rest_down_to_the_floor(schedule, middle):
    assert scheduled(schedule, 0.6, warmup=0.2, floor=0.1) == pytest.approx(middle)
    assert scheduled(schedule, 1.0, warmup=0.2, floor=0.1) == (1.0 if schedule == "constant" else pytest.approx(0.1))


@given(st.sampled_from(SCHEDULES), st.floats(0, 2), st.floats(0, 2), st.floats(0, 0.9), st.floats(0, 1))
def test_after_the_warmup_it_never_rises_and_stays_within_its_bounds(schedule, x, y, warmup, floor):
    early, late = sorted((max(x, warmup), max(y, warmup)))
    first, second = (scheduled(schedule, done, warmup, floor) for done in (early, late))
    assert floor - 1e-9 <= second <= first + 1e-9 <= 1 + 2e-9


def test_unknown_schedule_is_refused(unchecked_types):
    with pytest.raises(ValueError, match="'linaer'"):
        scheduled("linaer", 0.5)
