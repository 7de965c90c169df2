"""Operant: reinforcement learning from bandits to RLHF, built from one small set of parts."""

__version__ = "0.1.0"
