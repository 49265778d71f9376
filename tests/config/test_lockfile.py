"""The lock file on the disk: updates at once follow each other, and each is whole or not there."""

from __future__ import annotations

import threading
from pathlib import Path

from truss_cache_tasks.config.lockfile import read_lock, update_lock
from truss_cache_tasks.model.keys import RequestKey
from truss_cache_tasks.model.lockfile import LockedEntry, LockedFile, LockFile

ENTRY = LockedEntry(source="gs://b", revision="", single=False, files=(LockedFile(path="a", size=1, version="1"),))


def add(lock: LockFile | None, name: str) -> LockFile:
    entries = lock.entries if lock is not None else {}
    return LockFile(entries={**entries, RequestKey(name * 64): ENTRY})


def test_an_update_waits_for_another_one_and_is_applied_to_what_it_wrote(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    second = threading.Thread(
        target=update_lock, args=(config, lambda lock: add(lock, "b")), kwargs={"broken_is_none": 0}
    )

    def change(lock: LockFile | None) -> LockFile:
        second.start()
        second.join(0.3)  # it cannot end: without the lock on the folder it would, and be overwritten
        return add(lock, "a")

    assert update_lock(config, change, broken_is_none=False)
    second.join()
    found = read_lock(config)
    assert found is not None
    assert sorted(found.entries) == ["a" * 64, "b" * 64]
    assert [path.name for path in tmp_path.iterdir()] == ["model_cache.lock"]


def test_an_update_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    assert update_lock(config, lambda lock: add(lock, "a"), broken_is_none=False)
    before = (tmp_path / "model_cache.lock").stat()
    assert not update_lock(config, lambda lock: add(lock, "a"), broken_is_none=False)
    assert (tmp_path / "model_cache.lock").stat() == before
