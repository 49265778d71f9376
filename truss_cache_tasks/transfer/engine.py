"""Jobs in, results out: the worker threads of the process, which serve the files of all its pulls."""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from truss_cache_tasks.errors import CacheTaskError, Stopped
from truss_cache_tasks.transfer.fetching import Fetching
from truss_cache_tasks.transfer.job import Done, Failed, Job, Report
from truss_cache_tasks.transfer.lifeline import Lifeline
from truss_cache_tasks.transfer.limits import Limits, Network
from truss_cache_tasks.transfer.means import Means
from truss_cache_tasks.transfer.process import Process, this_process
from truss_cache_tasks.transfer.worker import Worker
from truss_cache_tasks.transfer.working import work

_POLL_S = 0.1  # how often a waiting pull looks whether the process is to stop
_LOST_S = 1.0  # after which an idle thread looks by itself: a signal handler that raises may have cost it its call


def run(jobs: Iterable[Job], report: Report, limits: Limits, network: Network) -> Iterator[Done | Failed]:
    """See `transfer.pull`."""
    process = this_process()
    pull = _Pull(Means(limits, network, process, Lifeline()), report)
    scheduler = _scheduler_of(process)
    more = True
    try:
        scheduler.open(pull)
        supply = iter(jobs)
        while True:
            while more and not process.stopping and len(pull.running) < limits.files:
                try:
                    job = next(supply)
                except StopIteration:
                    more = False
                else:
                    scheduler.take(pull, job)
            if not pull.running:
                break
            yield scheduler.result(pull)
        if more:
            raise Stopped("stopped before all files were asked for", hint="Run it again: what is complete is kept.")
    finally:
        scheduler.close(pull)


def _scheduler_of(process: Process) -> _Scheduler:
    with process.lock:
        if process.scheduler is None:
            process.scheduler = _Scheduler(process)
        scheduler: _Scheduler = process.scheduler
        return scheduler


class _Pull:
    """The files of one call of `pull`, and how they ended."""

    def __init__(self, means: Means, report: Report) -> None:
        self.means = means
        self.report = report
        self.running: list[Fetching] = []  # taken and not yet yielded
        self.waiting: list[tuple[int, int, Fetching]] = []  # a heap of those that no thread began, the largest first
        self.begun: list[Fetching] = []
        # SimpleQueue, not Queue: a signal handler may interrupt `get`, which then holds no lock.
        self.ended: queue.SimpleQueue[tuple[Fetching, Done | BaseException]] = queue.SimpleQueue()
        self.host: str | None = None  # that one of its files was last read from
        self.gives_up_at: float | None = None  # once the process is to stop

    @property
    def at_work(self) -> int:
        """Threads that are at its files, and do not wait."""
        return sum(fetching.load - fetching.away for fetching in self.begun)

    @property
    def wanted(self) -> int:
        """Threads that could begin something now."""
        return len(self.waiting) + sum(fetching.wants() for fetching in self.begun)

    def drop(self, fetching: Fetching) -> None:
        """Forget a file that ended or was given up."""
        if fetching in self.begun:
            self.begun.remove(fetching)
        elif self.waiting:
            self.waiting = [entry for entry in self.waiting if entry[2] is not fetching]
            heapq.heapify(self.waiting)


