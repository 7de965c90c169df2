"""Known models: Markov chains, reward processes and decision processes as data, and classic problems."""
