"""Memory of processes and of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from common.machine.memory import MemoryUse, open_files_limit, resident_bytes, shm_size_bytes


def test_this_process_grows_by_what_it_fills() -> None:
    before = resident_bytes(os.getpid())
    filled = bytearray(os.urandom(1)) * (64 << 20)
    after = resident_bytes(os.getpid())
    assert before.rss_bytes is not None and after.rss_bytes is not None
    assert before.uss_bytes is not None and after.uss_bytes is not None
    assert after.rss_bytes - before.rss_bytes > 60 << 20
    assert after.uss_bytes - before.uss_bytes > 60 << 20
    assert len(filled) == 64 << 20


def test_a_process_that_is_gone_holds_nothing_known() -> None:
    assert resident_bytes(99_999_999) == MemoryUse(None, None)


def test_uss_is_none_where_it_is_not_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", denied)
    use = resident_bytes(os.getpid())
    assert use.uss_bytes is None
    assert use.rss_bytes is not None


def test_shared_memory(tmp_path: Path) -> None:
    found = shm_size_bytes(tmp_path)
    assert found is not None
    assert 0 < found.free_bytes <= found.total_bytes
    assert shm_size_bytes(tmp_path / "none") is None


def test_open_files() -> None:
    limit = open_files_limit()
    assert limit is None or limit > 0
