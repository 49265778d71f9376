"""Reserve space of a disk before the first byte of a fetch, so that nothing else takes it meanwhile (docs/adr/0026).

The reserve is a file without a name whose blocks are allocated. What it holds is not free for any other thread,
process, container or user, and the kernel frees it with its process. As a file of the fetch is opened, it gets its
blocks, and the reserve loses as many. A lock file beside it, `locks/space.{token}.lock`, says how much it holds: for
messages, and for disks that cannot allocate, where the other reserves are subtracted from what is free, and a reserve
is reduced when a file is complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.store.files import disk
from truss_cache_tasks.store.files.locks import FileLock, close_in_children, close_locked, is_held
from truss_cache_tasks.store.files.names import LOCKS, PARTIALS, SPACE_LOCK
from truss_cache_tasks.store.files.tree import FileTree
from truss_cache_tasks.store.layouts.layout import CacheRoot

_POLL_S, _LONGEST_WAIT_S = 0.005, 10.0

_taken: set[Path] = set()  # mount points whose lock could not be had in that time: they are not waited for again


class NotEnoughSpace(DiskError):
    """What a fetch needs is not free on the disk; the message has the figures."""


class Demand(NamedTuple):
    """What a fetch takes on the disk of a root; nothing where no file is to come.

    Args:
        coming: bytes that are to come, or to be copied.
        reserved: bytes of the blocks of these.
        spare: bytes of the records, which are not reserved.
        inodes: files and links that are to be made.
        elsewhere: id of each blob that other fetches bring, which have reserved the space for it -> their reserves.
    """

    coming: int = 0
    reserved: int = 0
    spare: int = 0
    inodes: int = 0
    elsewhere: Mapping[str, frozenset[str]] = MappingProxyType({})

    @property
    def needed(self) -> int:
        """All bytes that have to be free."""
        return self.reserved + self.spare

    def plus(self, other: Demand) -> Demand:
        """Return what both take together."""
        return Demand(
            self.coming + other.coming,
            self.reserved + other.reserved,
            self.spare + other.spare,
            self.inodes + other.inodes,
            {**self.elsewhere, **other.elsewhere},
        )


class Room(NamedTuple):
    """What a disk has free for this user.

    Args:
        mount: the folder at which it is mounted.
        size: bytes.
        inodes: files that can be made; None where it has no limit.
    """

    mount: Path
    size: int
    inodes: int | None

    def has(self, demand: Demand) -> bool:
        """Whether that is free."""
        return demand.needed <= self.size and (self.inodes is None or demand.inodes <= self.inodes)


def room_of(path: Path) -> Room:
    """Return what is free on the disk of `path`, which need not be there. What other fetches reserved is not free."""
    return Room(disk.mount_point(path), disk.free_bytes(path), disk.free_inodes(path))


Roots = Callable[[], Collection[Path]]  # the cache roots that are known, where other fetches may have reserved space


@contextlib.contextmanager
def reserved(root: CacheRoot, key: str, ask: Callable[[], Demand], roots: Roots) -> Iterator[Demand]:
    """Reserve space of the disk of `root` for the block; `disk.allocate` takes the blocks of new files out of it.

    Yields what is demanded.

    Args:
        key: of the request that is fetched (`living_reserves`).
        ask: returns what it takes. It is asked while no other fetch can reserve, so that of two fetches that bring the
            same blob, the second one sees that the first has its space.
        roots: see Roots.

    Raises:
        NotEnoughSpace: it is not free.
    """
    mount = disk.mount_point(root.path)
    with contextlib.ExitStack() as held:
        with _disk_lock(mount), disk.disk_errors(f"cannot reserve space below {root.path}"):
            demand = ask()
            if demand.inodes:
                held.enter_context(_reserve(root, key, demand, roots, mount))
        yield demand


@contextlib.contextmanager
def _reserve(root: CacheRoot, key: str, demand: Demand, roots: Roots, mount: Path) -> Iterator[None]:
    """Reserve what is demanded until the end of the block. Raises NotEnoughSpace."""
    _check(root, demand, roots)
    with unnamed_file(root.tree) as descriptor:
        is_allocated = _allocate(root, demand, roots, descriptor)
        if not is_allocated:
            _check(root, demand, roots, taken=reserved_by_others(root, roots()))
        with _announced(root, key, demand.reserved) as note:
            block = disk.block_size(root.path)
            root.tree.reserve = _Reserve(mount, descriptor if is_allocated else -1, demand.reserved, block, note)
            try:
                yield
            finally:
                root.tree.reserve = None


@contextlib.contextmanager
def _disk_lock(mount: Path) -> Iterator[None]:
    """Hold, for the block, the lock under which all of us reserve space of a disk, and take it.

    It is a flock of the folder at which the disk is mounted, which needs no file there. Where it cannot be had (another
    user may hold it as long as he likes), the block goes on without: then two may reserve the same space, and the one
    that finds it taken fails. It is waited for once in this process, and not for each file.
    """
    descriptor = -1
    try:
        with contextlib.suppress(OSError):
            descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            close_in_children(descriptor)
            until = time.monotonic() + _LONGEST_WAIT_S
            while not _is_locked(descriptor):
                if mount in _taken or time.monotonic() > until:
                    _taken.add(mount)
                    break
                time.sleep(_POLL_S)
        yield
    finally:
        if descriptor >= 0:
            close_locked(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Try to lock the file; return whether it is locked now. Raises OSError where it cannot be locked at all."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _allocate(root: CacheRoot, demand: Demand, roots: Roots, descriptor: int) -> bool:
    """Allocate what is to be reserved; return False where the disk cannot. Raises NotEnoughSpace."""
    try:
        return not demand.reserved or disk.fallocate(descriptor, demand.reserved)
    except OSError as exc:
        if exc.errno == errno.EFBIG:  # no file may be so long, but each of the fetch may be shorter
            return False
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(descriptor, 0)
        raise _not_enough(root, demand, roots, cause=exc.strerror) from exc


class _Reserve:
    """What is reserved and not taken yet. For the thread of the fetch alone."""

    def __init__(self, mount: Path, descriptor: int, size: int, block: int, note: Callable[[int], None]) -> None:
        """Begin with all of it.

        Args:
            mount: the folder at which the disk is mounted.
            descriptor: of the file that holds it; -1 where the disk cannot allocate.
            size: bytes.
            block: bytes of which a file takes a multiple.
            note: notes for other processes how much is left.
        """
        self._mount = mount
        self._descriptor = descriptor
        self._size = size
        self._block = block
        self._note = note

    @contextlib.contextmanager
    def given(self, size: int, /) -> Iterator[None]:
        """Give up `size` bytes, for a file that takes them in the block. No other fetch can reserve them meanwhile."""
        if size <= 0 or self._size <= 0 or self._descriptor < 0:
            yield
            return
        with _disk_lock(self._mount):
            self._reduce(size)
            os.ftruncate(self._descriptor, self._size)
            yield

    def written(self, size: int, /) -> None:
        """Take note that a file of `size` bytes is complete: where the disk cannot allocate, it has its space now."""
        if self._descriptor < 0:
            self._reduce(size)

    def _reduce(self, size: int) -> None:
        self._size = max(0, self._size + -size // self._block * self._block)  # what a file takes: whole blocks
        self._note(self._size)


@contextlib.contextmanager
def unnamed_file(tree: FileTree) -> Iterator[int]:
    """Yield the descriptor of a new file of our folder that has no name: the kernel removes it with its process."""
    path = f"{PARTIALS}/space.{disk.token()}"
    descriptor = tree.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True)
    close_in_children(descriptor)  # a child that outlives its parent would keep the space
    try:
        tree.unlink(path)
        yield descriptor
    finally:
        close_locked(descriptor)


def can_share_bytes(source: FileTree, target: FileTree) -> bool:
    """Whether files below `target` can be hard links or reflinks of files below `source`, two roots of ours.

    The caller holds the lock of the root `source`: a commit there sweeps temporaries, and this tries to link one.
    """
    path = f"{PARTIALS}/link.{disk.token()}"
    os.close(source.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True))
    try:
        if disk.can_link(source, path, target, path):
            return True
        with unnamed_file(target) as descriptor:
            return disk.can_clone(source, path, descriptor)
    finally:
        source.unlink(path)


@contextlib.contextmanager
def _announced(root: CacheRoot, key: str, size: int) -> Iterator[Callable[[int], None]]:
    """Hold the lock file that tells other processes how much is reserved, and for which request.

    Yields what notes how much is left.

    It only informs: where it cannot be written, nothing else changes.
    """
    path = f"{LOCKS}/space.{disk.token()}.lock"
    descriptor = root.tree.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True)
    close_in_children(descriptor)

    def note(left: int) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, f"{left:<20} {key}\n".encode(), 0)

    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        note(size)
        yield note
    finally:
        note(0)
        with contextlib.suppress(OSError):
            root.tree.unlink(path)
        close_locked(descriptor)


def reserved_by_others(root: CacheRoot, roots: Collection[Path]) -> int:
    """Return how many bytes living fetches have reserved and not yet taken on the disk of `root`, as far as is known.

    Args:
        roots: other cache roots to look in.
    """
    here, total = disk.device_of(root.path), 0
    for path in {Path(os.path.realpath(path)) for path in (root.path, *roots)}:
        with contextlib.suppress(OSError, DiskError):
            if disk.device_of(path) == here:
                total += sum(left for _, left, _ in _figures(FileTree(path)))
    return total


def living_reserves(root: CacheRoot) -> dict[str, str]:
    """Return the path of the figure of each reserve for a fetch into `root`, by any process, and the request's key."""
    return {path: key for path, _, key in _figures(root.tree)}


