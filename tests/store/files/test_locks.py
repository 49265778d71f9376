"""Locks save work: held by one at a time, free with their holder's death, and their folder may vanish meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rights import rights_of_files_count

from truss_cache_tasks.errors import DiskError, Stopped
from truss_cache_tasks.events import Holder
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.network.cancel import StopPoll
from truss_cache_tasks.store.entries.commit import Claimant, claim_if_whole
from truss_cache_tasks.store.files import locks
from truss_cache_tasks.store.files.locks import FileLock, locked, try_lock
from truss_cache_tasks.store.files.tree import FileTree
from truss_cache_tasks.store.layouts.flat_layout import flat_root

HOLD = "import sys, time; from truss_cache_tasks.store.files.locks import FileLock, try_lock\n"
HOLD += "from truss_cache_tasks.store.files.tree import FileTree\n"
HOLD += "held = try_lock(FileLock(FileTree(sys.argv[1]), 'locks/one.lock'))\n"
HOLD += "print(bool(held), flush=True); time.sleep(600)"


@pytest.fixture
def lock(tmp_path: Path) -> FileLock:
    return FileLock(FileTree(tmp_path), "locks/one.lock")


def test_a_lock_has_one_holder_and_leaves_no_file(lock: FileLock) -> None:
    release = try_lock(lock)
    assert release is not None
    assert try_lock(lock) is None
    release()
    assert not Path(str(lock)).exists()
    again = try_lock(lock)
    assert again is not None
    again()


@pytest.mark.slow
def test_a_dead_holder_is_taken_over(lock: FileLock) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(lock.tree.path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    assert try_lock(lock) is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with locked(lock):
        assert Path(str(lock)).exists()


def test_who_waits_is_told_to_stop(lock: FileLock) -> None:
    release = try_lock(lock)
    assert release is not None
    with pytest.raises(Stopped), locked(lock, StopPoll(lambda: True)):
        pass
    release()


@pytest.mark.parametrize("where", ["locks", "locks/one.lock"])
def test_a_link_to_nowhere_in_its_way_is_an_error_at_once(lock: FileLock, where: str) -> None:
    link = lock.tree.path / where
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("/nowhere/at/all")
    with pytest.raises(DiskError):
        try_lock(lock)


def test_a_folder_that_vanishes_meanwhile_does_no_harm(lock: FileLock) -> None:
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


def test_what_one_holder_does_no_other_sees_half(lock: FileLock) -> None:
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


# Who holds it


def test_its_file_says_who_holds_it_and_how_far_that_is(lock: FileLock) -> None:
    with locked(lock) as held:
        known = lock.read_holder()
        assert known is not None
        assert (known.host, known.pid, known.waits, known.done, known.size) == (
            os.uname().nodename,
            os.getpid(),
            False,
            None,
            None,
        )
        held.describe(done=5, size=1 << 62)
        held.describe(waits=True, done=5, size=7)
        assert lock.read_holder() == replace(known, waits=True, done=5, size=7)
    assert lock.read_holder() is None


GOOD: dict[str, object] = {"format": 1, "host": "build-7", "pid": 123, "since": 1795529779.1, "done": 1, "size": 2}


BAD: list[dict[str, object]] = [
    {"format": 2},
    {"format": True},
    {"host": "h\x1b[2J"},
    {"host": "\u202egro"},
    {"host": "h" * 65},
    {"host": ""},
    {"host": 5},
    {"pid": -1},
    {"pid": True},
    {"pid": "1"},
    {"pid": 1 << 40},
    {"since": float("nan")},
    {"since": float("inf")},
    {"since": 1e18},
    {"since": -1},
    {"since": None},
    {"done": 1.5},
    {"size": -1},
    {"done": 10**400},
    {"size": 1 << 63},
    {"waits": 1},
]


@pytest.mark.parametrize(
    "text",
    [
        *("", json.dumps(GOOD)[:-3], b"\xff\xfe\0", "[" * 512, "[]", "null", json.dumps([GOOD])),
        *(json.dumps({**GOOD, **bad}) for bad in BAD),
        "x" + json.dumps(GOOD),
    ],
)
def test_a_text_that_no_holder_of_ours_wrote_says_nothing(lock: FileLock, text: str | bytes) -> None:
    Path(str(lock)).parent.mkdir()
    Path(str(lock)).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert lock.read_holder() is None


def test_only_the_first_bytes_of_a_text_are_read(lock: FileLock) -> None:
    Path(str(lock)).parent.mkdir()
    Path(str(lock)).write_text(json.dumps(GOOD).ljust(512) + "x" * (1 << 20))
    assert lock.read_holder() == Holder(host="build-7", pid=123, since=1795529779.1, done=1, size=2)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_says_nothing_at_once(lock: FileLock, make: Callable[[Path], object]) -> None:
    Path(str(lock)).parent.mkdir()
    make(Path(str(lock)))
    assert lock.read_holder() is None


@pytest.mark.parametrize("mode", [0o755, 0o555], ids=["replaced", "kept"])
def test_a_lock_file_that_cannot_be_written_is_taken_all_the_same(lock: FileLock, mode: int) -> None:
    path = Path(str(lock))
    path.parent.mkdir()
    path.write_text(json.dumps(GOOD))
    path.chmod(0o444)
    path.parent.chmod(mode)
    with rights_of_files_count(), locked(lock):
        known = lock.read_holder()
        assert try_lock(lock) is None
    assert known is not None
    assert known.pid == (os.getpid() if mode == 0o755 else 123)
    path.parent.chmod(0o755)


def test_a_wait_is_reported_after_a_second_and_then_now_and_then(
    lock: FileLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_REPORTED_AFTER_S", 0.01)
    monkeypatch.setattr(locks, "_REPORTED_EVERY_S", 0.01)
    release = try_lock(lock)
    assert release is not None
    told: list[bool] = []

    def on_wait(held: FileLock, again: bool) -> None:
        assert held is lock
        told.append(again)
        if len(told) == 3:
            release()

    with locked(lock, on_wait=on_wait):
        assert told == [False, True, True]


# Children

PARENT = """
import os, subprocess, sys, time
from truss_cache_tasks.store.files.locks import FileLock, try_lock
from truss_cache_tasks.store.files.tree import FileTree
held = try_lock(FileLock(FileTree(sys.argv[1]), "locks/one.lock", is_ours=sys.argv[2] == "ours"))
if sys.argv[3] == "fork" and os.fork() == 0:
    held()                                            # the parent's: nothing happens
    print("child", flush=True)
    time.sleep(600)
if sys.argv[3] == "exec":
    code = "import time; print('child', flush=True); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code], close_fds=False)
sys.stdin.readline()
held()
print("released", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "released"])
@pytest.mark.parametrize("how", ["fork", "exec"])
@pytest.mark.parametrize("whose", ["ours", "of huggingface_hub"])
def test_no_child_keeps_the_lock_of_its_parent(lock: FileLock, whose: str, how: str, end: str) -> None:
    command = [sys.executable, "-c", PARENT, str(lock.tree.path), whose, how]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        try:
            assert parent.stdout.readline() == "child\n"
            assert try_lock(lock) is None
            if end == "killed":
                parent.kill()
                os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
            else:
                parent.stdin.write("\n")
                parent.stdin.flush()
                assert parent.stdout.readline() == "released\n"
            release = try_lock(lock)
            assert release is not None
            release()
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
