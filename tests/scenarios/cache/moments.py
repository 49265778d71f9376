"""Real moments to act at: a download held half way, a process that waits at a root's lock, a process stopped there.

with upstream.held("big.bin") as hold, started(truss) as child:
    wait_for(child, hold.is_asked)           # a download, half way
    ...
    hold.release()
    ran = end_of(child)

with RootLock(root) as lock:                 # the test holds the lock of a cache root
    child = ...
    lock.wait_for_visitor()                  # somebody else came to that lock, and decided before what it is for
    stop(child)
go_on(child)
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.tools import wait_until
from trusses import BIN, Ran, Truss, ended

CLI = [str(BIN / "truss-cache")]
_LONGEST_S = 60.0
_IN_OPEN, _IN_CLOEXEC = 0x20, 0o2000000


class RootLock:
    """The lock of a cache root, held by the test for the block; it tells when another process comes to it."""

    def __init__(self, root: Path) -> None:
        self.path = root / ".truss_cache" / "locks" / "root.lock"

    def __enter__(self) -> RootLock:
        if sys.platform != "linux":
            pytest.skip("needs inotify")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(_IN_CLOEXEC)
        watch = libc.inotify_add_watch(self._events, os.fsencode(self.path), _IN_OPEN)
        assert min(self._events, watch) >= 0, os.strerror(ctypes.get_errno())
        return self

    def wait_for_visitor(self) -> None:
        """Return when somebody has opened the lock file since the block began, or since the last visitor."""
        ready, _, _ = select.select([self._events], [], [], _LONGEST_S)
        assert ready, "nobody came to the root's lock"
        os.read(self._events, 4096)

    def __exit__(self, *_: object) -> None:
        os.close(self._events)
        os.close(self._descriptor)


def is_locked(root: Path) -> bool:
    """Whether a process holds the lock of a cache root."""
    try:
        descriptor = os.open(RootLock(root).path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def started(truss: Truss, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start `truss-cache`; it does not outlive the block."""
    child = truss.start([*CLI, *args])
    with ended(child):
        yield child


def wait_for(child: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """Return at this moment of a running `child`."""
    wait_until(moment, "the moment to act at", alive=lambda: child.poll() is None)


def stop(child: subprocess.Popen[str]) -> None:
    """Stop every thread of `child`, and return when it stands still."""
    os.kill(child.pid, signal.SIGSTOP)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "it ended before it could be stopped"


def go_on(child: subprocess.Popen[str]) -> None:
    """Let a stopped `child` go on."""
    os.kill(child.pid, signal.SIGCONT)


def end_of(child: subprocess.Popen[str]) -> Ran:
    """Return how `child` ends."""
    out, err = child.communicate(timeout=_LONGEST_S)
    return Ran(child.returncode, out, err)
