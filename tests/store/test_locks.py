"""Locks save work: held by one at a time, free with their holder's death, and their folder may vanish meanwhile."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from truss_cache_tasks.errors import DiskError, Stopped
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.network.cancel import StopPoll
from truss_cache_tasks.store.commit import Claimant, claim_if_whole
from truss_cache_tasks.store.flat_layout import flat_root
from truss_cache_tasks.store.locks import LockFile, locked, try_lock
from truss_cache_tasks.store.tree import FileTree

HOLD = "import sys, time; from truss_cache_tasks.store.locks import LockFile, try_lock\n"
HOLD += "from truss_cache_tasks.store.tree import FileTree\n"
HOLD += "held = try_lock(LockFile(FileTree(sys.argv[1]), 'locks/one.lock'))\n"
HOLD += "print(bool(held), flush=True); time.sleep(600)"


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    return LockFile(FileTree(tmp_path), "locks/one.lock")


def test_a_lock_has_one_holder_and_leaves_no_file(lock: LockFile) -> None:
    release = try_lock(lock)
    assert release is not None
    assert try_lock(lock) is None
    release()
    assert not Path(str(lock)).exists()
    again = try_lock(lock)
    assert again is not None
    again()


@pytest.mark.slow
def test_a_dead_holder_is_taken_over(lock: LockFile) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(lock.tree.path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    assert try_lock(lock) is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with locked(lock):
        assert Path(str(lock)).exists()


def test_who_waits_is_told_to_stop(lock: LockFile) -> None:
    release = try_lock(lock)
    assert release is not None
    with pytest.raises(Stopped), locked(lock, StopPoll(lambda: True)):
        pass
    release()


@pytest.mark.parametrize("where", ["locks", "locks/one.lock"])
def test_a_link_to_nowhere_in_its_way_is_an_error_at_once(lock: LockFile, where: str) -> None:
    link = lock.tree.path / where
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("/nowhere/at/all")
    with pytest.raises(DiskError):
        try_lock(lock)


def test_a_folder_that_vanishes_meanwhile_does_no_harm(lock: LockFile) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def remover() -> None:
        while not stop.is_set():
            shutil.rmtree(lock.tree.path / "locks", ignore_errors=True)

    def taker() -> None:
        try:
            for _ in range(300):
                if release := try_lock(lock):
                    release()
        except BaseException as exc:
            errors.append(exc)

    vandal = threading.Thread(target=remover)
    takers = [threading.Thread(target=taker) for _ in range(3)]
    for thread in [vandal, *takers]:
        thread.start()
    for thread in takers:
        thread.join()
    stop.set()
    vandal.join()
    assert errors == []


def test_what_one_holder_does_no_other_sees_half(lock: LockFile) -> None:
    counter = [0, 0]

    def work() -> None:
        for _ in range(50):
            with locked(lock):
                counter[0] += 1
                counter[1] = counter[0]
                assert counter[0] == counter[1]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter == [200, 200]


def test_who_waits_to_claim_is_told_to_stop(tmp_path: Path) -> None:
    """A claim waits for the root's lock, which another process may hold for as long as it copies."""
    root = flat_root(tmp_path)
    release = try_lock(root.lock("root"))
    assert release is not None
    project = Project(id="0" * 16, config="/config.yaml", entries={}, roots=())
    claimant = Claimant(project=project, claim="one", entry="one", fingerprint=None, run="1")
    with pytest.raises(Stopped):
        claim_if_whole(root, claimant, lambda: pytest.fail("the lock is held"), cancel=StopPoll(lambda: True))
    release()
