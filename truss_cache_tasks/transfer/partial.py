"""The partial of one file: the descriptor that its bytes are written to, its parts, its journal and its verifier."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.events import Received, Reporter, Verified, Warned
from truss_cache_tasks.model.hashing import Piece
from truss_cache_tasks.model.listing import Digest, Location, RemoteFile
from truss_cache_tasks.network.cancel import WorkerToken
from truss_cache_tasks.transfer.job import Done, Job
from truss_cache_tasks.transfer.limits import Limits
from truss_cache_tasks.transfer.parts import Journal, JournalEntry, Part, cut, overlapping, part_size, resume
from truss_cache_tasks.transfer.verifier import Verifier

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ESPIPE}


@contextmanager
def disk_errors(file: RemoteFile) -> Iterator[None]:
    """Translate an OSError of the block to a DiskError, which is final. Put no call of the network into the block."""
    try:
        yield
    except OSError as exc:
        said = (exc.strerror or str(exc)).lower()
        hint = "Free space on the cache's disk." if exc.errno in _FULL else "Check the cache's disk."
        raise DiskError(f"{file.path}: cannot write to the cache: {said}", hint=hint) from exc


# -- bytes


def write(descriptor: int, chunk: memoryview, offset: int) -> None:
    """Write all of `chunk` at `offset`."""
    while chunk:
        written = os.pwrite(descriptor, chunk, offset)
        chunk = chunk[written:]
        offset += written


def sync(descriptor: int, size: int) -> None:
    """Make the file exactly `size` bytes long, and sync it."""
    if os.fstat(descriptor).st_size != size:
        os.ftruncate(descriptor, size)
    try:
        os.fsync(descriptor)
    except OSError as exc:  # some FUSE disks have no fsync, and fail with EINVAL
        if exc.errno not in _UNSUPPORTED:
            raise


class PartialFile:
    """The bytes of one file: those that are there, and how the file is cut into parts.

    Everything that workers share is written under `lock`, which is that of the Download. Read without it, on purpose:
    `is_ready` and `is_uncut`, which only the first worker writes; `have` and `validator`, which another worker may be
    about to reset (then this one is superseded, and may not write); `parts`, while the file has one worker.

    Attributes:
        parts: all of the file, in order; [] before it is ready, and while it starts over.
        have: bytes that are there.
        validator: of the answers that brought them.
        is_ready: whether it is known which digest is wanted and how the file is cut.
        is_uncut: whether it has to come in one part: nothing could tell whether parts are of one version, or the server
            ignores ranges.
        is_compared: whether a worker compares the bytes with the digest, or has done it.
    """

    def __init__(self, job: Job, limits: Limits, lock: threading.Lock) -> None:
        self.parts: list[Part] = []
        self.have = 0
        self.validator: str | None = None
        self.is_ready = False
        self.is_uncut = False
        self.is_compared = False
        self._job = job
        self._limits = limits
        self._lock = lock
        self._journal: Journal | None = None  # None where nothing is to be kept
        self._verifier = Verifier(job.file, job.partial.descriptor, limits, accept_unverified=job.accept_unverified)

    @property
    def whole(self) -> Piece:
        """All of the file."""
        return Piece(0, self._job.file.size)

    @property
    def has_digest(self) -> bool:
        """Whether it is known by now what the bytes will be compared with."""
        return self._verifier.want is not None

    def is_unversioned(self, location: Location) -> bool:
        """Return whether nothing could tell that the rest is of the same version as the bytes that are there."""
        return bool(self.have) and self.validator is None and not (self.has_digest or location.pins_version)

    def expect(self, want: Digest | None) -> None:
        """Set the digest to compare with, unless one is known already. Call it before the first byte comes."""
        if want is not None and not self.has_digest:
            with self._lock:
                self._verifier.expect(want)

    # -- before the first byte

    def prepare(self, location: Location, token: WorkerToken, buffer: memoryview, reporter: Reporter) -> None:
        """Decide which digest is wanted, cut the file, resume what an earlier run left; `buffer` is scratch memory."""
        file = self._job.file
        want = file.digest or location.digest
        if want is None and location.validator is None and not location.pins_version:
            self.is_uncut = True
        parts = self._cut()
        if want is None and location.fetch_digest is not None and len(parts) > 1:
            with token.waiting():
                want = location.fetch_digest()
        self._verifier.expect(want)
        if len(parts) > 1:
            with disk_errors(file), token.writing:
                token.check()
                self._resume(parts, location, token.check, buffer, reporter)
        with self._lock:
            self.parts = parts
            self.is_ready = True
            self.have = sum(part.at - part.start for part in parts)
        if self.have:
            reporter(Received(path=file.path, size=self.have, resumed=True))

    def _resume(
        self,
        parts: Sequence[Part],
        location: Location,
        check: Callable[[], None],
        buffer: memoryview,
        reporter: Reporter,
    ) -> None:
        partial = self._job.partial
        if partial.journal is None:
            return
        self._journal = Journal(partial.journal)
        begin = self._verifier.new_span
        self.validator, dropped = resume(
            self._journal, partial.descriptor, parts, location.validator, begin=begin, buffer=buffer, check=check
        )
        if dropped is not None:
            reporter(Warned(message=f"{self._job.file.path}: {dropped}"))

    def _cut(self) -> list[Part]:
        size = self._job.file.size
        return cut(size, size if self.is_uncut else part_size(size, self._limits))

    # -- while bytes come

    def free_parts(self) -> list[Part]:
        """Return the parts that a worker can begin now. With the lock held."""
        ahead = self._limits.ahead
        return [
            part for part in self.parts if not part.taken and part.start - self._verifier.hashed_to(part.start) <= ahead
        ]

    def write(self, chunk: memoryview, offset: int, token: WorkerToken) -> None:
        """Write `chunk` at `offset`. Raises Stopped, also where the worker was cancelled meanwhile."""
        with token.writing:  # the descriptor may be closed as soon as the worker is cancelled and its write has ended
            token.check()
            with disk_errors(self._job.file):
                write(self._job.partial.descriptor, chunk, offset)
        token.check()

    def hash_chunk(self, part: Part, chunk: memoryview) -> None:
        """Add `chunk`, the next bytes of `part`, to the digests of the part."""
        part.span = part.span or self._verifier.new_span(part.start)
        part.span.update(chunk)

    def hash_in_order(
        self, part: Part, chunk: memoryview, offset: int, buffer: memoryview, check: Callable[[], None]
    ) -> None:
        """Add `chunk` to the digest that takes bytes in order, if its turn has come; see Verifier.update."""
        with disk_errors(self._job.file):
            self._verifier.update(part, chunk, offset, buffer, check)

    def note(self, part: Part, token: WorkerToken, check: Callable[[], None]) -> None:
        """Note in the journal that `part` is complete. Raises what `check` raises, before the write."""
        if self._journal is None or part.span is None:
            return
        entry = JournalEntry(part.start, part.end, part.span.xxh3(), self.validator or "")
        with disk_errors(self._job.file), token.writing:
            check()
            self._journal.note(entry)

    # -- when all parts are complete

    def take_complete(self) -> list[Part]:
        """Return all parts to the first caller after all became complete, [] to any other. With the lock held."""
        if self.is_compared or not self.parts or not all(part.complete for part in self.parts):
            return []  # without parts the file is starting over
        self.is_compared = True
        return self.parts

    def catch_up(self, buffer: memoryview, check: Callable[[], None]) -> None:
        """Hash the complete parts that follow the hashed prefix; see Verifier.catch_up."""
        with disk_errors(self._job.file):
            self._verifier.catch_up(self.parts, buffer, check)

    def finish(self, parts: Sequence[Part], token: WorkerToken, buffer: memoryview, reporter: Reporter) -> Done:
        """Compare the bytes of `parts`, which are all complete, with the digest, and sync them.

        Raises:
            BadResponse: they have another digest.
        """
        file, verifier = self._job.file, self._verifier
        want = verifier.want
        with disk_errors(file):
            xxh3 = verifier.compare(parts, buffer, token.check)
        digest = verifier.want
        if want is not None and digest is None:
            reporter(Warned(message=f"{file.path}: taken unverified, as {want} of its ETag is not of the bytes"))
        with disk_errors(file), token.waiting(), token.writing:
            token.check()
            sync(self._job.partial.descriptor, file.size)
        reporter(Verified(path=file.path, size=file.size, digest=_as_text(digest)))
        return Done(self._job, digest, xxh3)

    # -- when bytes are fetched again

    def remove_parts(self, pieces: Sequence[Piece]) -> tuple[list[Part], list[Part], int]:
        """Remove all parts, and count the bytes of those that hold bytes of `pieces` as lost. With the lock held.

        Returns:
            All parts; those that are lost; and how many bytes these had.
        """
        parts, self.parts = self.parts, []
        found = {part for piece in pieces for part in overlapping(parts, *piece)}
        lost = [part for part in parts if part in found]
        size = sum(part.at - part.start for part in lost)
        self.have -= size
        if len(lost) == len(parts):
            self.validator = None
        return parts, lost, size

    def forget(self, parts: Sequence[Part], lost: Sequence[Part], token: WorkerToken) -> None:
        """Revoke the lines of `lost` in the journal."""
        if self._journal is None:
            return
        with disk_errors(self._job.file), token.writing:
            token.check()
            if len(lost) == len(parts):  # what comes now may be of another version; a journal has one
                self._journal.clear()
                return
            for part in lost:
                self._journal.forget(part.start, part.end, self.validator or "")

    def restore_parts(self, parts: Sequence[Part], lost: Sequence[Part]) -> None:
        """Put the parts back, those that are `lost` as they were before any byte came. With the lock held."""
        again = set(lost)
        if len(lost) == len(parts):
            self.parts = self._cut()
        else:
            self.parts = [part.again() if part in again else part for part in parts]
        self.is_compared = False
        self._verifier.forget(lost)


def _as_text(digest: Digest | None) -> str:
    return "" if digest is None else f"{digest.algorithm}{'-composite' if digest.parts else ''}:{digest.value}"
