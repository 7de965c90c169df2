"""Checks of settings: what is allowed, what is refused, and that the message names the field."""

import dataclasses
import math

import pytest

from operant.core.errors import InputError
from operant.core.settings import require_counts, require_within


@dataclasses.dataclass(frozen=True)
class Some:
    count: int = 1
    share: float = 0.5


@pytest.mark.parametrize("count", [1, 2, 10**9])
def test_counts_are_1_or_more(count):
    require_counts(Some(count), "count")


@pytest.mark.parametrize("count", [0, -1])
def test_other_counts_are_refused_by_name(count):
    with pytest.raises(InputError, match=f"count is {count}: give a whole number, 1 or more"):
        require_counts(Some(count), "count")
    require_counts(Some(count))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_range_has_its_ends(share):
    require_within(Some(share=share), 0, 1, "share")
    require_within(Some(share=math.inf), 0, math.inf, "share")


@pytest.mark.parametrize(
    ("share", "high", "needed"),
    [
        (-0.1, 1, " from 0 to 1"),
        (1.5, 1, " from 0 to 1"),
        (math.nan, 2, " from 0 to 2"),
        (-1.0, math.inf, ", 0 or more"),
    ],
)
def test_what_is_outside_is_refused_by_name(share, high, needed):
    with pytest.raises(InputError, match=f"share is {share}: give a number{needed}"):
        require_within(Some(share=share), 0, high, "share")
