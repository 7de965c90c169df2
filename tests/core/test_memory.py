"""What the memory of this machine holds, and what is refused because it does not."""

import pytest

from operant.core import memory
from operant.core.errors import InputError


def test_a_container_may_have_less_than_its_machine(tmp_path, monkeypatch):
    machine = memory.memory()
    assert 1e8 < machine < 1e15
    for said, due in (("1000000\n", 1e6), ("max\n", machine), ("9223372036854771712\n", machine)):
        (tmp_path / "limit").write_text(said)
        monkeypatch.setattr(memory, "LIMITS", (str(tmp_path / "limit"), str(tmp_path / "nowhere")))
        assert memory.memory() == pytest.approx(due)


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 8e9)
    memory.require_memory(8 * 10**9, "a table", "make it smaller")
    for needed in (12 * 10**9, 12 * 10**400):
        with pytest.raises(InputError, match=r"a table would take 12.* GB of memory, and this machine has 8 GB: make"):
            memory.require_memory(needed, "a table", "make it smaller")
