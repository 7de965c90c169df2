"""The one error a user is meant to read."""


class InputError(ValueError):
    """Something given to Operant cannot be used.

    The message says what was wrong, the value, where (file and line if there is one) and what to do. The command line
    prints it without a traceback and exits with code 2.
    """
