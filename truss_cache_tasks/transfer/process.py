"""What all pulls of one process share: the stop, the cap on connections, the rate, and the warm connections."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from truss_cache_tasks.transfer.lifeline import Lifeline

if TYPE_CHECKING:
    from truss_cache_tasks.transfer.limits import Limits

_POLL_S = 0.05


class Process:
    """One for each process: a fork begins another, since sockets and threads are the parent's."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.stopping = False
        self.allowed = 8
        self.lifelines: set[Lifeline] = set()
        self.pools: dict[Any, Any] = {}  # urllib3 PoolManagers by proxy and CA bundle
        self.lock = threading.Lock()  # of `pools` and of the rate
        self._slots = threading.Condition()
        self._in_use = 0
        self._free_at = 0.0  # when the bytes taken so far are paid for

    def stop(self) -> None:
        """End every job soon. Takes no lock: it runs in signal handlers."""
        self.stopping = True
        for lifeline in tuple(self.lifelines):
            lifeline.cut()

    def lifeline(self) -> Lifeline:
        """Return the lifeline of one job, which `stop` cuts; drop it from `lifelines` in the end."""
        lifeline = Lifeline()
        self.lifelines.add(lifeline)
        if self.stopping:  # asked after the add: whichever comes first, the job ends
            lifeline.cut()
        return lifeline

    @contextmanager
    def slot(self, limits: Limits, lifeline: Lifeline) -> Iterator[None]:
        """Hold one of the process's connections, waiting until one is free."""
        with self._slots:
            while self._in_use >= limits.connections:
                self._slots.wait(_POLL_S)
                lifeline.check()
            self._in_use += 1
        try:
            yield
        finally:
            with self._slots:
                self._in_use -= 1
                self._slots.notify()

    def pace(self, size: int, limits: Limits, lifeline: Lifeline) -> None:
        """Wait until `size` more bytes fit under `limits.max_rate`."""
        if limits.max_rate is None:
            return
        now = time.monotonic()
        with self.lock:
            start = max(now, self._free_at)
            self._free_at = start + size / limits.max_rate
        lifeline.wait(start - now)

    def close(self) -> None:
        """Close the connections that are kept warm."""
        for pool in self.pools.values():
            pool.clear()


_process = Process()


def this_process() -> Process:
    """Return what the pulls of this process share."""
    return _process


def stop() -> None:
    """Make every pull of this process end soon: running jobs come as Failed(Stopped), no further one begins.

    Safe in a signal handler. It lasts: a pull that begins later raises Stopped at once.
    """
    _process.stop()


def reset() -> None:
    """Undo `stop`, and close the connections that are kept warm."""
    global _process
    _process.close()
    _process = Process()


def _begin_again() -> None:
    global _process
    _process = Process()


os.register_at_fork(after_in_child=_begin_again)
