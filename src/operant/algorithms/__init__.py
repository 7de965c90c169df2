"""One algorithm, one file, in textbook families."""
