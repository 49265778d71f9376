"""One file while it is downloaded: the state that its workers share, and what each worker does.

The order of steps of a worker (`DownloadWorker.attempt`):

1. Get ready: learn which digest is wanted, cut the file into parts, resume what an earlier run left.
2. Take a part, the first that is free, and ask for its bytes.
3. Check the answer: it may hold the whole file instead of the part.
4. Read, write and hash chunk by chunk; check that nothing follows the last one.
5. Note the part in the journal. The worker that completes the last part compares the digest and syncs the file.

Until the first answer a file has one worker, which learns the validator, the redirect, and whether the server gives
ranges; then one for each part, as far as connections allow. Starting over cancels all workers but one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace

from truss_cache_tasks.errors import CacheTaskError, Stopped, TransientError
from truss_cache_tasks.events import Received, Refetching
from truss_cache_tasks.model.hashing import Piece
from truss_cache_tasks.model.listing import Location
from truss_cache_tasks.network.exchange import RateFloor
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.retry import rule_for
from truss_cache_tasks.transfer.attempts import LocationCache, run_attempts
from truss_cache_tasks.transfer.body import BadResponse, Body, HttpStatusError, LocalBody, host_of, is_local
from truss_cache_tasks.transfer.context import TransferContext
from truss_cache_tasks.transfer.job import Done, Job
from truss_cache_tasks.transfer.partial import PartialFile
from truss_cache_tasks.transfer.parts import Part


class Download:
    """One file and its workers.

    Attributes:
        partial: its bytes.
        end: its result or error, None before that. An error that comes after the result replaces it.
    """

    def __init__(
        self, job: Job, context: TransferContext, on_work: Callable[[], None], on_host: Callable[[str], None]
    ) -> None:
        """Begin without a byte.

        Args:
            context: of the pull; each worker gets a token of its own.
            on_work: called when further workers can be of use.
            on_host: called with the host that is asked next.
        """
        self.job = job
        self.locations = LocationCache(job.locate)
        self.on_host = on_host
        self.end: Done | BaseException | None = None
        self._context = context
        self._on_work = on_work
        self._lock = threading.Lock()  # of what workers share, in the partial too
        self.partial = PartialFile(job, context.limits, self._lock)
        self._workers: set[DownloadWorker] = set()
        self._is_open = False  # an answer came: further workers may begin
        self._is_closed = False  # no further worker may begin
        self._refetched: set[Piece] = set()  # pieces that were fetched again; a second time is an error
        self._repeated: set[Piece] = set()  # parts whose request was repeated after a 416; a second time is an error

    # -- for the scheduler

    @property
    def workers(self) -> int:
        """How many workers it has. Read without the lock, on purpose: the scheduler looks again at each change."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """How many of its workers wait, and use no connection meanwhile. Read without the lock, as `workers`."""
        return sum(worker.context.token.is_waiting for worker in tuple(self._workers))

    def wanted(self) -> int:
        """Return how many further workers could begin now."""
        if self._workers and len(self.partial.parts) <= 1 and not self._is_open:
            return 0  # read without the lock, on purpose: the usual small file has all the workers that it needs
        with self._lock:
            current = [worker for worker in self._workers if not worker.superseded]
            if self._is_closed or self.end is not None:
                return 0
            if not self._is_open:
                return 0 if current else 1
            unassigned = sum(worker.part is None for worker in current)
            return max(0, len(self.partial.free_parts()) - unassigned)

    def add_worker(self) -> DownloadWorker:
        """Return a new worker."""
        worker = DownloadWorker(self, replace(self._context, token=self._context.process.new_token()))
        with self._lock:
            self._workers.add(worker)
            if self._is_closed:
                worker.context.token.cancel()
        return worker

    def remove_worker(self, worker: DownloadWorker, error: BaseException | None) -> Done | BaseException | None:
        """Take note that `worker` ended; return how the file ended, if that was the last one."""
        with self._lock:
            self._workers.discard(worker)
            self._context.process.tokens.discard(worker.context.token)
            if error is not None and not worker.superseded:
                if not isinstance(self.end, BaseException):
                    self.end = error
                self._is_closed = True
            left = tuple(self._workers)
        if isinstance(self.end, BaseException):
            for other in left:
                other.context.token.cancel()
        return None if left else self.end

    def close(self) -> None:
        """Cancel all workers and wait for their writes. After this the caller may close the descriptor."""
        with self._lock:
            self._is_closed = True
            left = tuple(self._workers)
        _cancel(left)
        for worker in left:
            self._context.process.tokens.discard(worker.context.token)

    # -- for its workers

    def assign_part(self, worker: DownloadWorker) -> Part | None:
        """Return the part of `worker`; give it the first free one if it has none. None if none is free."""
        with self._lock:
            if worker.part is None and not worker.superseded:
                worker.part = next(iter(self.partial.free_parts()), None)
                if worker.part is not None:
                    worker.part.taken = True
            return worker.part

    def answered(self, worker: DownloadWorker, location: Location, body: Body) -> None:
        """Take note of an answer. If it holds the whole file and not the worker's part, start over with one part."""
        part, partial = worker.current_part, self.partial
        if (body.start, body.end) != (part.at, part.end):  # this server ignores ranges
            partial.is_uncut = True
            self.start_over(worker, [partial.whole])
            worker.check()  # raises if another worker got such an answer first, and superseded this one
        with self._lock:
            worker.check()  # a superseded worker must not bring back what the start over forgot
            partial.validator = location.validator or body.validator or partial.validator
        if location.digest_from_headers is not None and (body.start, body.end) == partial.whole:
            partial.expect(location.digest_from_headers(body.headers))
        if body.reached is not None and len(partial.parts) > 1:
            self.locations.follow(body.reached)
        if not self._is_open:
            with self._lock:
                worker.check()
                self._is_open = True
            if len(partial.parts) > 1:
                self._on_work()

    def chunk_written(self, worker: DownloadWorker, chunk: memoryview, buffer: memoryview) -> None:
        """Take note of `chunk`, the next bytes of the worker's part, which are written; `buffer` is scratch memory."""
        part, partial = worker.current_part, self.partial
        partial.hash_chunk(part, chunk)  # before `part.at` grows: once the part is complete, its digests are used
        with self._lock:
            worker.check()
            offset, size = part.at, len(chunk)
            part.at += size
            partial.have += size
        # Before anything can raise: the Reporter must be told of all bytes that `have` counts.
        self._context.reporter(Received(path=self.job.file.path, size=size))
        partial.hash_in_order(part, chunk, offset, buffer, worker.context.token.check)

    def part_completed(self, worker: DownloadWorker, buffer: memoryview) -> None:
        """Hash what the worker's part added to the prefix; finish the file if that was the last part.

        Raises:
            BadResponse: the bytes of the file have another digest.
        """
        partial, token = self.partial, worker.context.token
        if worker.part is not None:
            partial.note(worker.part, token, worker.check)
        partial.catch_up(buffer, token.check)
        with self._lock:
            parts = [] if worker.superseded else partial.take_complete()
        if parts:
            done = partial.finish(parts, token, buffer, self._context.reporter)
            with self._lock:
                self.end = self.end or done

    def refetch(self, worker: DownloadWorker, bad: BadResponse) -> None:
        """Start over with the bytes in question, once; the second time raise the error of `bad`."""
        pieces = bad.pieces or [self.partial.whole]
        with self._lock:
            worker.check()
            if not self._refetched.isdisjoint(pieces):
                raise bad.error from bad
            self._refetched.update(pieces)
        self._context.reporter(Refetching(path=self.job.file.path, cause=str(bad.error)))
        self.start_over(worker, pieces)

    def repeat_once(self, worker: DownloadWorker, error: CacheTaskError) -> None:
        """Take note that the rest of the worker's part is asked for again; the second time raise `error`."""
        with self._lock:
            worker.check()
            piece = Piece(worker.current_part.start, worker.current_part.end)
            if piece in self._repeated:
                raise error
            self._repeated.add(piece)

    def start_over(self, worker: DownloadWorker, pieces: Sequence[Piece]) -> None:
        """Forget the bytes of the parts that hold bytes of `pieces`.

        1. Take all parts away, so that no worker gets one, and mark the other workers as superseded.
        2. Cancel these and wait for their writes. Where parts are kept this loses no work: then single pieces are
           wrong, which is found only when all parts are complete.
        3. Revoke the lost parts in the journal.
        4. Put the parts back, the lost ones without a byte, and give `worker` the first of these.
        """
        partial = self.partial
        with self._lock:
            worker.check()
            others = [other for other in self._workers if other is not worker]
            for other in others:
                other.superseded = True
            worker.part = None
            parts, lost, size = partial.remove_parts(pieces)
            if len(lost) == len(parts):
                self._is_open = False
        if size:
            self._context.reporter(Received(path=self.job.file.path, size=-size))
        _cancel(others)
        partial.forget(parts, lost, worker.context.token)
        with self._lock:
            partial.restore_parts(parts, lost)
            worker.part = next(part for part in partial.parts if not part.taken)
            worker.part.taken = True
        self._on_work()


