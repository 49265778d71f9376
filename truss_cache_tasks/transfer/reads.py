"""Answers of http.client whose every read of the socket ends within the time and the bytes of its step.

http.client loops by itself over `100 Continue`, headers, chunk sizes and trailers, and gives each read of the socket a
fresh timeout: a server that sends a byte now and then keeps it for ever. So the socket is read in one place, which
knows what the current step may still take.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import Any


class TooMuch(http.client.HTTPException):
    """A step brought more bytes than it may."""


class ReadLimit:
    """What the current step of one connection may still read: an answer's head, a piece of its body, what follows it.

    No step has begun at first: then nothing may be read.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._left = 0

    def begin(self, seconds: float, size: int) -> None:
        """Begin a step that ends `seconds` from now and reads about `size` bytes at most."""
        self._until = time.monotonic() + seconds
        self._left = size

    def seconds_left(self) -> float:
        """Return how long the next read may block. Raises TimeoutError or TooMuch where the step is over."""
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        if self._left <= 0:
            raise TooMuch("headers, chunks or trailers without an end")
        return seconds

    def took(self, size: int) -> None:
        """Take note of `size` bytes that were read."""
        self._left -= size


class LimitedResponse(http.client.HTTPResponse):
    """http.client's answer, read within a ReadLimit."""

    def __init__(
        self, sock: Any, debuglevel: int = 0, method: str | None = None, url: str | None = None, *, limit: ReadLimit
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_LimitedReads(sock, self.fp.detach(), limit))


class _LimitedReads(io.RawIOBase):
    def __init__(self, sock: Any, raw: io.RawIOBase, limit: ReadLimit) -> None:
        """Begin.

        Args:
            sock: the socket, or what urllib3 has in its place for TLS within TLS.
            raw: reads it, and keeps it open while http.client closes it before the body is read.
        """
        self._sock = sock
        self._raw = raw
        self._limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._sock.settimeout(self._limit.seconds_left())
        size: int | None = self._raw.readinto(buffer)
        self._limit.took(size or 0)
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()
