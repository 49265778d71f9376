"""Copy and hash files, ask what a disk can do, and translate an OSError into a DiskError with a hint."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from truss_cache_tasks.errors import RUN_AGAIN, DiskError, missing_package
from truss_cache_tasks.store.files.tree import FileTree, sync

if TYPE_CHECKING:
    from truss_cache_tasks.model.hashing import Hasher
    from truss_cache_tasks.network.cancel import CancelToken

T = TypeVar("T")

# What link(2) and symlink(2) answer where a disk, or a pair of disks, has no such links: then bytes are copied.
NO_LINKS = frozenset(
    {
        errno.EXDEV,
        errno.EPERM,
        errno.EACCES,
        errno.EMLINK,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EINVAL,
    }
)
# What fallocate(2) answers where it cannot allocate.
_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ESPIPE, errno.EPERM})
_FICLONE = 0x40049409  # linux/fs.h: share the extents of another file (btrfs, xfs)
_CHUNK = 1 << 20  # bytes hashed or copied between two checks of the CancelToken
OnHashed = Callable[[int], object]  # called with bytes, from any thread, for each chunk that was hashed
OnHashing = Callable[[int], OnHashed]  # called with the bytes of all files that are to be hashed
MOVE_AWAY = "Move it away, or let it be replaced: --replace (TRUSS_CACHE_REPLACE=1, cache_tasks(replace=True))."
_ELSEWHERE = "or put the cache on another disk (HF_HOME, TRUSS_MODEL_CACHE_DIR)."
FREE_SPACE = f"Free some space, {_ELSEWHERE}"
FREE_INODES = f"Remove some files, however small, {_ELSEWHERE}"
_HINTS = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: f"Free some of your quota, {_ELSEWHERE}",
    errno.EACCES: "Make it writable, or choose another cache (HF_HOME, TRUSS_MODEL_CACHE_DIR, TRUSS_MOUNT_ROOT).",
    errno.EROFS: "Choose a cache on a writable disk (HF_HOME, TRUSS_MODEL_CACHE_DIR, TRUSS_MOUNT_ROOT).",
    errno.ENOTDIR: "A file lies where a folder is needed: move it away.",
    errno.EISDIR: "A folder lies where a file is needed: move it away.",
    errno.ENAMETOOLONG: "The disk takes no name of this length: leave the file out with ignore_patterns.",
    errno.EMFILE: "Allow more open files (ulimit -n).",
    errno.ENFILE: "Allow more open files on this machine.",
    errno.EIO: f"Look at the disk and its system log. {RUN_AGAIN}",
}


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Translate an OSError of the block: `what` failed, why, and what to do."""
    try:
        yield
    except OSError as exc:
        raise disk_error(what, exc) from exc


def disk_error(what: str, exc: OSError) -> DiskError:
    """Return the DiskError for an OSError: `what` failed, why, and what to do."""
    hint = _HINTS.get(exc.errno or 0, f"Look at the disk. {RUN_AGAIN}")
    path = exc.filename2 or exc.filename  # of a rename: its destination
    cause = exc.strerror or str(exc)
    if exc.errno == errno.ENOSPC and path and free_inodes(Path(os.fsdecode(path))) == 0:
        cause, hint = f"{cause}: no inode is free", FREE_INODES
    name = f" ({path})" if path and str(path) not in what else ""
    return DiskError(f"{what}: {cause}{name}", hint=hint)


def found_folder(path: Path) -> DiskError:
    """Return the DiskError for a folder with files that lies where a file is to be."""
    return DiskError(f"{path}: found a folder, expected a file", hint="Move it away: it is not replaced.")


@contextlib.contextmanager
def import_errors() -> Iterator[None]:
    """Translate a failed import: into an OSError where no file descriptor was free, else into a DiskError.

    If another thread imports the same module and has no descriptor free, the ImportError here does not say so: the hint
    of the DiskError names both causes.
    """
    try:
        yield
    except ImportError as exc:
        for number in (errno.EMFILE, errno.ENFILE):
            if os.strerror(number) in str(exc):
                raise OSError(number, os.strerror(number)) from exc
        if (missing := missing_package(exc)) is not None:
            raise missing from exc
        hint = "Allow more open files (ulimit -n), or install truss-cache-tasks again."
        raise DiskError(f"a module cannot be loaded: {exc}", hint=hint) from exc


def token() -> str:
    """Return 8 hex digits for a temporary's name (the module `secrets` would cost a no-op ten more imports)."""
    return os.urandom(4).hex()


