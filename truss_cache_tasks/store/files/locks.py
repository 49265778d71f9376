"""flock(2) locks. They only save work: where they do not work, bytes are fetched twice, and none are lost.

flock belongs to an open file, which a forked child shares with its parent. In the child, the descriptors of our locks
lead to /dev/null instead, so that no child keeps a lock of a parent that has died.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from stat import S_ISREG
from typing import TYPE_CHECKING, NamedTuple

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store.files.disk import disk_errors, token
from truss_cache_tasks.store.files.names import Name
from truss_cache_tasks.store.files.tree import FileTree

if TYPE_CHECKING:
    from truss_cache_tasks.events import Holder

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.005, 0.25
_REPORTED_AFTER_S = 1.0  # entries that run side by side often wait for less
_REPORTED_EVERY_S = 10.0  # after the first report

_locked: set[int] = set()  # descriptors of files that this process has locked


class FileLock(NamedTuple):
    """The file that a lock is held on.

    Args:
        tree, path: where it is.
        is_ours: say in it who holds it, and unlink it on release; huggingface_hub's files (`.locks`) stay as they are.
    """

    tree: FileTree
    path: str
    is_ours: bool = True

    def __str__(self) -> str:
        return str(self.tree.path / self.path)

    def read_holder(self) -> Holder | None:
        """Return who holds the lock, as its file says; None where it does not say."""
        from truss_cache_tasks.store.files import holder  # not needed by a run of fresh entries

        return holder.read(self.tree, self.path) if self.is_ours else None


class HeldLock:
    """A lock that this process holds until the object is called."""

    def __init__(self, lock: FileLock, descriptor: int) -> None:
        self.lock = lock
        self._descriptor = descriptor
        self._pid = os.getpid()
        self._since = time.time()
        close_in_children(descriptor)

    def __call__(self) -> None:
        """Release the lock. In a forked child, do nothing: the lock is the parent's."""
        if os.getpid() != self._pid:
            return
        if self.lock.is_ours:
            _unlink(self.lock)
        close_locked(self._descriptor)

    def describe(self, *, waits: bool = False, done: int | None = None, size: int | None = None) -> None:
        """Say in the lock's file, if it is ours, who holds the lock: see Holder. Not after the release."""
        from truss_cache_tasks.events import Holder  # not needed by a run of fresh entries
        from truss_cache_tasks.store.files import holder

        if self.lock.is_ours:
            host = os.uname().nodename
            facts = Holder(host=host, pid=self._pid, since=self._since, waits=waits, done=done, size=size)
            holder.write(self._descriptor, facts)


OnWait = Callable[[FileLock, bool], object]  # gets the lock, and whether this wait was reported before


def ignore_wait(lock: FileLock, again: bool, /) -> None:
    """Ignore the wait: the default OnWait."""


def try_lock(lock: FileLock) -> HeldLock | None:
    """Take the lock at once and return what releases it, or None if it is held.

    The kernel releases the lock when its holder dies. If the file was unlinked before it was locked, other processes do
    not see that lock: the file is opened again. What another user left, and we may not write, is replaced if possible.

    Raises:
        DiskError: what lies there is no regular file with one name: it may be a file of the user's.
    """
    with disk_errors(f"cannot lock {lock}"):
        while True:
            descriptor, is_writable = _open(lock)
            stat = os.fstat(descriptor)
            if not S_ISREG(stat.st_mode) or stat.st_nlink > 1:
                os.close(descriptor)
                raise _no_lock_file(lock)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno in _UNSUPPORTED:
                    return HeldLock(lock, descriptor)
                os.close(descriptor)
                if exc.errno in (errno.EWOULDBLOCK, errno.EINTR):
                    return None
                raise
            if os.fstat(descriptor).st_nlink and (is_writable or not lock.is_ours or not _unlink(lock)):
                return HeldLock(lock, descriptor)
            os.close(descriptor)


def _open(lock: FileLock) -> tuple[int, bool]:
    """Return a descriptor of the lock's file, and whether we may write into it."""
    try:
        return lock.tree.open(lock.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, make=True), True
    except PermissionError:  # another user's; flock needs no right to write
        return lock.tree.open(lock.path, os.O_RDONLY | os.O_NONBLOCK), False
    except OSError as exc:
        if exc.errno == errno.EISDIR and lock.tree.remove_if_empty(lock.path):
            return _open(lock)
        if exc.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise _no_lock_file(lock) from exc
        raise


def _no_lock_file(lock: FileLock) -> DiskError:
    return DiskError(f"{lock}: no lock file, expected a file with one name", hint="Move it away.")


def _unlink(lock: FileLock) -> bool:
    try:
        return lock.tree.unlink(lock.path)
    except OSError:
        return False


@contextlib.contextmanager
def locked(lock: FileLock, cancel: CancelToken = NEVER, on_wait: OnWait = ignore_wait) -> Iterator[HeldLock]:
    """Hold the lock for the block, and say so in its file. Wait for its holder; raise Stopped when cancelled meanwhile.

    Args:
        on_wait: called when the lock was held by another for a second, and then every 10 s.
    """
    held: HeldLock | None = None

    def is_taken() -> bool:
        nonlocal held
        held = try_lock(lock)
        return held is not None

    wait_until(is_taken, cancel, lambda again: on_wait(lock, again))
    assert held is not None
    try:
        held.describe()
        yield held
    finally:
        held()


def wait_until(is_over: Callable[[], bool], cancel: CancelToken, on_wait: Callable[[bool], object]) -> None:
    """Wait until `is_over`, asked again and again; raise Stopped when cancelled meanwhile.

    Args:
        on_wait: called after a second, and then every 10 s, with whether it was called before.
    """
    wait, waited = _FIRST_WAIT_S, 0.0
    reported, due = False, _REPORTED_AFTER_S
    while not is_over():
        cancel.wait(wait)
        waited += wait
        if waited >= due:
            on_wait(reported)
            reported, due = True, waited + _REPORTED_EVERY_S
        wait = min(wait * 1.5, _LONGEST_WAIT_S)


def close_in_children(descriptor: int) -> None:
    """Let this locked descriptor lead to /dev/null in children that are forked from now on, until `close_locked`."""
    _locked.add(descriptor)


def close_locked(descriptor: int) -> None:
    """Close a locked descriptor."""
    _locked.discard(descriptor)  # first: another thread may get its number
    os.close(descriptor)


def _leave_locks_to_parent() -> None:
    """Replace the descriptors of the parent's locks: closed ones would give their numbers to other files."""
    if _locked:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in _locked:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
        _locked.clear()


os.register_at_fork(after_in_child=_leave_locks_to_parent)


def is_held(lock: FileLock) -> bool:
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


def unlink_unless_locked(lock: FileLock, tree: FileTree, path: str) -> None:
    """Remove the file at `path` if this lock is free."""
    if release := try_lock(lock):
        with contextlib.suppress(OSError):
            tree.unlink(path)
        release()


def sweep_locks(tree: FileTree, folder: str, shape: Name) -> None:
    """Remove the lock files that killed processes left in `folder`, which is ours."""
    for name in tree.names(folder):
        if shape.fullmatch(name):
            with contextlib.suppress(DiskError):
                if release := try_lock(FileLock(tree, f"{folder}/{name}")):
                    release()


@lru_cache(64)
def locks_work(tree: FileTree, folder: str) -> bool:
    """Whether a lock below this root excludes a second holder: some network and FUSE disks grant it to both.

    Args:
        folder: one of ours, where a lock file is made to try it.
    """
    lock = FileLock(tree, f"{folder}/try.{token()}.lock")
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
