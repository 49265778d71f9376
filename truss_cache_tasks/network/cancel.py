"""Tokens that end work early: asked before each step and during each wait. A no-op imports this, and not `retry`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from truss_cache_tasks.errors import Stopped

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
    """A CancelToken that asks a function, such as a flag that a signal sets."""

    def __init__(self, stopped: Callable[[], bool] = lambda: False) -> None:
        self._stopped = stopped

    def check(self) -> None:
        """Raise Stopped if the function says so."""
        if self._stopped():
            raise Stopped("stopped before it was complete", hint="Run it again: what is complete is kept.")

    def wait(self, seconds: float) -> None:
        """Wait, and ask meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _POLL_S))
        self.check()


NEVER = StopPoll()  # cancels nothing
