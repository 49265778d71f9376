"""One file from its location into its partial: tried again, started over, verified, or failed in plain words."""

from __future__ import annotations

import errno
import os
from contextlib import closing, nullcontext

from truss_cache_tasks.errors import IntegrityError, StoreError, Unavailable
from truss_cache_tasks.planning.digests import Hasher
from truss_cache_tasks.planning.listing import Location, RemoteFile
from truss_cache_tasks.transfer.answers import Body, Wrong
from truss_cache_tasks.transfer.job import Done, Job, Report
from truss_cache_tasks.transfer.means import Means
from truss_cache_tasks.transfer.persisting import persist

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def fetch(job: Job, report: Report, means: Means) -> Done:
    """Move all bytes of `job` into its partial. Raises CacheTaskError; Stopped if the lifeline is cut."""
    fetching = _Fetching(job, report, means)
    persist(fetching, job.file, job.locate, job.explain, means)
    return fetching.done()


def is_local(location: Location) -> bool:
    """Whether the bytes are on a disk of this machine."""
    return location.url.startswith("file:")


class _Fetching:
    """What is known of one file while it comes: the bytes that are there are a prefix, hashed and written."""

    def __init__(self, job: Job, report: Report, means: Means) -> None:
        self.job = job
        self.have = 0
        self._report = report
        self._means = means
        self._lifeline = means.lifeline
        self._hasher: Hasher | None = None  # once a location told which digest is wanted
        self._validator: str | None = None  # of the bytes that are there

    def attempt(self, location: Location) -> None:
        """Read on from where the last attempt ended, to the end. Raises as `answers` says."""
        file = self.job.file
        if self._hasher is None:
            self._hasher = Hasher(file.size, file.digest or location.digest)
        if self._validator is None and self._hasher.want is None:
            self.start_over()  # nothing could tell whether the rest belongs to the same version
        with nullcontext() if is_local(location) else self._means.process.slot(self._means.limits, self._lifeline):
            self._read_on(location)
        if not self._hasher.matches:
            got, want = self._hasher.digest(), self._hasher.want
            raise Wrong(
                IntegrityError(f"{file.path}: got {got}, want {want}", hint="Run it again; see docs/errors.md.")
            )

    def start_over(self) -> None:
        """Forget the bytes that are there."""
        if self.have:
            self._report(self.job.file, -self.have)
        self.have = 0
        self._validator = None
        if self._hasher is not None:
            self._hasher = Hasher(self._hasher.size, self._hasher.want)

    def done(self) -> Done:
        """Return the result, once an attempt came through; the partial gets its exact length."""
        assert self._hasher is not None
        file = self.job.file
        try:
            if os.fstat(self.job.partial.descriptor).st_size != file.size:
                with self._lifeline.writing:
                    self._lifeline.check()
                    os.ftruncate(self.job.partial.descriptor, file.size)
        except OSError as exc:
            raise _disk_error(file, exc) from exc
        return Done(self.job, self._hasher.want, self._hasher.xxh3())

    def _read_on(self, location: Location) -> None:
        with closing(self._open(location)) as body:
            if body.start != self.have:
                self.start_over()
            self._validator = body.validator
            self._copy(body)
            body.finish()

    def _copy(self, body: Body) -> None:
        file, hasher = self.job.file, self._hasher
        assert hasher is not None
        limits = self._means.limits
        limit = limits.buffer
        if limits.max_rate is not None:  # waits of an eighth of a second at most, so that it flows
            limit = max(1, min(limit, limits.max_rate // 8))
        while self.have < file.size:
            chunk = body.read(min(limit, file.size - self.have))
            if not chunk:
                raise Unavailable(f"{file.path}: the connection was closed after {self.have} of {file.size} bytes")
            self._means.process.pace(len(chunk), limits, self._lifeline)
            self._write(memoryview(chunk))
            hasher.update(chunk)
            self.have += len(chunk)
            self._report(file, len(chunk))

    def _write(self, chunk: memoryview) -> None:
        """Write `chunk` at its offset. Outside of every network guard: a full disk is not to be tried again."""
        offset = self.have
        with self._lifeline.writing:  # the descriptor may be closed as soon as the lifeline is cut and settled
            self._lifeline.check()
            while chunk:
                try:
                    written = os.pwrite(self.job.partial.descriptor, chunk, offset)
                except OSError as exc:
                    raise _disk_error(self.job.file, exc) from exc
                chunk = chunk[written:]
                offset += written
        self._lifeline.check()

    def _open(self, location: Location) -> Body:
        file = self.job.file
        if is_local(location):
            from truss_cache_tasks.transfer.local import LocalBody

            return LocalBody(file, location, self.have, self._means.limits.buffer)
        from truss_cache_tasks.transfer.http import open_body

        return open_body(file, location, self.have, self._validator, self._means)


def _disk_error(file: RemoteFile, exc: OSError) -> StoreError:
    said = (exc.strerror or str(exc)).lower()
    hint = "Free space on the cache's disk." if exc.errno in _FULL else "Look after the cache's disk."
    return StoreError(f"{file.path}: cannot write to the cache: {said}", hint=hint)
