"""flock(2) locks. They only save work: where they do not work, bytes are fetched twice, and none are lost."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from stat import S_ISREG

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store.disk import disk_errors, token
from truss_cache_tasks.store.tree import FileTree

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.005, 0.25
_REPORTED_AFTER_S = 1.0  # entries that run side by side often wait for less


@dataclass(frozen=True)
class LockFile:
    """The file that a lock is held on.

    Args:
        tree, path: where it is.
        is_ours: unlink it on release; huggingface_hub's files (`.locks`) stay.
    """

    tree: FileTree
    path: str
    is_ours: bool = True

    def __str__(self) -> str:
        return str(self.tree.path / self.path)


OnWait = Callable[[LockFile], object]


def try_lock(lock: LockFile) -> Callable[[], None] | None:
    """Take the lock at once and return what releases it, or None if it is held.

    The kernel releases the lock when its holder dies. If the file was unlinked before it was locked, other processes do
    not see that lock: the file is opened again. Nothing is written into the file, as its owner may be another user.

    Raises:
        DiskError: what lies there is no regular file with one name: it may be a file of the user's.
    """
    with disk_errors(f"cannot lock {lock}"):
        while True:
            descriptor = _open(lock)
            stat = os.fstat(descriptor)
            if not S_ISREG(stat.st_mode) or stat.st_nlink > 1:
                os.close(descriptor)
                raise _no_lock_file(lock)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno in _UNSUPPORTED:
                    return lambda: _release(descriptor, lock)
                os.close(descriptor)
                if exc.errno in (errno.EWOULDBLOCK, errno.EINTR):
                    return None
                raise
            if os.fstat(descriptor).st_nlink:
                return lambda: _release(descriptor, lock)
            os.close(descriptor)


def _open(lock: LockFile) -> int:
    try:
        return lock.tree.open(lock.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, make=True)
    except PermissionError:  # another user's; flock needs no right to write
        return lock.tree.open(lock.path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno == errno.EISDIR and lock.tree.remove_if_empty(lock.path):
            return _open(lock)
        if exc.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise _no_lock_file(lock) from exc
        raise


def _no_lock_file(lock: LockFile) -> DiskError:
    return DiskError(f"{lock}: no lock file, expected a file with one name", hint="Move it away.")


def _release(descriptor: int, lock: LockFile) -> None:
    if lock.is_ours:
        with contextlib.suppress(OSError):
            lock.tree.unlink(lock.path)
    os.close(descriptor)


@contextlib.contextmanager
def locked(lock: LockFile, cancel: CancelToken = NEVER, on_wait: OnWait = lambda _lock: None) -> Iterator[None]:
    """Hold the lock for the block; wait for its holder. Raises Stopped when cancelled meanwhile.

    Args:
        on_wait: called once, when the lock was held by another for a second.
    """
    wait, waited = _FIRST_WAIT_S, 0.0
    while (release := try_lock(lock)) is None:
        cancel.wait(wait)
        if waited < _REPORTED_AFTER_S <= waited + wait:
            on_wait(lock)
        waited += wait
        wait = min(wait * 1.5, _LONGEST_WAIT_S)
    try:
        yield
    finally:
        release()


def is_held(lock: LockFile) -> bool:
    """Whether another process holds the lock. Makes and removes nothing."""
    try:
        descriptor = lock.tree.open(lock.path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno == errno.EWOULDBLOCK
    finally:
        os.close(descriptor)
    return False


def unlink_unless_locked(lock: LockFile, tree: FileTree, path: str) -> None:
    """Remove the file at `path` if this lock is free."""
    if release := try_lock(lock):
        with contextlib.suppress(OSError):
            tree.unlink(path)
        release()


def sweep_locks(tree: FileTree, folder: str, shape: re.Pattern[str]) -> None:
    """Remove the lock files that killed processes left in `folder`, which is ours."""
    for name in tree.names(folder):
        if shape.fullmatch(name):
            with contextlib.suppress(DiskError):
                if release := try_lock(LockFile(tree, f"{folder}/{name}")):
                    release()


@lru_cache(64)
def locks_work(tree: FileTree, folder: str) -> bool:
    """Whether a lock below this root excludes a second holder: some network and FUSE disks grant it to both.

    Args:
        folder: one of ours, where a lock file is made to try it.
    """
    lock = LockFile(tree, f"{folder}/try.{token()}.lock")
    first = try_lock(lock)
    if first is None:
        return True
    try:
        second = try_lock(lock)
        if second is not None:
            second()
        return second is None
    finally:
        first()
