"""Bandits: arms and contexts as data, R runs side by side."""
