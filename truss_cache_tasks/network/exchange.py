"""Limits one request in time and in size, whatever library sends it (docs/adr/0014).

A server may send nothing, a byte now and then, bytes without end, or a small body that inflates to a huge one. The code
that reads a socket asks an `Exchange` before each read how long it may last, and tells it how many bytes it brought. An
`Exchange` is for one request of a listing; a `ReadLimit` is the same for one step of a request for a file's bytes.
"""

from __future__ import annotations

import http.client
import math
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.network.retry import RetryLimits

_Error = TypeVar("_Error", bound=BaseException)
_UNKNOWN_READ = 256  # bytes that a read of unknown size is counted as


@dataclass(frozen=True)
class ExchangeLimits:
    """How long a request may take, and how much its answer may be. Times in seconds, sizes in bytes.

    Attributes:
        connect_s: to connect.
        head_s: from the request to the end of the answer's headers, interim answers (1xx) included.
        stall_s: without one byte of the body.
        floor, floor_s: a body that brings less than `floor` bytes a second for `floor_s` is given up.
        total_s: for all of it.
        head: of the headers, those of interim answers included.
        page: of the body of an answer, decoded.
        refusal: of the body of an error or a redirect, decoded.
        redirects: followed for one request.
        retry: how often a request is tried again.
    """

    connect_s: float = 10.0
    head_s: float = 30.0
    stall_s: float = 10.0
    floor: float = 1024.0
    floor_s: float = 30.0
    total_s: float = 300.0
    head: int = 1 << 20
    page: int = 64 << 20
    refusal: int = 64 << 10
    redirects: int = 5
    retry: RetryLimits = field(default_factory=RetryLimits)

    def body(self, status: int) -> int:
        """Return how many bytes the body of an answer with `status` may have."""
        return self.page if 200 <= status < 300 else self.refusal


class TooSlow(TimeoutError):
    """The time of an exchange is over. Libraries take it for a timeout of theirs; trying again may help."""


class UnreadableAnswer(Exception):
    """An answer is too large or in an unknown encoding; trying again does not help."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"{found}, expected {expected}")
        self.found = found
        self.expected = expected


class Exchange:
    """Limits the time and the bytes of one request and of the requests that its redirects lead to."""

    def __init__(self, limits: ExchangeLimits, cancel: CancelToken) -> None:
        self.limits = limits
        self._cancel = cancel
        self._ends = time.monotonic() + limits.total_s
        self.begin_head()

    def begin_head(self) -> None:
        """Begin to wait for the head of an answer."""
        self._in_body = False
        self._phase_ends = time.monotonic() + self.limits.head_s
        self._room = self._most = self.limits.head

    def begin_body(self, status: int) -> None:
        """Begin the body of an answer with `status`."""
        now = time.monotonic()
        self._in_body = True
        self._phase_ends = now + self.limits.stall_s
        most = self._most = self.limits.body(status)
        self._room = most + most // 8 + 8192  # on the wire: chunk sizes come too, and a buffer reads ahead
        self._last_read, self._floor = now, RateFloor(self.limits.floor, self.limits.floor_s)

    def left_s(self) -> float:
        """Return how many seconds the next read may take, more than 0.

        Raises:
            TooSlow: there are none left.
            Stopped: the work is cancelled.
        """
        self._cancel.check()
        left = min(self._ends, self._phase_ends) - time.monotonic()
        if left <= 0:
            stalled = f"no byte of the answer within {self.limits.stall_s:g} s"
            raise TooSlow(stalled if self._in_body else f"no answer within {self.limits.head_s:g} s")
        return left

    def received(self, size: int) -> None:
        """Take note of `size` bytes that a read brought.

        Raises:
            UnreadableAnswer: they are more than an answer has.
            TooSlow: they come slower than the floor.
        """
        self._room -= size
        if self._room < 0:
            raise UnreadableAnswer("an answer without an end", f"at most {self._most:,} bytes")
        if self._in_body:
            self._watch_floor(size)

    def received_unknown(self) -> None:
        """Take note of a read of the head whose size is not known, so that a head without an end is refused too."""
        if not self._in_body:
            self.received(_UNKNOWN_READ)

    def _watch_floor(self, size: int) -> None:
        limits, now = self.limits, time.monotonic()
        self._phase_ends = now + limits.stall_s
        is_slow = self._floor.is_too_slow(size, now - self._last_read)
        self._last_read = now
        if is_slow:
            raise TooSlow(f"less than {limits.floor:.0f} bytes a second")


class AnyLimit(Protocol):
    """How much of an answer may still be read: an Exchange or a ReadLimit."""

    def left_s(self) -> float:
        """Return how many seconds the next read may take; raise where there are none left."""
        ...

    def received(self, size: int) -> None:
        """Take note of `size` bytes that a read brought; may raise."""
        ...


class AnswerTooLong(http.client.HTTPException):
    """A step of a request brought more bytes than it may."""


class ReadLimit:
    """Limits one step of a request for bytes: an answer's head, a piece of its body, or what follows the body.

    Before the first step nothing may be read.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._left = 0

    def begin(self, seconds: float, size: int) -> None:
        """Begin a step that ends `seconds` from now and reads about `size` bytes at most."""
        self._until = time.monotonic() + seconds
        self._left = size

    def left_s(self) -> float:
        """Return how long the next read may block. Raises TimeoutError or AnswerTooLong where the step is over."""
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        if self._left <= 0:
            raise AnswerTooLong("headers, chunks or trailers without an end")
        return seconds

    def received(self, size: int) -> None:
        """Take note of `size` bytes that a read brought."""
        self._left -= size