def is_living(root: CacheRoot, reserve: str) -> bool:
    """Whether this reserve of `living_reserves` is still there."""
    return is_held(FileLock(root.tree, reserve))


def _figures(tree: FileTree) -> Iterator[tuple[str, int, str]]:
    """Yield the path of the figure of each living reserve, how much it has left, and the key of its request."""
    for name in tree.names(LOCKS):
        path = f"{LOCKS}/{name}"
        if SPACE_LOCK.fullmatch(name) and is_held(FileLock(tree, path)):
            with (
                contextlib.suppress(OSError, ValueError),
                open(tree.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file,
            ):
                left, _, key = file.read(100).decode().partition(" ")
                yield path, max(0, int(left)), key.strip()


def _check(root: CacheRoot, demand: Demand, roots: Roots, *, taken: int = 0) -> None:
    """Raise NotEnoughSpace if that is not free.

    Args:
        taken: bytes that count as free on the disk, and that others have reserved.
    """
    left = disk.free_inodes(root.path)
    if left is not None and demand.inodes > left:
        raise NotEnoughSpace(
            f"not enough inodes for {root.path}: {demand.inodes:,} files and links are to be made, {left:,} inodes are "
            f"free on the disk at {disk.mount_point(root.path)}",
            hint=disk.FREE_INODES,
        )
    if demand.needed > disk.free_bytes(root.path) - taken:
        raise _not_enough(root, demand, roots, taken=taken)


def _not_enough(
    root: CacheRoot, demand: Demand, roots: Roots, *, taken: int = 0, cause: str | None = None
) -> NotEnoughSpace:
    free, others = max(0, disk.free_bytes(root.path) - taken), taken or reserved_by_others(root, roots())
    beside = f", beside {others:,} that other fetches have reserved" if others else ""
    why = f": {cause}" if cause else ""
    return NotEnoughSpace(
        f"not enough space for {root.path}: {demand.coming:,} bytes are to come, {demand.needed:,} with blocks and "
        f"records, {free:,} are free on the disk at {disk.mount_point(root.path)}{beside}{why}",
        hint=disk.FREE_SPACE,
    )
