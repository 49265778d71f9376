"""Decides how many connections one host gets: more while that brings more bytes, fewer after an overload."""

from __future__ import annotations

import math

FIRST = 4  # measured with two cores on loopback: 4 threads take the least CPU, 8 take half as much again (the GIL)
_WORTH_IT = 1.1  # more connections are kept if they are faster by this factor
_GROWTH = 1.5
_SHRINKAGE = 0.7
_REST = 8  # windows in which no more connections are tried, after a try that was not faster or an overload


class ConcurrencyLimiter:
    """Decides how many connections a host may have, once in each window of time.

    The caller holds a lock around each call, and passes the time.

    >>> limiter = ConcurrencyLimiter(window_s=1)
    >>> for now in range(6):  # each window brings as much a connection as the one before
    ...     limiter.received(limiter.allowed * 100, now, most=32, is_full=True)
    >>> limiter.allowed
    14
    >>> limiter.overloaded(6)
    >>> limiter.allowed
    9
    """

    def __init__(self, window_s: float) -> None:
        self.allowed = FIRST
        self.in_use = 0
        self._window_s = window_s
        self._began: float | None = None
        self._bytes = 0
        self._was_full = True  # whether all allowed connections were in use during the whole window
        self._rate = 0.0  # bytes a second with the number tried last; 0.0 accepts any
        self._before = FIRST  # the number to go back to if more are not faster
        self._rest = 0  # windows that are left of _REST
        self._is_settling = False  # connections were added, and this window does not count
        self._overloaded_at = -math.inf

    def received(self, size: int, now: float, *, most: int, is_full: bool) -> None:
        """Take note of `size` bytes.

        Args:
            most: connections that the caller permits.
            is_full: whether all that are allowed are in use; else the window does not tell whether more would help.
        """
        self._was_full = self._was_full and is_full
        if self._began is None:  # these bytes came before the first window
            self._began = now
            return
        self._bytes += size
        elapsed = now - self._began
        if elapsed < self._window_s:
            return
        if self._was_full:
            self._decide(self._bytes / elapsed, most)
        self._began, self._bytes, self._was_full = now, 0, True

    def overloaded(self, now: float) -> None:
        """Take note of a 429, a 503 or a lost connection; those of one window count once."""
        if now - self._overloaded_at < self._window_s:
            return
        self._overloaded_at = now
        self.allowed = max(1, math.floor(self.allowed * _SHRINKAGE))
        self._before, self._rest, self._rate, self._is_settling = self.allowed, _REST, 0.0, False

    def _decide(self, rate: float, most: int) -> None:
        if self._is_settling:  # new connections are slow at first
            self._is_settling = False
            return
        if self._rest:
            self._rest -= 1
            return
        if rate < self._rate * _WORTH_IT:
            self.allowed, self._rest, self._rate = self._before, _REST, 0.0
            return
        self._rate, self._before = rate, self.allowed
        self.allowed = min(most, math.ceil(self.allowed * _GROWTH))
        self._is_settling = True
