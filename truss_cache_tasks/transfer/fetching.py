"""One file while it comes: its parts, the threads that work at them, and how it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from truss_cache_tasks.model.hashing import Piece
from truss_cache_tasks.model.listing import Digest, Location
from truss_cache_tasks.transfer.adopting import adopt
from truss_cache_tasks.transfer.answers import Body, Wrong
from truss_cache_tasks.transfer.disk import allocate, disk_errors, seal
from truss_cache_tasks.transfer.job import Done, Job, Report
from truss_cache_tasks.transfer.journal import Entry, Journal
from truss_cache_tasks.transfer.judging import Judge
from truss_cache_tasks.transfer.means import Means
from truss_cache_tasks.transfer.parts import Part, cut, overlapping, part_size
from truss_cache_tasks.transfer.whereabouts import Whereabouts
from truss_cache_tasks.transfer.worker import Worker, send_away


class Fetching:
    """What the threads of one file share.

    Until the first answer came it has one worker, which learns the validator, the redirect, and whether ranges are
    given; then one for each part, as far as connections allow. Starting over sends all workers but one away.
    """

    def __init__(
        self,
        job: Job,
        report: Report,
        means: Means,
        opened: Callable[[], None],
        reads_from: Callable[[str], None],
    ) -> None:
        """Begin with nothing there.

        Args:
            means: of the pull; each worker gets a lifeline of its own.
            opened: called when further workers can be of use.
            reads_from: told the host that is asked next, when it is another one.
        """
        self.job = job
        self.whereabouts = Whereabouts(job.locate)
        self.host: str | None = None  # that it was last asked for
        self.have = 0
        self.validator: str | None = None  # of the bytes that are there
        self.result: Done | None = None
        self.error: BaseException | None = None
        self._report = report
        self._means = means
        self._tell_opened = opened
        self._tell_host = reads_from
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._parts: list[Part] = []
        self.is_ready = False  # once a location told which digest is wanted
        self._judge = Judge(job.file, job.partial.descriptor, means.limits, accept_unverified=job.accept_unverified)
        self._is_open = False
        self._is_uncut = False
        self._is_closed = False  # no further worker
        self._is_judged = False
        self._whole = Piece(0, job.file.size)
        self._came_again: set[Piece] = set()
        self._journal: Journal | None = None

    # -- for the scheduler

    @property
    def load(self) -> int:
        """How many workers it has."""
        return len(self._workers)

    @property
    def away(self) -> int:
        """How many of them wait, and use no connection meanwhile."""
        return sum(worker.means.lifeline.is_away for worker in tuple(self._workers))

    def wants(self) -> int:
        """How many further workers could begin now."""
        if self._workers and len(self._parts) <= 1 and not self._is_open:
            return 0  # the usual small file: its worker is at it
        with self._lock:
            current = [worker for worker in self._workers if not worker.superseded]
            if self._is_closed or self.result is not None:
                return 0
            if not self._is_open:
                return 0 if current else 1
            waiting = sum(worker.part is None for worker in current)
            return max(0, sum(self._is_free(part) for part in self._parts) - waiting)

    def join(self) -> Worker:
        """Return a new worker."""
        worker = Worker(replace(self._means, lifeline=self._means.process.lifeline()))
        with self._lock:
            self._workers.add(worker)
            if self._is_closed:
                worker.means.lifeline.cut()
        return worker

    def leave(self, worker: Worker, error: BaseException | None) -> Done | BaseException | None:
        """Take note that `worker` ended; return how the file ended, if that was the last one."""
        with self._lock:
            self._workers.discard(worker)
            self._means.process.lifelines.discard(worker.means.lifeline)
            if error is not None and not worker.superseded:
                self.error = self.error or error
                self._is_closed = True
            left = tuple(self._workers)
        if self.error is not None:
            for other in left:
                other.means.lifeline.cut()
        return None if left else self.error or self.result

    def close(self) -> None:
        """See that nothing is written any more: the descriptor is its owner's again."""
        with self._lock:
            self._is_closed = True
            left = tuple(self._workers)
        send_away(left)
        for worker in left:
            self._means.process.lifelines.discard(worker.means.lifeline)

    # -- for its workers

    def reads_from(self, host: str) -> None:
        """Take note of the host that is asked next."""
        if host != self.host:
            self.host = host
            self._tell_host(host)

    def prepare(self, location: Location, worker: Worker, buffer: memoryview) -> None:
        """Get ready for the first part, once a location is there; `buffer` is scratch memory."""
        file = self.job.file
        want = file.digest or location.digest
        if want is None and location.validator is None and not location.pins_version:
            self._is_uncut = True  # nothing could tell whether its parts belong together
        parts = self._cut()
        if want is None and location.look is not None and len(parts) > 1:
            with worker.means.lifeline.away():
                want = location.look()
        self._judge.expect(want)
        if len(parts) > 1:
            lifeline = worker.means.lifeline
            with disk_errors(file), lifeline.writing:
                lifeline.check()
                allocate(self.job.partial.descriptor, file.size)
                self._journal, self.validator = adopt(
                    self.job,
                    parts,
                    location.validator,
                    begin=self._judge.span,
                    buffer=buffer,
                    check=lifeline.check,
                )
        with self._lock:
            self._parts = parts
            self.is_ready = True
            self.have = sum(part.at - part.start for part in parts)
        if self.have:
            self._report(file, self.have)

    def assign(self, worker: Worker) -> Part | None:
        """Give `worker` a part if it has none; the first that is free. None if there is none."""
        with self._lock:
            if worker.part is None and not worker.superseded:
                worker.part = next((part for part in self._parts if self._is_free(part)), None)
                if worker.part is not None:
                    worker.part.taken = True
            return worker.part

    @property
    def has_digest(self) -> bool:
        """Whether it is known by now what the bytes will be compared with."""
        return self._judge.want is not None

    def forget_unnamed(self, worker: Worker, location: Location) -> None:
        """Start over if nothing could tell whether the rest belongs to the version of the bytes that are there."""
        if self.have and self.validator is None and not (self.has_digest or location.pins_version):
            self._start_over(worker, [self._whole])

    def answered(self, worker: Worker, location: Location, body: Body) -> None:
        """Take note of an answer; the worker's part is another one if it holds other bytes than were asked for."""
        part = worker.part
        assert part is not None
        if (body.start, body.end) != (part.at, part.end):  # the whole file: ranges are ignored here
            self._is_uncut = True
            self._start_over(worker, [self._whole])
            worker.check()  # another worker met the same, and goes on with its answer
        self.validator = location.validator or body.validator or self.validator
        if location.digest_of is not None and (body.start, body.end) == (0, self.job.file.size):
            self._expect(location.digest_of(body.headers))
        if body.reached is not None and len(self._parts) > 1:
            self.whereabouts.follow(body.reached)
        if not self._is_open:
            self._is_open = True
            if len(self._parts) > 1:
                self._tell_opened()

    def _expect(self, want: Digest | None) -> None:
        """Compare the bytes, of which none came yet, with what the answer says; unless it was known before."""
        if want is not None and self._judge.want is None:
            with self._lock:
                self._judge.expect(want)

    def arrived(self, worker: Worker, chunk: memoryview, buffer: memoryview) -> None:
        """Take note of `chunk`, the next bytes of the worker's part, which are written; `buffer` is scratch memory."""
        part = worker.part
        assert part is not None
        part.span = part.span or self._judge.span(part.start)
        part.span.update(chunk)  # first: whoever sees the part complete may judge the file
        with self._lock:
            worker.check()
            offset, size = part.at, len(chunk)
            part.at += size
            self.have += size
        self._report(self.job.file, size)  # at once: what is counted is told, also if the worker is sent away now
        self._judge.see(part, chunk, offset, buffer, worker.means.lifeline.check)

    def completed(self, worker: Worker, buffer: memoryview) -> None:
        """Hash what became the prefix by the worker's part; once all parts are there, judge the file. Raises Wrong."""
        lifeline, part = worker.means.lifeline, worker.part
        if self._journal is not None and part is not None and part.span is not None:
            entry = Entry(part.start, part.end, part.span.xxh3(), self.validator or "")
            with disk_errors(self.job.file), lifeline.writing:
                worker.check()
                self._journal.note(entry)
        self._judge.follow(self._parts, buffer, lifeline.check)
        with self._lock:
            if self._is_judged or worker.superseded or not self._parts:  # none: the file is about to start over
                return
            if not all(part.complete for part in self._parts):
                return
            parts, self._is_judged = self._parts, True
        file = self.job.file
        want = self._judge.want
        xxh3 = self._judge.compare(parts, buffer, lifeline.check)
        if want is not None and self._judge.want is None:
            self.job.say(f"warning: {file.path}: taken unverified, as {want} of its ETag is not of the bytes")
        with disk_errors(file), lifeline.away(), lifeline.writing:
            lifeline.check()
            seal(self.job.partial.descriptor, file.size)
        self.result = Done(self.job, self._judge.want, xxh3)

    def wrong(self, worker: Worker, wrong: Wrong) -> None:
        """Start over with the bytes in question, once; the second time raise the error of `wrong`."""
        pieces = wrong.pieces or [self._whole]
        with self._lock:
            worker.check()
            if not self._came_again.isdisjoint(pieces):
                raise wrong.error from wrong
            self._came_again |= set(pieces)
        self._start_over(worker, pieces)

    def _start_over(self, worker: Worker, pieces: Sequence[Piece]) -> None:
        """Forget the parts that hold bytes of `pieces`, send every other worker away, and give this one the first part.

        Where parts are kept, the others have nothing left to do: a file is judged once all of it is there.
        """
        with self._lock:
            worker.check()
            others = [other for other in self._workers if other is not worker]
            for other in others:
                other.superseded = True
            parts, self._parts, worker.part = self._parts, [], None
            lost = {part for piece in pieces for part in overlapping(parts, *piece)}
            all_is_lost = len(lost) == len(parts)
            taken_back = sum(part.at - part.start for part in lost)
            self.have -= taken_back
            if all_is_lost:
                self._is_open, self.validator = False, None
        if taken_back:
            self._report(self.job.file, -taken_back)
        send_away(others)  # before anybody gets one of the new parts
        if self._journal is not None:
            with disk_errors(self.job.file), worker.means.lifeline.writing:
                worker.means.lifeline.check()
                if all_is_lost:  # lines of another version would not do
                    self._journal.clear()
                for part in () if all_is_lost else lost:
                    self._journal.forget(part.start, part.end, self.validator or "")
        with self._lock:
            again = self._cut() if all_is_lost else [part.again() if part in lost else part for part in parts]
            self._parts, self._is_judged = again, False
            worker.part = next(part for part in self._parts if not part.taken)
            worker.part.taken = True
            self._judge.forget(lost)
        self._tell_opened()

    def _cut(self) -> list[Part]:
        size = self.job.file.size
        return cut(size, size if self._is_uncut else part_size(size, self._means.limits))

    def _is_free(self, part: Part) -> bool:
        return not part.taken and part.start - self._judge.seen(part.start) <= self._means.limits.ahead
