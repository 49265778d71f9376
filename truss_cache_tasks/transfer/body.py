"""What a read of a location, http(s) or `file:`, returns or raises: a Body, or one of three errors.

TransientError is retried; after BadResponse the bytes in question are fetched once more; HttpStatusError follows the
table of `network.retry`. Any other error is final. LocalBody is the Body of a `file:` location, which is the only path
that transfer/ opens.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

from truss_cache_tasks.errors import RUN_AGAIN, AccessDenied, CacheTaskError, NotFound, SourceChanged, TransientError
from truss_cache_tasks.model.hashing import Piece
from truss_cache_tasks.model.listing import Location, RemoteFile


class Body(Protocol):
    """The bytes of one answer, in order."""

    start: int  # offset of the first byte in the file: the one asked for, or 0
    end: int  # offset after the last byte that was promised: the end that was asked for, or the file's
    reached: Location | None  # where redirects led to; None without a redirect
    headers: Mapping[str, str]  # of the answer, with names in any case
    validator: str | None  # names this version of the file; the next answer has to have the same

    def readinto(self, buffer: memoryview, /) -> int:
        """Put the next bytes into `buffer`; return how many, 0 at the end.

        Raises:
            TransientError: the connection failed, or the body ended before its announced end.
        """
        ...

    def finish(self) -> None:
        """Check what can only be checked after the last byte. Raises BadResponse or SourceChanged."""
        ...

    def close(self) -> None:
        """Give the connection back, or close it if bytes are left on it."""
        ...


class BadResponse(Exception):
    """Bytes or an answer that cannot be right.

    Attributes:
        error: what the file fails with if this happens again.
        pieces: of the file, that have to be fetched again; () for all of it.
    """

    def __init__(self, error: CacheTaskError, pieces: Sequence[Piece] = ()) -> None:
        super().__init__(str(error))
        self.error = error
        self.pieces = pieces


class HttpStatusError(Exception):
    """The server answered with a status that is no success.

    Attributes:
        headers: with names in any case.
        body: its first bytes.
    """

    def __init__(self, host: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"{host} answers {status}")
        self.host = host
        self.status = status
        self.headers = headers
        self.body = body


def is_local(location: Location) -> bool:
    """Return whether the bytes are on a disk of this machine."""
    return location.url.startswith("file:")


def host_of(location: Location) -> str:
    """Return the host and port of the location itself, before any redirect; each has one ConcurrencyLimiter."""
    return urlsplit(location.url).netloc


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
            self._descriptor = _open(unquote(urlsplit(location.url).path), location.root)
        except OSError as exc:
            raise _translate(file, exc) from exc
        try:
            self._compare()
        except BaseException:
            os.close(self._descriptor)
            raise

    def readinto(self, buffer: memoryview, /) -> int:
        """Put the next bytes into `buffer`; see Body."""
        try:
            size = os.preadv(self._descriptor, [buffer], self._at)
        except OSError as exc:
            raise _translate(self._file, exc) from exc
        self._at += size
        return size

    def finish(self) -> None:
        """Raise SourceChanged unless the file is still the one that was listed."""
        self._compare()

    def close(self) -> None:
        """Close the source."""
        os.close(self._descriptor)

    def _compare(self) -> None:
        seen = os.fstat(self._descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise NotFound(f"{self._file.path}: the source is no longer a file")
        if seen.st_size != self._file.size or self.validator not in (None, f"{seen.st_mtime_ns}-{seen.st_size}"):
            raise SourceChanged(f"{self._file.path}: the source file changed after it was listed", hint=RUN_AGAIN)


def _open(path: str, root: str | None) -> int:
    """Open `path` for reading; fail if a component below `root`, where that is given, is a link by now."""
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


def _translate(file: RemoteFile, exc: OSError) -> CacheTaskError:
    said = f"{file.path}: cannot read the source file: {(exc.strerror or str(exc)).lower()}"
    match exc:
        case FileNotFoundError() | NotADirectoryError() | IsADirectoryError():
            return SourceChanged(f"{file.path}: the source file is gone since it was listed", hint=RUN_AGAIN)
        case OSError(errno=errno.ELOOP):  # O_NOFOLLOW met a link
            return SourceChanged(f"{file.path}: the source file changed after it was listed", hint=RUN_AGAIN)
        case PermissionError():
            return AccessDenied(said, hint="Make the file readable for this user.")
        case _:
            return TransientError(said)
