"""Processes that report to the one that started them, and end when it does."""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import multiprocessing

from operant.core.errors import Diverged, InputError

PATIENCE = 3.0
"""Seconds that a process has to end when it is asked to, before it is killed."""


@contextmanager
def workers(run: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Iterator[Any]]:
    """Start `run(send, *arguments)` in a process for each of `arguments`; gives what they send until all have ended.

    Processes share tensors that are in shared memory. Each has a pipe of its own and no lock, so that one which is
    killed holds up no other: a warning says so, and the others go on. An error in one is raised here. When the context
    is left, in whatever way, all of them end; so they do, at their next report, if this process is killed.
    Raises `InputError` if every process has died.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, Any] = {}
    try:
        # New processes inherit both: an interrupt is for the one that started them, and each computes with one thread.
        with _interrupts_ignored(), _one_thread():
            for given in arguments:
                ours, theirs = context.Pipe(duplex=False)
                running[ours] = context.Process(target=_process, args=(run, theirs, *given), daemon=True)
                running[ours].start()
                theirs.close()
        yield _messages(dict(running))
    finally:
        for connection in running:
            connection.close()
        for process in running.values():
            if process.pid is not None:
                process.join(PATIENCE)
                process.kill()
                process.join()
            process.close()


def _messages(running: dict[Connection, Any]) -> Iterator[Any]:
    died = 0
    total = len(running)
    while running:
        for connection in [x for x in wait(list(running)) if isinstance(x, Connection)]:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                process = running.pop(connection)
                process.join()
                if process.exitcode:
                    died += 1
                    _tell(process.exitcode, died, total)
                continue
            if isinstance(message, Exception):
                raise message
            yield message


def _tell(exitcode: int, died: int, total: int) -> None:
    how = f"was killed by signal {-exitcode}" if exitcode < 0 else f"ended with code {exitcode}"
    if died == total:
        raise InputError(
            f"every worker process has died, the last one {how}: find out why (memory?), and go on from the "
            "last checkpoint"
        )
    warnings.warn(f"a worker process {how}; {total - died} of {total} are left and go on", stacklevel=2)


def _process(run: Callable[..., None], connection: Connection, *given: Any) -> None:
    torch.set_num_threads(1)
    try:
        run(connection.send, *given)
    except (BrokenPipeError, ConnectionResetError):
        return  # nobody listens any more
    except Exception as error:
        told = RuntimeError(f"in a worker process: {type(error).__name__}: {error}")
        if isinstance(error, InputError | Diverged):
            told = type(error)(str(error))
        with suppress(OSError):
            connection.send(told)


@contextmanager
def _one_thread() -> Iterator[None]:
    """BLAS libraries read this when they are loaded, and PyTorch's setting does not reach NumPy's and SciPy's."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
