"""Is there room for it: asked before arrays are made that no memory could hold."""

import math
import os
from contextlib import suppress
from pathlib import Path

from operant.core.errors import InputError

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container says how much it may take."""


def memory() -> float:
    """Bytes that this machine, or the container it runs in, has; infinite where it does not say."""
    found = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        found.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    for path in LIMITS:
        with suppress(OSError, ValueError):  # there is no such file, or it says "max"
            found.append(float(Path(path).read_text(encoding="ascii")))
    return min(found)


def require_memory(needed: int, what: str, cure: str) -> None:
    """Raise `InputError` if `what` takes more bytes than there are."""
    if needed > (there := memory()):
        raise InputError(
            f"{what} would take {needed // 10**9:,} GB of memory, and this machine has {there / 1e9:,.0f} GB: {cure}"
        )
