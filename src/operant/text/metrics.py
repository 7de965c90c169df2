"""Figures of sampled text."""

from collections.abc import Sequence


def distinct(responses: Sequence[Sequence[int]], n: int = 2) -> float:
    """Share of different n-grams among all n-grams of all responses (Li et al. 2016, "distinct-n")."""
    grams = [tuple(r[i : i + n]) for r in responses for i in range(len(r) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
