"""How a job is ended from outside, wherever its thread stands: in a wait, a connect, a read or a write."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from truss_cache_tasks.errors import Stopped

_POLL_S = 0.05


class Breakable(Protocol):
    """A connection that another thread can end."""

    def shut_down(self, owner: Lifeline) -> None:
        """Make reads and writes fail at once, if the connection serves `owner` now."""


class Lifeline:
    """Asked by a job's thread before it blocks and before it writes; cut by any other thread.

    Cutting sets an attribute and shuts a socket down, and takes no lock, since a signal handler may do it while the
    very thread that it interrupts holds one. That is why waits poll, and no threading.Event is here.
    """

    def __init__(self) -> None:
        self.is_cut = False
        self.is_away = False  # waits for something that is no connection of ours
        self.connection: Breakable | None = None
        self.writing = threading.Lock()  # held around each write and the check before it

    def cut(self) -> None:
        """End the job soon."""
        self.is_cut = True
        connection = self.connection
        if connection is not None:
            connection.shut_down(self)

    def settle(self) -> None:
        """Return once no write is under way. After `cut`, none begins any more."""
        with self.writing:
            pass

    def check(self) -> None:
        """Raise Stopped if the lifeline is cut."""
        if self.is_cut:
            raise Stopped("stopped before it was complete", hint="Run it again: what is complete is kept.")

    def wait(self, seconds: float) -> None:
        """Wait; raise Stopped as soon as the lifeline is cut."""
        until = time.monotonic() + seconds
        with self.away():
            while True:
                self.check()
                left = until - time.monotonic()
                if left <= 0:
                    return
                time.sleep(min(left, _POLL_S))

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let another thread do something meanwhile."""
        self.is_away = True
        try:
            yield
        finally:
            self.is_away = False
