"""What all pulls of one process share: the stop, the cap on connections, the rate, and the warm connections."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from truss_cache_tasks.transfer.gauge import FIRST, Gauge
from truss_cache_tasks.transfer.lifeline import Lifeline

if TYPE_CHECKING:
    from truss_cache_tasks.transfer.limits import Limits

_POLL_S = 0.05


class Process:
    """One for each process: a fork begins another, since sockets and threads are the parent's."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.stopping = False
        self.lifelines: set[Lifeline] = set()
        self.pools: dict[Any, Any] = {}  # urllib3 PoolManagers by proxy and CA bundle
        self.scheduler: Any = None  # the engine's, with the first pull
        self.lock = threading.Lock()  # of these two and of the rate
        self._slots = threading.Condition()
        self._in_use = 0
        self._gauges: dict[str, Gauge] = {}  # by host
        self._buffers: list[memoryview] = []  # that nobody uses now
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

    def allowed(self, host: str | None) -> int:
        """Return how many connections `host` may have; None is one that nobody knows yet: one finds out."""
        if host is None:
            return 1
        gauge = self._gauges.get(host)
        return gauge.allowed if gauge is not None else FIRST

    @contextmanager
    def slot(self, host: str, limits: Limits, lifeline: Lifeline) -> Iterator[Callable[[int], None]]:
        """Hold one of the host's connections, waiting until one is free; yields what is told of the bytes it brings."""
        with self._slots:
            gauge = self._gauges.setdefault(host, Gauge(limits.window_s))
            while self._in_use >= limits.connections or gauge.in_use >= gauge.allowed:
                self._slots.wait(_POLL_S)
                lifeline.check()
            self._in_use += 1
            gauge.in_use += 1

        def took(size: int) -> None:
            with self._slots:
                is_full = gauge.in_use >= min(gauge.allowed, limits.connections)
                gauge.took(size, time.monotonic(), most=limits.connections, is_full=is_full)

        try:
            yield took
        finally:
            with self._slots:
                self._in_use -= 1
                gauge.in_use -= 1
                self._slots.notify(1 if len(self._gauges) == 1 else len(self._gauges))

    @contextmanager
    def buffer(self, size: int) -> Iterator[memoryview]:
        """Lend memory for the block: there is as much as was in use at once, however many threads wait for a turn."""
        try:
            piece = self._buffers.pop()
        except IndexError:
            piece = memoryview(b"")
        if len(piece) != size:
            piece = memoryview(bytearray(size))
        try:
            yield piece
        finally:
            self._buffers.append(piece)

    def complained(self, host: str) -> None:
        """Take note that `host` has too many connections, or loses them."""
        with self._slots:
            if host in self._gauges:
                self._gauges[host].complained(time.monotonic())

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
