"""What one worker does with its part: ask, read, write, tell; tried again by `persist`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from urllib.parse import urlsplit

from truss_cache_tasks.errors import TransientError
from truss_cache_tasks.model.hashing import Piece
from truss_cache_tasks.model.listing import Location
from truss_cache_tasks.network.retry import rule_for
from truss_cache_tasks.transfer.answers import Body, Refused, Wrong
from truss_cache_tasks.transfer.disk import disk_errors, write
from truss_cache_tasks.transfer.fetching import Fetching
from truss_cache_tasks.transfer.limits import Limits
from truss_cache_tasks.transfer.persisting import persist
from truss_cache_tasks.transfer.worker import Worker


def work(fetching: Fetching, worker: Worker) -> None:
    """Bring one part of the file, and judge the file if that was the last one. Raises CacheTaskError."""
    task = _Task(fetching, worker)
    persist(task, fetching.job.file, fetching.whereabouts, fetching.job.explain, worker.means)


def is_local(location: Location) -> bool:
    """Whether the bytes are on a disk of this machine."""
    return location.url.startswith("file:")


def host_of(location: Location) -> str:
    """Return what one limiter is for: the host and port that are asked first, redirects or not."""
    return urlsplit(location.url).netloc


def _free_slot() -> AbstractContextManager[Callable[[int], None]]:
    """A local disk is no host: as many as there are threads."""
    return nullcontext(lambda _size: None)


class _Task:
    def __init__(self, fetching: Fetching, worker: Worker) -> None:
        self._fetching = fetching
        self._worker = worker
        self._means = worker.means

    @property
    def have(self) -> int:
        return self._fetching.have

    @property
    def piece(self) -> Piece:
        part = self._worker.part
        assert part is not None, "what is asked for was assigned"
        return Piece(part.start, part.end)

    def attempt(self, location: Location, /) -> None:
        """Read on from where the last attempt ended, to the part's end."""
        fetching, means = self._fetching, self._means
        host = host_of(location)
        fetching.reads_from(host)
        if not fetching.is_ready:
            with self._scratch() as buffer:
                fetching.prepare(location, self._worker, buffer)
        try:
            with _free_slot() if is_local(location) else means.process.slot(host, means.limits, means.lifeline) as took:
                part = fetching.assign(self._worker)  # only now: the parts of a file begin in order
                if part is not None and not (part.complete and fetching.job.file.size):
                    fetching.forget_unnamed(self._worker, location)
                    self._read_on(location, took)
        except Refused as exc:
            if rule_for(exc.status).is_overload:
                means.process.complained(host)
            raise
        except TransientError:
            if not means.lifeline.is_cut:
                means.process.complained(host)
            raise
        with self._scratch() as buffer:
            fetching.completed(self._worker, buffer)

    def start_over(self, wrong: Wrong, /) -> None:
        self._fetching.wrong(self._worker, wrong)

    def _read_on(self, location: Location, took: Callable[[int], None]) -> None:
        with closing(self._open(location)) as body, self._scratch() as buffer:
            self._fetching.answered(self._worker, location, body)
            self._copy(body, buffer, took)
            body.finish()

    def _open(self, location: Location) -> Body:
        fetching, part = self._fetching, self._worker.part
        assert part is not None
        file, span = fetching.job.file, (part.at, part.end)
        if is_local(location):
            from truss_cache_tasks.transfer.local import LocalBody

            return LocalBody(file, location, *span)
        from truss_cache_tasks.transfer.http import open_body

        return open_body(file, location, span, fetching.validator, self._means, has_digest=fetching.has_digest)

    def _scratch(self) -> AbstractContextManager[memoryview]:
        return self._means.process.buffer(self._means.limits.buffer)

    def _copy(self, body: Body, buffer: memoryview, took: Callable[[int], None]) -> None:
        file, part = self._fetching.job.file, self._worker.part
        assert part is not None
        limits = self._means.limits
        limit = limits.buffer
        if limits.max_rate is not None:  # waits of an eighth of a second at most, so that it flows
            limit = max(1, min(limit, limits.max_rate // 8))
        trickle = _Trickle(limits)
        while part.at < part.end:
            began = time.monotonic()
            size = body.readinto(buffer[: min(limit, part.end - part.at)])
            if not size:
                raise TransientError(f"{file.path}: the connection was closed after {part.at} of {file.size} bytes")
            if trickle.note(size, time.monotonic() - began):
                raise TransientError(f"{file.path}: the connection brings less than {limits.floor:.0f} bytes a second")
            self._means.process.pace(size, limits, self._means.lifeline)
            chunk = buffer[:size]
            self._write(chunk, part.at)
            self._fetching.arrived(self._worker, chunk, buffer)
            took(size)

    def _write(self, chunk: memoryview, offset: int) -> None:
        lifeline = self._means.lifeline
        with lifeline.writing:  # the descriptor may be closed as soon as the lifeline is cut and settled
            lifeline.check()
            with disk_errors(self._fetching.job.file):
                write(self._fetching.job.partial.descriptor, chunk, offset)
        lifeline.check()


class _Trickle:
    """Watches how fast a connection brings bytes, waits for the disk and for the rate left out."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._seconds = 0.0

    def note(self, size: int, seconds: float) -> bool:
        """Whether it was too slow for too long."""
        self._bytes += size
        self._seconds += seconds
        if self._seconds < self._limits.floor_s:
            return False
        too_slow = self._bytes < self._limits.floor * self._seconds
        self._bytes, self._seconds = 0, 0.0
        return too_slow