class DownloadWorker:
    """One thread's work on one part of one file.

    Attributes:
        context: with a token of its own.
        part: None until it has one.
        superseded: the file starts over without it. Written under the lock of its Download.
    """

    def __init__(self, download: Download, context: TransferContext) -> None:
        self.context = context
        self.part: Part | None = None
        self.superseded = False
        self._download = download

    def run(self) -> None:
        """Fetch one part of the file, and finish the file if that was the last one. Raises CacheTaskError."""
        download = self._download
        run_attempts(self, download.job.file, download.locations, download.job.explain, self.context)

    def check(self) -> None:
        """Raise Stopped if it is superseded or cancelled. It cannot become superseded while the file's lock is held."""
        if self.superseded:
            raise Stopped("the file starts over")
        self.context.token.check()

    @property
    def current_part(self) -> Part:
        """The part that it has."""
        assert self.part is not None, "a part is assigned before its bytes are asked for"
        return self.part

    # -- as a Task of `attempts`

    @property
    def have(self) -> int:
        """Bytes of the file that are there."""
        return self._download.partial.have

    def refetch(self, bad: BadResponse, /) -> None:
        """Start over with the bytes in question, once; see Download.refetch."""
        self._download.refetch(self, bad)

    def repeat_once(self, error: CacheTaskError, /) -> None:
        """Allow one more request for the rest of the part; see Download.repeat_once."""
        self._download.repeat_once(self, error)

    def attempt(self, location: Location, /) -> None:
        """Fetch the rest of the part, from where the last attempt ended; the steps are those of the module."""
        download, process, token = self._download, self.context.process, self.context.token
        partial = download.partial
        host = host_of(location)
        download.on_host(host)
        if not partial.is_ready:
            with self._scratch() as buffer:
                partial.prepare(location, token, buffer, self.context.reporter)
        try:
            with self._slot(location, host) as received:
                part = download.assign_part(self)  # after it got a connection, so that parts begin in order
                if part is not None and not (part.complete and download.job.file.size):
                    if partial.is_unversioned(location):
                        download.start_over(self, [partial.whole])
                    self._read_on(location, received)
        except HttpStatusError as exc:
            if rule_for(exc.status).is_overload:
                process.overloaded(host)
            raise
        except TransientError:
            if not token.is_cancelled:
                process.overloaded(host)
            raise
        with self._scratch() as buffer:
            download.part_completed(self, buffer)

    def _slot(self, location: Location, host: str) -> AbstractContextManager[Callable[[int], None]]:
        if is_local(location):  # a disk has no limit of connections
            return nullcontext(lambda _size: None)
        return self.context.process.slot(host, self.context.limits, self.context.token)

    def _scratch(self) -> AbstractContextManager[memoryview]:
        return self.context.process.buffer(self.context.limits.buffer)

    def _read_on(self, location: Location, received: Callable[[int], None]) -> None:
        with closing(self._open(location)) as body, self._scratch() as buffer:
            self._download.answered(self, location, body)
            self._copy(body, buffer, received)
            body.finish()

    def _open(self, location: Location) -> Body:
        part, partial = self.current_part, self._download.partial
        file, span = self._download.job.file, (part.at, part.end)
        if is_local(location):
            return LocalBody(file, location, *span)
        with IMPORTS:
            from truss_cache_tasks.transfer.http_body import open_body  # urllib3, which a local file does not need

        return open_body(file, location, span, partial.validator, self.context, has_digest=partial.has_digest)

    def _copy(self, body: Body, buffer: memoryview, received: Callable[[int], None]) -> None:
        file, part, limits = self._download.job.file, self.current_part, self.context.limits
        limit = limits.buffer
        if limits.max_rate is not None:  # what comes in an eighth of a second at this rate, so that no wait is long
            limit = max(1, min(limit, limits.max_rate // 8))
        floor = RateFloor(limits.floor, limits.floor_s)  # times reads alone, not the waits for the disk and the rate
        while part.at < part.end:
            began = time.monotonic()
            size = body.readinto(buffer[: min(limit, part.end - part.at)])
            if not size:
                raise TransientError(f"{file.path}: the connection was closed after {part.at} of {file.size} bytes")
            if floor.is_too_slow(size, time.monotonic() - began):
                raise TransientError(f"{file.path}: the connection brings less than {limits.floor:.0f} bytes a second")
            self.context.process.pace(size, limits, self.context.token)
            chunk = buffer[:size]
            self._download.partial.write(chunk, part.at, self.context.token)
            self._download.chunk_written(self, chunk, buffer)
            received(size)


def _cancel(workers: Sequence[DownloadWorker]) -> None:
    """Cancel `workers`, and return once none of them writes any more."""
    for worker in workers:
        worker.context.token.cancel()
    for worker in workers:
        worker.context.token.wait_for_write()
