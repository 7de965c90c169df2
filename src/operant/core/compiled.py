"""How loops are compiled that call a world for every step."""

import numba

njit_loop = numba.njit(cache=True, _nrt=False)
"""For functions that make no arrays: without reference counts of those that they are given, steps take a fifth."""
