"""The few disk operations that everything in this room is made of; OSError becomes StoreError here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from truss_cache_tasks.errors import StoreError

_FICLONE = 0x40049409  # linux/fs.h: share the extents of another file (btrfs, xfs)
_RACES = 10_000  # lost against somebody who removes empty folders, before the error is believed
_HINTS = {
    errno.ENOSPC: "Free some space, or put the cache on another disk (HF_HOME, TRUSS_MODEL_CACHE_DIR).",
    errno.EDQUOT: "Free some of your quota, or put the cache on another disk (HF_HOME, TRUSS_MODEL_CACHE_DIR).",
    errno.EACCES: "Make it writable, or choose another cache (HF_HOME, TRUSS_MODEL_CACHE_DIR, TRUSS_MOUNT_ROOT).",
    errno.EROFS: "Choose a cache on a writable disk (HF_HOME, TRUSS_MODEL_CACHE_DIR, TRUSS_MOUNT_ROOT).",
    errno.ENOTDIR: "A file lies where a folder is needed: move it away.",
    errno.EISDIR: "A folder lies where a file is needed: move it away.",
}


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Word an OSError of the block as ours: `what` failed, why, and what to do."""
    try:
        yield
    except OSError as exc:
        hint = _HINTS.get(exc.errno or 0, "Look at the disk, then run again.")
        path = exc.filename2 or exc.filename  # of a rename, where to
        name = f" ({path})" if path and str(path) not in what else ""
        raise StoreError(f"{what}: {exc.strerror or exc}{name}", hint=hint) from exc


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by this JSON: whole or not at all, also after a power cut."""
    with disk_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name[:200]}.{token()}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as out:
                json.dump(value, out, indent=1, sort_keys=True, ensure_ascii=False)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def token() -> str:
    """Return 8 hex digits for a temporary's name (the module `secrets` would cost a no-op ten more imports)."""
    return os.urandom(4).hex()


def sync_folder(folder: str | Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_file(source: Path, target: Path, temporary: Path) -> None:
    """Make `target` the same bytes as `source` in one step: hard link, else reflink, else copy; mtime comes along.

    Args:
        temporary: a free name on the disk of `target`.
    """
    if source.is_symlink():  # a shared blob of huggingface_hub; link(2) would link the link itself
        source = source.resolve()
    if made(lambda: os.link(source, target), target):
        return
    make_folder(temporary.parent)
    try:
        _clone(source, temporary)
        move(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # rename(2) of two links to one file does nothing


def made(make: Callable[[], None], target: Path) -> bool:
    """Whether `make` could make the link `target` in one step: nothing was there, and the disk has such links."""
    for _ in range(2):
        try:
            make()
            return True
        except FileNotFoundError:
            make_folder(target.parent)
        except OSError:
            return False
    return False


def _clone(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
        return
    except OSError as exc:
        if exc.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            import shutil

            shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())
        stat = os.fstat(old.fileno())
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def move(source: Path, target: Path) -> None:
    """Rename within one disk, into a folder that need not be there, or that others remove while it is empty."""
    for _ in range(_RACES):
        try:
            return os.replace(source, target)
        except FileNotFoundError:
            if not os.path.lexists(source):
                raise
            make_folder(target.parent)
    os.replace(source, target)


def open_in(path: Path, flags: int) -> int:
    """Open a file for writing, in a folder that need not be there yet, or that others remove while it is empty."""
    for _ in range(_RACES):
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            if os.path.islink(path):  # to nowhere
                raise
            make_folder(path.parent)
    return os.open(path, flags, 0o666)


def named(folder: str, name: str) -> list[Path]:
    """Return what lies in `folder` as `{name}.*`; nothing if it is missing."""
    try:
        found = os.listdir(folder)  # asked once a file: glob() takes ten times as long
    except FileNotFoundError:
        return []
    start = f"{name}."
    return [Path(folder, one) for one in found if one.startswith(start)]


def make_folder(path: Path) -> None:
    """Make a folder and those above it, whoever removes empty ones meanwhile. Raises StoreError."""
    with disk_errors(f"cannot make {path}"):
        for _ in range(_RACES):
            try:
                return path.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, FileNotFoundError):  # so says mkdir of a folder that was there and is gone
                if any(map(_is_no_folder, (path, *path.parents))):
                    raise
        path.mkdir(parents=True, exist_ok=True)


def _is_no_folder(path: Path) -> bool:
    """Whether a file is here, or a link to nowhere; told by one look, as folders come and go."""
    try:
        return not S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return path.is_symlink()


def sweep(folder: Path, *patterns: str) -> None:
    """Remove the temporaries of dead writers. The caller holds the lock under which they are made."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()


def remove_if_empty(*folders: Path) -> None:
    """Remove those of `folders` that are empty, in this order; the others stay."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_hollow(folder: Path) -> None:
    """Remove a folder that holds nothing but empty folders, as a killed run may leave it; any other stays."""
    if folder.is_dir() and not folder.is_symlink():
        remove_if_empty(*(Path(path) for path, _, _ in os.walk(folder, topdown=False)))


def refuse_links(folder: Path, root: Path) -> None:
    """Refuse a folder that leads out of `root` because it, or one on its way, is a link; `root` itself may be one."""
    for parent in (folder, *folder.parents):
        if parent == root:
            return
        if parent.is_symlink():
            raise StoreError(
                f"{parent} is a link to {os.readlink(parent)}: nothing is written through it",
                hint="Replace it by a folder, or move the whole cache (HF_HOME, TRUSS_MODEL_CACHE_DIR).",
            )


def can_link(source: Path, target: Path) -> bool:
    """Whether both (or their nearest parents that exist) lie on one disk."""
    return _nearest(source).stat().st_dev == _nearest(target).stat().st_dev


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the disk of `path`."""
    stat = os.statvfs(_nearest(path))
    return stat.f_bavail * stat.f_frsize


def is_writable(folder: Path) -> bool:
    """Whether we could write in `folder`, or make it."""
    there = _nearest(folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _nearest(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that is there and can be seen."""
    while not os.path.exists(path):
        path = path.parent
    return path


def remove_empty_parents(path: Path, stop: Path) -> None:
    """Remove the folders above `path`, up to and without `stop`, as long as they are empty."""
    for parent in path.parents:
        if parent == stop or stop not in parent.parents:
            return
        try:
            parent.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return
