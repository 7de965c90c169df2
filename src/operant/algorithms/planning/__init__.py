"""Solving a known model: dynamic programming that says how far its answer can be from the truth."""
