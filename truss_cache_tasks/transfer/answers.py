"""What a location answers, http(s) or file://: bytes from some offset on, or one of four ways to fail.

TransientError is tried again; Wrong costs the bytes in question once more; Refused is explained; any other error is
final.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from truss_cache_tasks.errors import CacheTaskError, PermanentError
from truss_cache_tasks.model.hashing import Piece
from truss_cache_tasks.model.listing import Location


class Body(Protocol):
    """The bytes of one answer, in order."""

    start: int  # offset of the first byte in the file: the one asked for, or 0
    end: int  # where the bytes that were promised end: the end that was asked for, or the file's
    reached: Location | None  # where redirects led to, None without one
    headers: Mapping[str, str]  # of the answer, of any case
    validator: str | None  # what names this version of the file, for the next answer to agree with

    def readinto(self, buffer: memoryview, /) -> int:
        """Put the next bytes into `buffer`; return how many, 0 at the end.

        Raises:
            TransientError: the connection failed, or the end came before it was announced.
        """
        ...

    def finish(self) -> None:
        """Check what can only be checked after the last byte. Raises Wrong or SourceChanged."""
        ...

    def close(self) -> None:
        """Give the connection back, or drop it if bytes are left on it."""
        ...


class Wrong(Exception):
    """Bytes or an answer that cannot be right: `pieces` of the file, () for all of it.

    `error` is what to say if it happens again.
    """

    def __init__(self, error: CacheTaskError, pieces: Sequence[Piece] = ()) -> None:
        super().__init__(str(error))
        self.error = error
        self.pieces = pieces


class Refused(Exception):
    """The server answers, and does not give the file."""

    def __init__(self, host: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"{host} answers {status}")
        self.host = host
        self.status = status
        self.headers = headers
        self.body = body


Hopeless = PermanentError
