"""The TransferContext that each worker is given, and the ProcessState that all pulls of a process share."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from truss_cache_tasks.network.cancel import WorkerToken
from truss_cache_tasks.transfer.limiter import FIRST, ConcurrencyLimiter

if TYPE_CHECKING:
    from truss_cache_tasks.events import Reporter
    from truss_cache_tasks.network.settings import Network
    from truss_cache_tasks.transfer.limits import Limits

_POLL_S = 0.05


class ProcessState:
    """What all pulls of one process share. A forked process gets a new one: sockets and threads are the parent's.

    Attributes:
        stopping: only ever turns True; read without a lock, on purpose.
        tokens: of all workers. A signal handler copies the set without a lock: adding and discarding are one step each.
        pools: urllib3 PoolManagers by proxy, CA bundle and whether TLS is needed.
        scheduler: None until the first pull.
        lock: protects `pools`, `scheduler` and `_paid_until`.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.stopping = False
        self.tokens: set[WorkerToken] = set()
        self.pools: dict[Any, Any] = {}
        self.scheduler: Any = None
        self.lock = threading.Lock()
        self._slots = threading.Condition()  # protects the next two
        self._in_use = 0  # connections
        self._limiters: dict[str, ConcurrencyLimiter] = {}  # by host
        self._buffers: list[memoryview] = []  # that nothing uses now; `pop` and `append` are one step each
        self._paid_until = 0.0  # from then on, the bytes received so far are within `max_rate`

    def stop(self) -> None:
        """End every job soon. Takes no lock: it runs in signal handlers."""
        self.stopping = True
        for token in tuple(self.tokens):
            token.cancel()

    def new_token(self) -> WorkerToken:
        """Return the token of one worker, which `stop` cancels. When the worker ends, discard it from `tokens`."""
        token = WorkerToken()
        self.tokens.add(token)
        if self.stopping:  # checked after the add: an earlier `stop` is seen here, a later one finds the token
            token.cancel()
        return token

    def allowed(self, host: str | None) -> int:
        """Return how many connections `host` may have; 1 for None, a host that is not known before the first request.

        Reads without the lock, on purpose: a limiter may allow more or fewer a moment later anyway.
        """
        if host is None:
            return 1
        limiter = self._limiters.get(host)
        return limiter.allowed if limiter is not None else FIRST

    @contextmanager
    def slot(self, host: str, limits: Limits, token: WorkerToken) -> Iterator[Callable[[int], None]]:
        """Wait for one of the host's connections and hold it; yield a function to call with each number of bytes."""
        with self._slots:
            limiter = self._limiters.setdefault(host, ConcurrencyLimiter(limits.window_s))
            while self._in_use >= limits.connections or limiter.in_use >= limiter.allowed:
                self._slots.wait(_POLL_S)
                token.check()
            self._in_use += 1
            limiter.in_use += 1

        def received(size: int) -> None:
            with self._slots:
                is_full = limiter.in_use >= min(limiter.allowed, limits.connections)
                limiter.received(size, time.monotonic(), most=limits.connections, is_full=is_full)

        try:
            yield received
        finally:
            with self._slots:
                self._in_use -= 1
                limiter.in_use -= 1
                self._slots.notify(len(self._limiters))  # they wait for different hosts; one that is not notified polls

    @contextmanager
    def buffer(self, size: int) -> Iterator[memoryview]:
        """Lend `size` bytes of memory for the block; keep them for later: as many buffers as were ever lent at once."""
        try:
            lent = self._buffers.pop()
        except IndexError:
            lent = memoryview(b"")
        if len(lent) != size:
            lent = memoryview(bytearray(size))
        try:
            yield lent
        finally:
            self._buffers.append(lent)

    def overloaded(self, host: str) -> None:
        """Allow `host` fewer connections: it answered that it has too many, or one of them was lost."""
        with self._slots:
            if host in self._limiters:
                self._limiters[host].overloaded(time.monotonic())

    def pace(self, size: int, limits: Limits, token: WorkerToken) -> None:
        """Wait until `size` more bytes fit under `limits.max_rate`."""
        if limits.max_rate is None:
            return
        now = time.monotonic()
        with self.lock:
            start = max(now, self._paid_until)
            self._paid_until = start + size / limits.max_rate
        token.wait(start - now)

    def close(self) -> None:
        """Close the connections that are kept for reuse."""
        for pool in self.pools.values():
            pool.clear()


@dataclass(frozen=True, kw_only=True, repr=False)
class TransferContext:
    """What one worker works with.

    Attributes:
        limits, network, reporter: of the pull that the worker serves.
        process: what all pulls share.
        token: of this worker alone.
    """

    limits: Limits
    network: Network
    reporter: Reporter
    process: ProcessState
    token: WorkerToken


_process = ProcessState()


def this_process() -> ProcessState:
    """Return what the pulls of this process share."""
    return _process


def stop() -> None:
    """Make every pull of this process end soon: running jobs come as Failed(Stopped), no further one begins.

    Safe in a signal handler. It stays so until `reset`: a pull that begins later raises Stopped at once.
    """
    _process.stop()


def reset() -> None:
    """Undo `stop`, and close the connections that are kept for reuse."""
    global _process
    _process.close()
    _process = ProcessState()


def _reset_after_fork() -> None:
    global _process
    _process = ProcessState()


os.register_at_fork(after_in_child=_reset_after_fork)
