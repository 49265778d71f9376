"""flock(2) locks. A lock only saves duplicate work: one that does not work costs work, never bytes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from truss_cache_tasks.errors import Stopped
from truss_cache_tasks.store.disk import disk_errors, open_in

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.005, 0.25


def try_lock(path: Path) -> Callable[[], None] | None:
    """Take the lock at once and return what releases it, or None if somebody holds it.

    The kernel releases it with its holder's death. A lock of ours is unlinked on release, as filelock does it, which
    huggingface_hub uses; its own files (`.locks`) we leave. A lock on a file without a name is no lock: open it anew.
    """
    with disk_errors(f"cannot lock {path}"):
        while True:
            descriptor = open_in(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno in _UNSUPPORTED:
                    return lambda: os.close(descriptor)
                os.close(descriptor)
                if exc.errno in (errno.EWOULDBLOCK, errno.EINTR):
                    return None
                raise
            if os.fstat(descriptor).st_nlink:
                return lambda: _release(descriptor, path)
            os.close(descriptor)


def _release(descriptor: int, path: Path) -> None:
    if os.path.basename(os.path.dirname(path)) == "locks":
        with contextlib.suppress(OSError):
            os.unlink(path)
    os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold the lock for the block; waits for whoever has it, and raises Stopped when told to stop meanwhile."""
    wait = _FIRST_WAIT_S
    while (release := try_lock(path)) is None:
        if stopped():
            raise Stopped(f"stopped while waiting for {path}")
        time.sleep(wait)
        wait = min(wait * 1.5, _LONGEST_WAIT_S)
    try:
        yield
    finally:
        release()
