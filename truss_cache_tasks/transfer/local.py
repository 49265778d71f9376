"""Bytes of a `file://` location: the one path that transfer/ opens."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from truss_cache_tasks.errors import AccessDenied, CacheTaskError, NotFound, SourceChanged, TransientError
from truss_cache_tasks.model.listing import Location, RemoteFile


class LocalBody:
    """An open source file, compared with its location's validator before the first byte and after the last."""

    def __init__(self, file: RemoteFile, location: Location, start: int = 0, end: int | None = None) -> None:
        self.start = start
        self.end = file.size if end is None else end
        self.reached: Location | None = None
        self.validator = location.validator
        self.headers: Mapping[str, str] = {}
        self._file = file
        self._at = start
        try:
            self._descriptor = _opened(unquote(urlsplit(location.url).path), location.root)
        except OSError as exc:
            raise _in_our_words(file, exc) from exc
        try:
            self._compare()
        except BaseException:
            os.close(self._descriptor)
            raise

    def readinto(self, buffer: memoryview, /) -> int:
        """The next bytes; see Body."""
        try:
            size = os.preadv(self._descriptor, [buffer], self._at)
        except OSError as exc:
            raise _in_our_words(self._file, exc) from exc
        self._at += size
        return size

    def finish(self) -> None:
        """The file must still be the one that was listed."""
        self._compare()

    def close(self) -> None:
        """Close the source."""
        os.close(self._descriptor)

    def _compare(self) -> None:
        seen = os.fstat(self._descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise NotFound(f"{self._file.path}: the source is no longer a file")
        if seen.st_size != self._file.size or self.validator not in (None, f"{seen.st_mtime_ns}-{seen.st_size}"):
            raise SourceChanged(f"{self._file.path}: the source file changed after it was listed", hint="Run it again.")


def _opened(path: str, root: str | None) -> int:
    """Open `path` for reading; where `root` is given, no component below it may be a link by now."""
    # O_NONBLOCK: a FIFO at this path must not hold the worker
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    if root is None:
        return os.open(path, flags)
    *folders, name = os.path.relpath(path, root).split("/")
    at = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for folder in folders:
            above, at = at, os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(above)
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)


def _in_our_words(file: RemoteFile, exc: OSError) -> CacheTaskError:
    said = f"{file.path}: cannot read the source file: {(exc.strerror or str(exc)).lower()}"
    match exc:
        case FileNotFoundError() | NotADirectoryError() | IsADirectoryError():
            return SourceChanged(f"{file.path}: the source file is gone since it was listed", hint="Run it again.")
        case OSError(errno=errno.ELOOP):  # a link is there now
            return SourceChanged(f"{file.path}: the source file changed after it was listed", hint="Run it again.")
        case PermissionError():
            return AccessDenied(said, hint="Make the file readable for this user.")
        case _:
            return TransientError(said)
