"""How loops are compiled that call a world for every step."""

from typing import Any

import numba

njit_loop: Any = numba.njit(cache=True, _nrt=False)  # pyright: ignore[reportCallIssue]
"""For functions that make no arrays: without reference counts of those that they are given, steps take a fifth."""


def loop_on(world: Any, loop: Any) -> Any:
    """The loop itself where the world is a tuple of arrays that is compiled into it, else its Python function."""
    return loop if isinstance(world, tuple) else loop.py_func
