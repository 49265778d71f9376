"""Tokens that cancel work: checked before each step and during each wait.

A run without work imports this module, and not `retry`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from truss_cache_tasks.errors import RESUME, Stopped

_POLL_S = 0.05


class CancelToken(Protocol):
    """Tells whether work is cancelled, and ends waits when it is."""

    def check(self) -> None:
        """Raise Stopped if the work is cancelled."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait; raise Stopped as soon as the work is cancelled."""
        ...


class StopPoll:
    """A CancelToken that calls a function, such as one that reads a flag which a signal sets."""

    def __init__(self, stopped: Callable[[], bool] = lambda: False) -> None:
        self._stopped = stopped

    def check(self) -> None:
        """Raise Stopped if the function says so."""
        if self._stopped():
            raise Stopped("stopped before it was complete", hint=RESUME)

    def wait(self, seconds: float) -> None:
        """Wait; raise Stopped as soon as the function says so."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _POLL_S))
        self.check()


NEVER = StopPoll()  # is never cancelled


class Breakable(Protocol):
    """A connection that another thread can end."""

    def shut_down(self, owner: WorkerToken) -> None:
        """Make reads and writes fail at once, if the connection serves `owner` now."""


class WorkerToken:
    """The CancelToken of one worker thread: any other thread ends its wait, connect, read or write by `cancel`.

    `cancel` sets an attribute and shuts a socket down, and takes no lock, since a signal handler may call it in the
    very thread that holds one. That is why waits poll, and there is no threading.Event.

    Attributes:
        is_cancelled: written by any thread and read without a lock, on purpose: it only ever turns True.
        is_waiting: the thread waits for something that is no connection of ours. Read without a lock, on purpose:
            the scheduler looks again at each change, and at least once a second.
        connection: what `cancel` shuts down.
        writing: held around each write and the check before it.
    """

    def __init__(self) -> None:
        self.is_cancelled = False
        self.is_waiting = False
        self.connection: Breakable | None = None
        self.writing = threading.Lock()

    def cancel(self) -> None:
        """End the work soon. Safe in a signal handler."""
        self.is_cancelled = True
        connection = self.connection
        if connection is not None:
            connection.shut_down(self)

    def wait_for_write(self) -> None:
        """Return once no write is under way. After `cancel`, none begins any more."""
        with self.writing:
            pass

    def check(self) -> None:
        """Raise Stopped if the work is cancelled."""
        if self.is_cancelled:
            raise Stopped("stopped before it was complete", hint=RESUME)

    def wait(self, seconds: float) -> None:
        """Wait; raise Stopped as soon as the work is cancelled."""
        until = time.monotonic() + seconds
        with self.waiting():
            while True:
                self.check()
                left = until - time.monotonic()
                if left <= 0:
                    return
                time.sleep(min(left, _POLL_S))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the thread as waiting while the block runs, so that another thread may work meanwhile."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False
