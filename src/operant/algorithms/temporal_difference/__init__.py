"""Learning values from samples, with tables and linear functions."""
