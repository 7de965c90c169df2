"""The errors that a person is meant to read."""

from typing import Any


class InputError(ValueError):
    """Something given to Operant cannot be used.

    The message says what was wrong, the value, where (file and line if there is one) and what to do. The command line
    prints it without a traceback and exits with code 2.
    """


class Diverged(RuntimeError):
    """A loss, a gradient or a reward is no longer a finite number. `record` is the batch that showed it."""

    def __init__(self, message: str, record: Any = None) -> None:
        super().__init__(message)
        self.record = record
