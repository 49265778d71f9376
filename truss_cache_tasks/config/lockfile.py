"""Read `model_cache.lock` beside a config, and replace it whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from truss_cache_tasks.config.files import shown_path
from truss_cache_tasks.errors import ConfigError, DiskError
from truss_cache_tasks.model.lockfile import LockFile
from truss_cache_tasks.model.lockfile_text import NewerLock, parse, to_text
from truss_cache_tasks.model.records import LOCK_NAME
from truss_cache_tasks.model.request import Request

_LARGEST = 256 << 20  # bytes; a line has about 200, so a lock of a million files


def lock_path(config: Path) -> Path:
    """Return the path of the lock file that belongs to a config file."""
    return config.parent / LOCK_NAME


def read_lock(config: Path, requests: Iterable[Request] = ()) -> LockFile | None:
    """Return the lock file beside `config`; None without one. A link is followed.

    Args:
        requests: of the config, which the file must not contradict.

    Raises:
        ConfigError: it cannot be read, or is not as it must be; `file:line: ...`.
    """
    path = lock_path(config)
    name = shown_path(path)
    try:
        data = _read(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise ConfigError(f"{name}: found a link to nothing, expected a file", hint="Repair the link.") from None
        return None
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ConfigError(f"{name}: cannot be read: {why}", hint="Make it a file that this user can read.") from None
    return parse(data, name, requests)


def _read(path: Path) -> bytes:
    """Return the bytes of a regular file. Raises OSError, also for anything else: a FIFO would block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no file")
        if status.st_size > _LARGEST:
            raise OSError(f"it has {status.st_size:,} bytes, more than {_LARGEST:,}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def update_lock(config: Path, change: Callable[[LockFile | None], LockFile], *, broken_is_none: bool) -> bool:
    """Replace the lock file by `change` of what it holds now, whole or not at all; a link stays, and leads to the new.

    Two updates at once, of any processes, follow each other, and none is lost.

    Args:
        broken_is_none: pass None for a file that cannot be used, and replace it; one of a newer format is refused.

    Returns:
        Whether the file changed; equal content is not written again.

    Raises:
        ConfigError: the file that is there cannot be used.
        DiskError: the file cannot be written.
    """
    target = Path(os.path.realpath(lock_path(config)))
    with _disk_errors(target), _only_one(target.parent):
        now = read_usable(config) if broken_is_none else read_lock(config)
        text = to_text(change(now)).encode()
        with contextlib.suppress(OSError):
            if _read(target) == text:
                return False
        _replace(target, text)
        return True


def read_usable(config: Path) -> LockFile | None:
    """Return the lock file; None also for one that cannot be used. Raises NewerLock."""
    try:
        return read_lock(config)
    except NewerLock:
        raise
    except ConfigError:
        return None


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, so that no further file is needed; without one where that does not work."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(target: Path, data: bytes) -> None:
    """Replace a file, which keeps its mode; a new one gets that of the umask."""
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb") as out:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(os.stat(target).st_mode))
            out.write(data)
            out.flush()
            os.fsync(descriptor)
        os.rename(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some file systems sync no folder
            os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        why = exc.strerror or str(exc)
        hint = "Free some space." if exc.errno in (errno.ENOSPC, errno.EDQUOT) else "Make its folder writable."
        raise DiskError(f"cannot write {shown_path(target)}: {why}", hint=hint) from None