class _Shift:
    """The threads that serve pulls until there is none: those of the next shift are others."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.idle = 0  # those that are at no file: they wait, or look for one
        self.is_over = False


class _Scheduler:
    """One for each process: gives its threads parts of files, whichever pull they belong to.

    A file that no thread is at comes first: of a pull that has no thread at all, else the largest of all pulls. Then
    the one that has the fewest threads. A host has no more threads than connections.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pulls: list[_Pull] = []
        self._shift = _Shift()
        self._numbers = itertools.count()  # the first of equals goes first
        # Of all of the above and of the pulls' files. `with` takes the lock itself, never the condition: that enters in
        # Python, and a signal handler that raises there would leave it locked for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # workers alone wait for it

    # -- for the thread that called `pull`

    def open(self, pull: _Pull) -> None:
        """Begin to serve `pull`."""
        with self._lock:
            self._pulls.append(pull)

    def take(self, pull: _Pull, job: Job) -> None:
        """Begin `job` as soon as its turn comes."""
        fetching = Fetching(job, pull.report, pull.means, self._wake, partial(self._reads_from, pull))
        with self._lock:
            fetching.host = pull.host  # most likely, until its location tells
            pull.running.append(fetching)
            heapq.heappush(pull.waiting, (-job.file.size, next(self._numbers), fetching))
        self._wake()

    def result(self, pull: _Pull) -> Done | Failed:
        """Return the end of the next job of `pull`. Raises what a worker met that is no CacheTaskError."""
        while True:
            try:
                fetching, end = pull.ended.get(timeout=_POLL_S)
            except queue.Empty:
                if not self._process.stopping:
                    self._wake()  # some may have gone away
                    continue
                pull.gives_up_at = pull.gives_up_at or time.monotonic() + pull.means.limits.stop_s
                if time.monotonic() < pull.gives_up_at:
                    continue
                fetching, end = pull.running[0], Stopped("stopped before it was complete")
                fetching.close()
                with self._lock:
                    pull.drop(fetching)
            if fetching not in pull.running:
                continue  # given up before
            pull.running.remove(fetching)
            if isinstance(end, Done):
                return end
            if isinstance(end, CacheTaskError):
                return Failed(fetching.job, end)
            raise end

    def close(self, pull: _Pull) -> None:
        """Cancel what runs of `pull`, and see its threads off: none of its partials is written to after this."""
        if os.getpid() != self._process.pid:
            return  # a fork's copy of a pull: threads and connections are the parent's
        for fetching in pull.running:
            fetching.close()
        with self._lock:
            self._pulls = [other for other in self._pulls if other is not pull]
            pull.waiting.clear()
            pull.begun = [fetching for fetching in pull.begun if fetching.load]
            shift = self._shift
            if not self._pulls:
                shift.is_over, self._shift = True, _Shift()
                self._changed.notify_all()
        until = time.monotonic() + pull.means.limits.stop_s
        while pull.begun and (left := until - time.monotonic()) > 0:
            with suppress(queue.Empty):
                pull.ended.get(timeout=left)
        for thread in shift.threads if shift.is_over else ():
            if thread.ident is not None:  # else its start was interrupted
                thread.join(max(0.0, until - time.monotonic()))

    # -- for the workers

    def _wake(self) -> None:
        """See that there are threads for what can be done now."""
        with self._lock:
            wanted = sum(min(self._room(there), sum(pull.wanted for pull in there)) for there in self._by_host())
            shift = self._shift
            self._changed.notify(wanted)
            for _ in range(wanted - shift.idle):
                name = f"transfer-{len(shift.threads)}"
                thread = threading.Thread(target=self._work, args=(shift,), name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # this user may have no more of them
                    if shift.threads:
                        return
                    raise
                shift.threads.append(thread)
                shift.idle += 1

    def _reads_from(self, pull: _Pull, host: str) -> None:
        with self._lock:
            pull.host = host
        self._wake()  # as many may begin as that host gives connections

    def _by_host(self) -> Iterable[list[_Pull]]:
        """Return the pulls that share a host's connections; one that does not know its host yet is by itself."""
        found: dict[str | _Pull, list[_Pull]] = {}
        for pull in self._pulls:
            found.setdefault(pull.host if pull.host is not None else pull, []).append(pull)
        return found.values()

    def _room(self, there: Sequence[_Pull]) -> int:
        """How many further threads may be at files of these pulls, which share a host; 0 at least."""
        most = max(pull.means.limits.connections for pull in there)
        return max(0, min(most, self._process.allowed(there[0].host)) - sum(pull.at_work for pull in there))

    def _work(self, shift: _Shift) -> None:
        while (begun := self._next(shift)) is not None:
            pull, fetching, worker = begun
            failure: BaseException | None = None
            try:
                worker.means.lifeline.check()
                work(fetching, worker)
            except BaseException as exc:  # nothing may end a thread but `_next`: the caller waits for this job's end
                failure = exc
            end = fetching.leave(worker, failure)
            with self._lock:
                shift.idle += 1
                if end is not None:
                    pull.drop(fetching)
            if end is not None:
                pull.ended.put((fetching, end))
            else:
                self._wake()

    def _next(self, shift: _Shift) -> tuple[_Pull, Fetching, Worker] | None:
        """Return a worker of a file that wants one; None once the shift is over."""
        with self._lock:
            while not shift.is_over:
                chosen = self._choose()
                if chosen is not None:
                    shift.idle -= 1
                    pull, fetching = chosen
                    return pull, fetching, fetching.join()
                self._changed.wait(_LOST_S)
            return None

    def _choose(self) -> tuple[_Pull, Fetching] | None:
        pulls = [pull for there in self._by_host() if self._room(there) for pull in there]
        fresh = [pull for pull in pulls if pull.waiting]
        if fresh:
            pull = min(fresh, key=lambda pull: (pull.at_work > 0, pull.waiting[0]))
            fetching = heapq.heappop(pull.waiting)[2]
            pull.begun.append(fetching)
            return pull, fetching
        wanting = [(pull, fetching) for pull in pulls for fetching in pull.begun if fetching.wants()]
        return min(wanting, key=lambda one: (one[1].load, -one[1].job.file.size), default=None)
