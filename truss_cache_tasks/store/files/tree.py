"""FileTree: a cache root as a tree of real folders. Below it no link is followed.

No link that lies there can lead a read, a write or a removal elsewhere: every access goes by way of OpenFolders.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import Protocol

from truss_cache_tasks.store.files.open_folders import LinkedFolder, OpenFolders, check_name, parent_of


class Reserve(Protocol):
    """Space of the disk that is kept for the files of a tree."""

    def given(self, size: int, /) -> contextlib.AbstractContextManager[None]:
        """Give up `size` bytes of it, for a file that takes them in the block."""
        ...

    def written(self, size: int, /) -> None:
        """Take note that a file of `size` bytes is complete."""
        ...


class FileTree:
    """The folders and files below `path`, by relative paths with `/`.

    Attributes:
        reserve: what `disk.allocate` takes the space of new files from; None without a reservation.

    A path has no empty component, `.`, `..` or NUL: UnsafeName is raised for one that has. A link where a folder is
    expected raises LinkedFolder; everything else that the disk refuses raises OSError, with the whole path in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.reserve: Reserve | None = None
        self._folders = OpenFolders(self.path)

    def __repr__(self) -> str:
        return f"FileTree({str(self.path)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return FileTree, (self.path,)  # a copy or a pickle opens descriptors of its own

    def kept_open(self) -> contextlib.AbstractContextManager[None]:
        """Keep descriptors of folders open within the block, for this thread, so that fewer are opened again."""
        return self._folders.kept_open()

    def look_anew(self) -> None:
        """Close what this thread keeps open: a folder may have been moved away and replaced since."""
        self._folders.close_all()

    # Looking

    def lstat(self, path: str) -> os.stat_result | None:
        """Return the stat of what lies at `path` (of a link, its own); None where nothing lies."""
        try:
            return self._folders.at(path, lambda name, folder: os.stat(name, dir_fd=folder, follow_symlinks=False))
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            return None

    def lstats(self, paths: Iterable[str]) -> Iterator[tuple[str, os.stat_result | None]]:
        """Yield (path, its `lstat`) of each path, in order: paths of one folder that follow each other cost less."""
        with contextlib.ExitStack() as opened:
            folder, descriptor = None, -1
            for path in paths:
                there, _, name = path.rpartition("/")
                check_name(name)
                if there != folder:
                    opened.close()
                    folder, descriptor = there, -1
                    with contextlib.suppress(OSError):
                        descriptor = opened.enter_context(self._folders.folder(there))
                try:
                    yield path, os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except OSError:  # lstat raises it again, or finds the file where another process made its folder again
                    yield path, self.lstat(path)

    def readlink(self, path: str) -> str | None:
        """Return the text of the link at `path`; None where no link is."""
        try:
            return self._folders.at(path, lambda name, folder: os.readlink(name, dir_fd=folder))
        except OSError:
            return None

    def is_readable(self, path: str) -> bool:
        """Whether the rights of the file at `path`, which is no link, let this user read it."""
        return self._folders.at(path, lambda name, folder: os.access(name, os.R_OK, dir_fd=folder))

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
            with self._folders.folder(folder) as descriptor:
                return os.listdir(descriptor)
        except FileNotFoundError:
            return []

    def children(self, folder: str) -> list[tuple[str, bool]]:
        """Return (name, whether it is a real folder) of all that lies in `folder`; nothing where it is missing."""
        try:
            with self._folders.folder(folder) as descriptor, os.scandir(descriptor) as found:
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
            make: make the folders above it.
        """
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        return self._folders.at(path, lambda name, folder: os.open(name, flags, 0o666, dir_fd=folder), make=make)

    def link(self, source: FileTree, at: str, path: str) -> None:
        """Make `path` a hard link of `at` below `source`. Raises FileExistsError where anything lies at `path`."""

        def make(name: str, folder: int) -> None:
            source._folders.at(
                at, lambda old, there: os.link(old, name, src_dir_fd=there, dst_dir_fd=folder, follow_symlinks=False)
            )

        self._folders.at(path, make, make=True)

    def symlink(self, text: str, path: str) -> None:
        """Make `path` a symbolic link. Raises FileExistsError where anything lies at `path`."""
        self._folders.at(path, lambda name, folder: os.symlink(text, name, dir_fd=folder), make=True)

    def rename(self, old: str, new: str) -> None:
        """Move a file or link; what lies at `new` is replaced, unless it is a folder."""

        def move(name: str, folder: int) -> None:
            self._folders.at(old, lambda source, there: os.rename(source, name, src_dir_fd=there, dst_dir_fd=folder))

        self._folders.at(new, move, make=True)

    def rename_over(self, old: str, new: str) -> None:
        """Move a file or link as `rename` does; folders that hold no file are replaced too."""
        try:
            self.rename(old, new)
        except IsADirectoryError:
            self.remove_empty_tree(new)
            self.rename(old, new)

    def unlink(self, path: str) -> bool:
        """Remove the file or link at `path`; return whether there was one."""
        try:
            self._folders.at(path, lambda name, folder: os.unlink(name, dir_fd=folder))
        except FileNotFoundError:
            return False
        return True

    # Folders

    def make_folder(self, folder: str = "") -> None:
        """Make this folder and those above it."""
        with self._folders.folder(folder, make=True):
            pass

    def sync_folder(self, folder: str) -> None:
        """Make the names in `folder` survive a power cut."""
        with self._folders.folder(folder) as descriptor:
            sync(descriptor)

    def remove_if_empty(self, folder: str) -> bool:
        """Remove `folder` (not the root) if it is empty; return whether it was removed."""
        self._folders.close(folder)
        try:
            self._folders.at(folder, lambda name, parent: os.rmdir(name, dir_fd=parent))
        except OSError:
            return False
        return True

    def remove_empty_parents(self, path: str, stop: str = "") -> None:
        """Remove the folders above `path`, below `stop`, as long as they are empty or missing."""
        folder = parent_of(path)
        while folder and folder != stop:
            if not self.remove_if_empty(folder) and self.lstat(folder) is not None:
                return
            folder = parent_of(folder)

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


def sync(descriptor: int) -> None:
    """Make the file or folder survive a power cut, where its disk can do that (some FUSE answer EINVAL)."""
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
