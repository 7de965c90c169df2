"""Parts of a run as processes of their own, which end when the command does, however it ends."""

import os
import subprocess
import sys
import threading
from pathlib import Path


def start(module: str, arguments: list[str], log: Path, threads: int) -> "subprocess.Popen[bytes]":
    """`python -m module arguments`; all that it says is added to `log`. It must call `end_with_parent`."""
    command = [sys.executable, "-m", module, *arguments]
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )


def end_with_parent() -> None:
    """Called first by a process that `start` started."""

    def watch() -> None:
        os.read(0, 1)  # returns when the parent is gone; unbuffered, or the lock of stdin would outlive this process
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def last_words(log: Path) -> str:
    """The last line that a process said."""
    return (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
