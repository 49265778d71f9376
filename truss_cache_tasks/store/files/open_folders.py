"""OpenFolders: descriptors of the folders below a cache root, reached without following a link.

Each step goes from the descriptor of one folder to the next by its name (`openat`, O_NOFOLLOW), so that no link that
lies there, and none that appears meanwhile, can lead elsewhere. The path *to* a root may hold links, and the root
itself may be one (docs/adr/0015).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from stat import S_ISDIR, S_ISLNK
from typing import TypeVar

from truss_cache_tasks.errors import DiskError, UnsafeName

T = TypeVar("T")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RACES = 10_000  # how often another process may remove a folder between two steps, before that is an error
_FEW, _KEPT = 8, 48  # the most descriptors a thread keeps for a root: if a process may have few, or many


class LinkedFolder(DiskError):
    """A link lies below a cache root where a folder is expected."""


class OpenFolders:
    """Opens the folders below `root`, by relative paths with `/`; "" is the root itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._local = threading.local()

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep descriptors of folders open within the block, for this thread, so that fewer are opened again."""
        outer: dict[str, int] | None = getattr(self._local, "kept", None)
        if outer is not None:
            yield
            return
        kept: dict[str, int] = {}
        self._local.kept = kept
        try:
            yield
        finally:
            self._local.kept = None
            for descriptor in kept.values():
                os.close(descriptor)

    def close_all(self) -> None:
        """Close what this thread keeps open: a folder may have been moved away and replaced since."""
        kept: dict[str, int] = getattr(self._local, "kept", None) or {}
        while kept:
            os.close(kept.popitem()[1])

    def close(self, folder: str) -> None:
        """Close what this thread keeps open of `folder` and below."""
        kept: dict[str, int] | None = getattr(self._local, "kept", None)
        if not kept:
            return
        for path in [path for path in kept if path == folder or path.startswith(f"{folder}/")]:
            os.close(kept.pop(path))

    def at(self, path: str, act: Callable[[str, int], T], *, make: bool = False) -> T:
        """Call `act` with the last name of `path` and a descriptor of its folder; return the result.

        If another process removes the folder, which is empty, after it was opened, open it and call `act` again.

        Args:
            make: make the folders above the last name.
        """
        folder, _, name = path.rpartition("/")
        check_name(name)
        kept: dict[str, int] | None = getattr(self._local, "kept", None)
        try:
            for left in range(_RACES, -1, -1):
                descriptor = self._borrow(folder, kept, make=make)
                try:
                    return act(name, descriptor)
                except FileNotFoundError:
                    if os.fstat(descriptor).st_nlink or not left:  # the folder is there: what is missing is the file
                        raise
                finally:
                    if kept is None:
                        os.close(descriptor)
                self.close(folder)
        except OSError as exc:
            exc.filename, exc.filename2 = str(self.root / path), None
            raise
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def folder(self, folder: str, *, make: bool = False) -> Iterator[int]:
        """Yield a descriptor of `folder`, valid in the block."""
        kept: dict[str, int] | None = getattr(self._local, "kept", None)
        descriptor = self._borrow(folder, kept, make=make)
        try:
            yield descriptor
        finally:
            if kept is None:
                os.close(descriptor)

    def _borrow(self, folder: str, kept: dict[str, int] | None, *, make: bool) -> int:
        """Return a descriptor of `folder`: it stays open in `kept`; without `kept`, the caller closes it.

        Of those in `kept`, the least recently used is closed first: a caller may use two at a time.
        """
        if kept is None:
            return self._walk_to(folder, {}, make=make)
        if folder in kept:
            descriptor = kept[folder] = kept.pop(folder)
            return descriptor
        parent = parent_of(folder)
        if parent not in kept and parent != folder:
            self._keep(parent, kept, make=make)
        return self._keep(folder, kept, make=make)

    def _keep(self, folder: str, kept: dict[str, int], *, make: bool) -> int:
        descriptor = self._walk_to(folder, kept, make=make)
        while len(kept) >= _FEW and len(kept) >= _most_kept():
            os.close(kept.pop(next(iter(kept))))
        kept[folder] = descriptor
        return descriptor

    def _walk_to(self, folder: str, kept: dict[str, int], *, make: bool) -> int:
        """Return a new descriptor of `folder`, from the nearest folder above it that is kept open."""
        for left in range(_RACES if make else 0, -1, -1):
            start = folder
            while start and start not in kept:
                start = parent_of(start)
            is_kept = start in kept
            above = kept[start] if is_kept else self._open_root(make=make)
            try:
                return self._descend(above, folder[len(start) :].removeprefix("/"), make=make, is_kept=is_kept)
            except NotADirectoryError:
                raise self._no_folder(folder) from None
            except FileNotFoundError:
                if not left:
                    raise
                self.close(start)
        raise AssertionError("unreachable")

    def _descend(self, descriptor: int, path: str, *, make: bool, is_kept: bool) -> int:
        """Return a new descriptor of the folder `path` below another one, which is closed unless it is kept."""
        for name in path.split("/") if path else ():
            try:
                inner = self._step(descriptor, name, make=make)
            finally:
                if not is_kept:
                    os.close(descriptor)
            descriptor, is_kept = inner, False
        return descriptor

    def _open_root(self, *, make: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        for _ in range(_RACES):
            try:
                return os.open(self.root, flags)
            except NotADirectoryError as exc:
                if make:
                    raise
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root)) from exc
            except FileNotFoundError:
                if not make or self.root.is_symlink():  # a link that leads to nothing
                    raise
                os.makedirs(self.root, exist_ok=True)
        return os.open(self.root, flags)

    def _step(self, folder: int, name: str, *, make: bool) -> int:
        check_name(name)
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, _FOLDER, dir_fd=folder)

    def _no_folder(self, folder: str) -> Exception:
        """Return the error that names the first part of the path `folder` that is no folder."""
        parts = folder.split("/")
        for depth in range(1, len(parts) + 1):
            path = self.root / "/".join(parts[:depth])
            try:
                mode = path.lstat().st_mode
            except OSError:
                break
            if S_ISLNK(mode):
                return LinkedFolder(
                    f"{path}: a link to {os.readlink(path)}, expected a folder: nothing is read or written through it",
                    hint="Replace it by a folder, or move the whole cache (HF_HOME, TRUSS_MODEL_CACHE_DIR).",
                )
            if not S_ISDIR(mode):
                return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root / folder))


@cache
def _most_kept() -> int:
    """Return how many descriptors a thread may keep for a root: a process has few on some systems (macOS: 256)."""
    import resource  # imported here: a run of a fresh entry keeps few descriptors

    return max(_FEW, min(_KEPT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 32))


def parent_of(path: str) -> str:
    """Return the folder that a relative path lies in; "" for the root."""
    return path.rpartition("/")[0]


def check_name(name: str) -> None:
    """Raise UnsafeName for a name that leads out of its folder."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UnsafeName(f"{name!r}: this name leads out of its folder", hint="Remove the record that holds it.")
