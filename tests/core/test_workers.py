"""Processes that report, die and are left: what they send arrives, and none of them stays."""

import os
import signal
import time
from typing import Any

import pytest
import torch

from operant.core.errors import InputError
from operant.core.workers import workers


def count(send: Any, upto: int) -> None:
    for i in range(upto):
        send((os.getpid(), i))


def stumble(send: Any, kind: type[Exception]) -> None:
    send(1)
    raise kind("it is broken")


def idle(send: Any) -> None:
    send(os.getpid())
    time.sleep(60)


class Greedy:
    """Takes two threads where it arrives."""

    def __reduce__(self) -> Any:
        return torch.set_num_threads, (2,)


LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
written_here: list[str] = []


def look_around(send: Any, _: Any) -> None:
    send((written_here, torch.get_num_threads(), [os.environ[name] for name in LIBRARIES]))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_that_is_sent_arrives_in_order():
    with workers(count, [(3,), (5,)]) as messages:
        found = list(messages)
    pids = {pid for pid, _ in found}
    assert sorted([i for pid, i in found if pid == one] for one in pids) == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert not any(map(is_alive, pids))


def test_each_begins_afresh_and_computes_with_one_thread(monkeypatch):
    """Whatever the one that started it does, and what it brings along."""
    monkeypatch.setattr(f"{__name__}.written_here", ["something"])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with workers(look_around, [(Greedy(),)]) as messages:
        assert list(messages) == [([], 1, ["1", "1", "1"])]
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in os.environ


def test_an_error_in_one_is_raised_here():
    broken = pytest.raises(RuntimeError, match="in a worker process: ZeroDivisionError: it is broken")
    with broken, workers(stumble, [(ZeroDivisionError,)]) as messages:
        for message in messages:
            assert message == 1


def test_the_others_go_on_when_one_is_killed_and_without_any_it_ends():
    with workers(idle, [(), ()]) as messages:
        first, second = next(messages), next(messages)
        os.kill(first, signal.SIGKILL)
        warning = pytest.warns(UserWarning, match="killed by signal 9; 1 of 2 are left")
        error = pytest.raises(InputError, match="every worker process has died, the last one was killed by signal 9")
        os.kill(second, signal.SIGKILL)
        with warning, error:
            next(messages)
    assert not is_alive(first)
    assert not is_alive(second)


def test_none_stays_when_the_context_is_left(monkeypatch):
    monkeypatch.setattr("operant.core.workers.PATIENCE", 0.1)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), workers(idle, [()]) as messages:  # noqa: PT012
        pid = next(messages)
        os.kill(pid, signal.SIGINT)  # an interrupt is not for it
        time.sleep(0.1)
        assert is_alive(pid)
        raise KeyboardInterrupt
    assert not is_alive(pid)
    assert signal.getsignal(signal.SIGINT) is handler