class RateFloor:
    """Detects a connection that brings bytes too slowly."""

    def __init__(self, floor: float, floor_s: float) -> None:
        """Begin; less than `floor` bytes a second for `floor_s` seconds is too slow."""
        self._floor = floor
        self._floor_s = floor_s
        self._bytes = 0
        self._seconds = 0.0

    def is_too_slow(self, size: int, seconds: float) -> bool:
        """Take note of `size` bytes that took `seconds`; return whether it was too slow for too long."""
        self._bytes += size
        self._seconds += seconds
        if self._seconds < self._floor_s:
            return False
        too_slow = self._bytes < self._floor * self._seconds
        self._bytes, self._seconds = 0, 0.0
        return too_slow


class ReadTimeout:
    """A timeout that shrinks with the time that an Exchange has left, for a library that sets one before each read.

    `socket.settimeout` accepts an object with `__index__` and calls that each time, so the clock is read before each
    read of the socket. It accepts whole seconds only, so a read may last up to one second too long.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __index__(self) -> int:
        left = self._exchange.left_s()
        self._exchange.received_unknown()
        return math.ceil(left)


def decode_body(chunks: Iterable[bytes], encoding: str, most: int) -> bytes:
    """Return a body with its Content-Encoding undone.

    Args:
        chunks: of the body as it is on the wire.
        encoding: the header; "" for none. Only gzip is ever asked for.
        most: bytes that the decoded body may have.

    Raises:
        UnreadableAnswer: the body is longer, or in another encoding.

    >>> import gzip
    >>> decode_body([gzip.compress(b"abc")], "gzip", 3), decode_body([b"a", b"bc"], "", 3)
    (b'abc', b'abc')
    """
    coding = encoding.strip().lower()
    if coding in ("gzip", "x-gzip"):
        chunks = _inflated(chunks, most)
    elif coding not in ("", "identity"):
        raise UnreadableAnswer(f"the encoding {coding[:40]!r}", "gzip or none")
    parts: list[bytes] = []
    room = most
    for chunk in chunks:
        room -= len(chunk)
        if room < 0:
            raise UnreadableAnswer(f"an answer of more than {most:,} bytes", "at most that")
        parts.append(chunk)
    return b"".join(parts)


def _inflated(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Yield what `chunks` unpack to, in pieces of at most `most` + 1 bytes, and of at most 1 MiB + 1."""
    inflate = zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks:
            packed = chunk
            while packed and not inflate.eof:
                yield inflate.decompress(packed, min(most, 1 << 20) + 1)
                packed = inflate.unconsumed_tail
    except zlib.error as exc:
        raise UnreadableAnswer("a body that is no gzip", "the encoding that its header names") from exc


def find_cause(exc: BaseException | None, kind: type[_Error]) -> _Error | None:
    """Return the first error of `kind` among `exc` and its causes, or None."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if isinstance(exc, kind):
            return exc
        seen.add(id(exc))
        exc = exc.__cause__ or exc.__context__
    return None
