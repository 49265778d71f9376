"""FileTree: a cache root as a tree of real folders. Below it no link is followed.

Every access goes from a descriptor of the root to the next folder by its name (`openat`, O_NOFOLLOW), so that no link
that lies there, and none that appears meanwhile, can lead a read, a write or a removal elsewhere. The path *to* a root
may hold links, and the root itself may be one.
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
_RACES = 10_000  # lost against a process that removes empty folders, before the error is believed
_FEW = 8
_KEPT = 48  # descriptors of folders that one thread keeps open for a root, at the most


class LinkedFolder(DiskError):
    """A link lies below a cache root where a folder is expected."""


class FileTree:
    """The folders and files below `path`, by relative paths with `/`.

    A path has no empty component, `.`, `..` or NUL: UnsafeName is raised for one that has. A link where a folder is
    expected raises LinkedFolder; everything else that the disk refuses raises OSError, with the whole path in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"FileTree({str(self.path)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return FileTree, (self.path,)  # descriptors do not travel

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep descriptors of folders open within the block, for this thread: a walk from the root is then one step."""
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

    def look_anew(self) -> None:
        """Close what this thread keeps open: a folder may have been moved away since, and another be there."""
        kept: dict[str, int] = getattr(self._local, "kept", None) or {}
        while kept:
            os.close(kept.popitem()[1])

    # Looking

    def lstat(self, path: str) -> os.stat_result | None:
        """Return the stat of what lies at `path`, a link's own; None where nothing does."""
        try:
            return self._at(path, lambda name, folder: os.stat(name, dir_fd=folder, follow_symlinks=False))
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            return None

    def readlink(self, path: str) -> str | None:
        """Return the text of the link at `path`; None where no link is."""
        try:
            return self._at(path, lambda name, folder: os.readlink(name, dir_fd=folder))
        except OSError:
            return None

    def is_folder(self, path: str) -> bool:
        """Whether a real folder lies at `path`, and no link on the way to it."""
        try:
            stat = self.lstat(path)
        except LinkedFolder:
            return False
        return stat is not None and S_ISDIR(stat.st_mode)

    def names(self, folder: str) -> list[str]:
        """Return the names in `folder`; none where it is missing."""
        try:
            with self._folder(folder) as descriptor:
                return os.listdir(descriptor)
        except FileNotFoundError:
            return []

    def children(self, folder: str) -> list[tuple[str, bool]]:
        """Return (name, whether it is a real folder) of all that lies in `folder`; nothing where it is missing."""
        try:
            with self._folder(folder) as descriptor, os.scandir(descriptor) as found:
                return [(child.name, child.is_dir(follow_symlinks=False)) for child in found]
        except FileNotFoundError:
            return []

    def files_below(self, folder: str) -> Iterator[str]:
        """Yield the path of everything below `folder` that is no real folder."""
        return (path for path, is_folder in self.walk(folder) if not is_folder)

    def walk(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield (path, whether it is a real folder) of all below `folder`, a folder before what it holds."""
        ahead = [folder]
        while ahead:
            current = ahead.pop()
            for name, is_folder in self.children(current):
                path = f"{current}/{name}" if current else name
                yield path, is_folder
                if is_folder:
                    ahead.append(path)

    # Files

    def open(self, path: str, flags: int, *, make: bool = False) -> int:
        """Return a descriptor of the file at `path`; never through a link.

        Args:
            make: the folders on its way are made.
        """
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        return self._at(path, lambda name, folder: os.open(name, flags, 0o666, dir_fd=folder), make=make)

    def link(self, source: FileTree, at: str, path: str) -> None:
        """Make `path` a hard link of `at` below `source`. Raises FileExistsError where anything lies at `path`."""

        def make(name: str, folder: int) -> None:
            source._at(
                at, lambda old, there: os.link(old, name, src_dir_fd=there, dst_dir_fd=folder, follow_symlinks=False)
            )

        self._at(path, make, make=True)

    def symlink(self, text: str, path: str) -> None:
        """Make `path` a symbolic link. Raises FileExistsError where anything lies at `path`."""
        self._at(path, lambda name, folder: os.symlink(text, name, dir_fd=folder), make=True)

    def rename(self, old: str, new: str) -> None:
        """Move a file or link; what lies at `new` is replaced, unless it is a folder."""

        def move(name: str, folder: int) -> None:
            self._at(old, lambda source, there: os.rename(source, name, src_dir_fd=there, dst_dir_fd=folder))

        self._at(new, move, make=True)

    def unlink(self, path: str) -> bool:
        """Remove the file or link at `path`; return whether there was one."""
        try:
            self._at(path, lambda name, folder: os.unlink(name, dir_fd=folder))
        except FileNotFoundError:
            return False
        return True

    # Folders

    def make_folder(self, folder: str = "") -> None:
        """Make this folder and those on its way."""
        with self._folder(folder, make=True):
            pass

    def sync_folder(self, folder: str) -> None:
        """Make the names in `folder` survive a power cut."""
        with self._folder(folder) as descriptor:
            sync(descriptor)

    def remove_if_empty(self, folder: str) -> bool:
        """Remove `folder` (not the root) if it is empty; return whether it was removed."""
        self._forget(folder)
        try:
            self._at(folder, lambda name, parent: os.rmdir(name, dir_fd=parent))
        except OSError:
            return False
        return True

    def remove_empty_parents(self, path: str, stop: str = "") -> None:
        """Remove the folders above `path`, below `stop`, as long as they are empty or missing."""
        folder = _parent(path)
        while folder and folder != stop:
            if not self.remove_if_empty(folder) and self.lstat(folder) is not None:
                return
            folder = _parent(folder)

    def remove_empty_tree(self, folder: str) -> None:
        """Remove a folder that holds nothing but empty folders, as a killed run may leave it; any other stays."""
        if not self.is_folder(folder):
            return
        folders = [path for path, is_folder in self.walk(folder) if is_folder]
        for path in sorted(folders, key=lambda path: -path.count("/")):
            self.remove_if_empty(path)
        self.remove_if_empty(folder)

    def remove_tree(self, folder: str) -> None:
        """Remove a folder with all that it holds."""
        for path in list(self.files_below(folder)):
            self.unlink(path)
        self.remove_empty_tree(folder)

    # The way there

    def _at(self, path: str, act: Callable[[str, int], T], *, make: bool = False) -> T:
        """Call `act` with the last name of `path` and a descriptor of its folder, which `make` makes.

        Another process may remove the folder, as it is empty, between its opening and its use: then once more.
        """
        folder, _, name = path.rpartition("/")
        _check(name)
        kept: dict[str, int] | None = getattr(self._local, "kept", None)
        try:
            for left in range(_RACES, -1, -1):
                descriptor = self._borrow(folder, kept, make=make)
                try:
                    return act(name, descriptor)
                except FileNotFoundError:
                    if os.fstat(descriptor).st_nlink or not left:  # the folder is there: it is about something else
                        raise
                finally:
                    if kept is None:
                        os.close(descriptor)
                self._forget(folder)
        except OSError as exc:
            exc.filename, exc.filename2 = str(self.path / path), None
            raise
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _folder(self, folder: str, *, make: bool = False) -> Iterator[int]:
        """Return a descriptor of `folder`, valid in the block; "" is the root."""
        kept: dict[str, int] | None = getattr(self._local, "kept", None)
        descriptor = self._borrow(folder, kept, make=make)
        try:
            yield descriptor
        finally:
            if kept is None:
                os.close(descriptor)

    def _borrow(self, folder: str, kept: dict[str, int] | None, *, make: bool) -> int:
        """Return a descriptor of `folder`: one of `kept`, where it stays open, else a new one.

        What was returned last is closed last: a caller may use two at a time.
        """
        if kept is None:
            return self._walk_to(folder, {}, make=make)
        if folder in kept:
            descriptor = kept[folder] = kept.pop(folder)
            return descriptor
        parent = _parent(folder)
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
                start = _parent(start)
            above = os.dup(kept[start]) if start in kept else self._open_root(make=make)
            try:
                return self._descend(above, folder[len(start) :].removeprefix("/"), make=make)
            except NotADirectoryError:
                raise self._no_folder(folder) from None
            except FileNotFoundError:
                if not left:
                    raise
                self._forget(start)
        raise AssertionError("unreachable")

    def _descend(self, descriptor: int, path: str, *, make: bool) -> int:
        """Return a new descriptor of the folder `path` below another one, which is closed."""
        for name in path.split("/") if path else ():
            try:
                inner = self._step(descriptor, name, make=make)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor

    def _open_root(self, *, make: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        for _ in range(_RACES):
            try:
                return os.open(self.path, flags)
            except NotADirectoryError as exc:
                if make:
                    raise
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path)) from exc
            except FileNotFoundError:
                if not make or self.path.is_symlink():  # to nowhere
                    raise
                os.makedirs(self.path, exist_ok=True)
        return os.open(self.path, flags)

    def _step(self, folder: int, name: str, *, make: bool) -> int:
        _check(name)
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, _FOLDER, dir_fd=folder)

    def _no_folder(self, folder: str) -> Exception:
        """Return the error for the first thing on the way to `folder` that is none."""
        parts = folder.split("/")
        for depth in range(1, len(parts) + 1):
            path = self.path / "/".join(parts[:depth])
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
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / folder))

    def _forget(self, folder: str) -> None:
        """Close what is kept of `folder` and below."""
        kept: dict[str, int] | None = getattr(self._local, "kept", None)
        if not kept:
            return
        for path in [path for path in kept if path == folder or path.startswith(f"{folder}/")]:
            os.close(kept.pop(path))


@cache
def _most_kept() -> int:
    """Return how many descriptors a thread may keep for a root: a process has few on some systems (macOS: 256)."""
    import resource  # not by a no-op, which keeps few

    return max(_FEW, min(_KEPT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 32))


def sync(descriptor: int) -> None:
    """Make the file or folder survive a power cut, where its disk can do that (some FUSE answer EINVAL)."""
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _check(name: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UnsafeName(f"{name!r}: this name leads out of its folder", hint="Remove the record that holds it.")
