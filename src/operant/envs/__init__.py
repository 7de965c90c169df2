"""Gymnasium environments as sources of trajectories."""