def copy_file(source: FileTree, at: str, target: FileTree, path: str, cancel: CancelToken) -> str:
    """Make `path`, where nothing lies, a synced reflink or copy with the mtime of its source; return its xxh3-128."""
    from truss_cache_tasks.model.hashing import Hasher  # not needed by a run of fresh entries

    with (
        open(source.open(at, os.O_RDONLY), "rb", buffering=0) as old,
        open(target.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True), "r+b", buffering=0) as new,
    ):
        stat = os.fstat(old.fileno())
        hasher = Hasher(stat.st_size, None)
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            hash_file(new.fileno(), hasher, cancel)
        except OSError:
            hasher = Hasher(stat.st_size, None)
            buffer = memoryview(bytearray(_CHUNK))
            os.ftruncate(new.fileno(), 0)
            allocate(target, new.fileno(), stat.st_size)
            while size := old.readinto(buffer):
                cancel.check()
                hasher.update(buffer[:size])
                write_all(new.fileno(), buffer[:size])
            os.ftruncate(new.fileno(), hasher.seen)
        sync(new.fileno())
        os.utime(new.fileno(), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if target.reserve is not None:
        target.reserve.written(stat.st_size)
    return hasher.xxh3()


def hash_file(descriptor: int, hasher: Hasher, cancel: CancelToken, on_hashed: OnHashed = lambda _size: None) -> None:
    """Feed a whole file, from its first byte, to `hasher`. Raises Stopped when cancelled meanwhile."""
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    while size := os.preadv(descriptor, [buffer], offset):
        cancel.check()
        hasher.update(buffer[:size])
        on_hashed(size)
        offset += size


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data`, in as many calls as that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def can_link(source: FileTree, at: str, target: FileTree, path: str) -> bool:
    """Whether the file `at` can be a hard link below `target`: tried at `path`, where nothing lies and nothing stays.

    A bind mount has the device number of its disk, and takes no link from another mount of it.
    """
    try:
        target.link(source, at, path)
    except OSError:
        return False
    target.unlink(path)
    return True


def can_clone(source: FileTree, at: str, descriptor: int) -> bool:
    """Whether the file `at` can be a reflink on the disk of `descriptor`, a new file; then it has its bytes."""
    try:
        with open(source.open(at, os.O_RDONLY), "rb", buffering=0) as old:
            fcntl.ioctl(descriptor, _FICLONE, old.fileno())
    except OSError:
        return False
    return True


def allocate(tree: FileTree, descriptor: int, size: int) -> None:
    """Give a file below `tree` the blocks for `size` bytes, out of what is reserved for the tree (`space.reserved`).

    It is `size` bytes long then. On a disk that cannot allocate, nothing happens, and a later write may fail.
    """
    if not size:
        return
    there = os.fstat(descriptor).st_blocks * 512
    with contextlib.nullcontext() if tree.reserve is None else tree.reserve.given(size - there):
        fallocate(descriptor, size)


def fallocate(descriptor: int, size: int) -> bool:
    """Allocate the blocks for the first `size` bytes of a file; return False where the disk or the system cannot.

    Not `os.posix_fallocate`: where the disk cannot allocate, the one of glibc writes into each block.

    Raises:
        OSError: ENOSPC or EDQUOT: they are not free; EFBIG: no file may be so long.
    """
    call, get_errno = _fallocate()
    if call is None:
        return False
    while call(descriptor, 0, 0, size) != 0:
        code = get_errno()
        if code in _CANNOT_ALLOCATE:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


@cache
def _fallocate() -> tuple[Callable[[int, int, int, int], int] | None, Callable[[], int]]:
    """Return fallocate(2), None where the system has none (macOS), and what returns its error."""
    import ctypes  # imported here: only a run that fetches or copies allocates

    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call, ctypes.get_errno


def free_bytes(path: Path) -> int:
    """Return how many bytes this user may still write on the disk of `path`."""
    stat = _ask_nearest(path, os.statvfs)
    return stat.f_bavail * stat.f_frsize


def free_inodes(path: Path) -> int | None:
    """Return how many files this user may still make on the disk of `path`; None where it has no limit."""
    try:
        stat = os.statvfs(_nearest(path))
    except OSError:
        return None
    return stat.f_favail if stat.f_files else None


def block_size(path: Path) -> int:
    """Return the bytes that a file of one byte takes on the disk of `path`."""
    return os.statvfs(_nearest(path)).f_frsize or 4096


def mount_point(path: Path) -> Path:
    """Return the folder at which the disk of `path` is mounted."""
    there = Path(os.path.realpath(_nearest(path)))
    while there != there.parent and there.parent.stat().st_dev == there.stat().st_dev:
        there = there.parent
    return there


def longest_name(path: Path) -> int:
    """Return how many bytes a name may have on the disk of `path`."""
    try:
        return _ask_nearest(path, lambda there: os.pathconf(there, "PC_NAME_MAX"))
    except (OSError, ValueError):
        return 255


def device_of(path: Path) -> int:
    """Return the number of the disk of `path`, or of its nearest parent that exists."""
    return _ask_nearest(path, os.stat).st_dev


def is_writable(folder: Path) -> bool:
    """Whether we could write in `folder`, or make it."""
    return _ask_nearest(folder, _can_write)


def _can_write(there: Path) -> bool:
    can = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    os.stat(there)  # raises FileNotFoundError if it is not there any more: that is no refusal
    return can


def _ask_nearest(path: Path, ask: Callable[[Path], T]) -> T:
    """Return `ask` of the nearest folder above `path` that is there; ask again if a clean removes it meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return ask(_nearest(path))


def _nearest(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that is there and can be seen."""
    while not os.path.exists(path):
        path = path.parent
    return path
