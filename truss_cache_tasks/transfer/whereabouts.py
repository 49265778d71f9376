"""Where one file can be read now: asked once for all its parts, and again when the answer went stale."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from truss_cache_tasks.model.listing import Location
from truss_cache_tasks.transfer.lifeline import Lifeline

_EARLY_S = 5.0  # a location this near to its expiry is asked for again
_POLL_S = 0.05
_REFUSALS = 3  # of what redirects led to, before each part asks the long way


class Whereabouts:
    """The location of one file, shared by the threads that fetch its parts."""

    def __init__(self, locate: Callable[[], Location]) -> None:
        self._locate = locate
        self._lock = threading.Lock()
        self._location: Location | None = None
        self._reached: Location | None = None  # where its redirects lead to: one resolve serves all parts
        self._refusals = 0  # of such
        self._renewed_at = -1  # bytes of the file that were there when a refused location was given up

    def get(self, lifeline: Lifeline) -> Location:
        """Return the location, asking for it if need be. Raises what `locate` raises, or Stopped."""
        while not self._lock.acquire(timeout=_POLL_S):  # another part's thread is asking
            lifeline.check()
        try:
            lifeline.check()
            location = self._location
            if location is None or (location.expires is not None and location.expires - _EARLY_S <= time.time()):
                self._reached = None
                with lifeline.away():
                    self._location = location = self._locate()
            return self._reached or location
        finally:
            self._lock.release()

    def follow(self, reached: Location) -> None:
        """Send the next parts straight to where the redirects led."""
        with self._lock:
            if self._location is not None and self._refusals < _REFUSALS:
                self._reached = reached

    def go_back(self, failed: Location) -> bool:
        """Whether `get` answers otherwise than `failed`: what redirects led to goes stale sooner than they do."""
        with self._lock:
            if self._reached is failed:
                self._reached = None
                self._refusals += 1
            return failed is not self._location

    def give_up(self, refused: Location, have: int) -> bool:
        """Whether there is, or `get` will ask for, another location than the one that was refused.

        A credential that expired on the way looks like a wrong one, so a fresh one is asked for: once, and once more
        whenever the last one brought bytes.

        Args:
            have: bytes of the file that are there.
        """
        with self._lock:
            if self._location is not refused:
                return True  # another part met the same, and was faster
            if have <= self._renewed_at:
                return False
            self._renewed_at, self._location = have, None
            return True
