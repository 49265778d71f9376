"""Assigns the worker threads of a process to the files of all its pulls: jobs in, results out."""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from functools import partial

from truss_cache_tasks.errors import RESUME, CacheTaskError, Stopped
from truss_cache_tasks.events import Reporter
from truss_cache_tasks.network.cancel import CancelToken, WorkerToken
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.transfer.context import ProcessState, TransferContext, this_process
from truss_cache_tasks.transfer.download import Download, DownloadWorker
from truss_cache_tasks.transfer.job import Done, Failed, Job
from truss_cache_tasks.transfer.limits import Limits

_POLL_S = 0.1  # how often a waiting pull checks whether the process is to stop
_IDLE_S = 1.0  # after which an idle thread looks for work by itself: a signal handler may raise before a notify


def run(
    jobs: Iterable[Job], reporter: Reporter, cancel: CancelToken, limits: Limits, network: Network
) -> Generator[Done | Failed]:
    """Yield the results of `jobs` as they finish; see `transfer.pull`."""
    process = this_process()
    pull = _Pull(
        TransferContext(limits=limits, network=network, reporter=reporter, process=process, token=WorkerToken())
    )
    scheduler = _scheduler_of(process)
    has_more = True
    try:
        scheduler.open(pull)
        supply = iter(jobs)
        while True:
            while has_more and not process.stopping and len(pull.running) < limits.files:
                cancel.check()
                try:
                    job = next(supply)
                except StopIteration:
                    has_more = False
                else:
                    scheduler.take(pull, job)
            if not pull.running:
                break
            yield scheduler.result(pull, cancel)
        if has_more:
            raise Stopped("stopped before all files were asked for", hint=RESUME)
    finally:
        scheduler.close(pull)


def _scheduler_of(process: ProcessState) -> _Scheduler:
    with process.lock:
        if process.scheduler is None:
            process.scheduler = _Scheduler(process)
        scheduler: _Scheduler = process.scheduler
        return scheduler


class _Pull:
    """The files of one call of `pull`, and their results.

    Attributes:
        running: taken and not yet yielded.
        waiting: a heap of those that no thread began, the largest first.
        begun: those that a thread began.
        ended: those that ended, with a result or an error.
        host: that one of the files was last read from; None before that.
        gives_up_at: when running files are given up after `stop`; None before that.
    """

    def __init__(self, context: TransferContext) -> None:
        self.context = context
        self.running: list[Download] = []
        self.waiting: list[tuple[int, int, Download]] = []
        self.begun: list[Download] = []
        # SimpleQueue, not Queue: a signal handler may interrupt `get`, which then holds no lock.
        self.ended: queue.SimpleQueue[tuple[Download, Done | BaseException]] = queue.SimpleQueue()
        self.host: str | None = None
        self.gives_up_at: float | None = None

    @property
    def at_work(self) -> int:
        """How many threads work at its files and do not wait."""
        return sum(download.workers - download.waiting for download in self.begun)

    @property
    def wanted(self) -> int:
        """How many further threads could begin now."""
        return len(self.waiting) + sum(download.wanted() for download in self.begun)

    def drop(self, download: Download) -> None:
        """Forget a file that ended or was given up."""
        if download in self.begun:
            self.begun.remove(download)
        elif self.waiting:
            self.waiting = [entry for entry in self.waiting if entry[2] is not download]
            heapq.heapify(self.waiting)


class _WorkerPool:
    """The threads that serve pulls until no pull is left; later pulls get a new pool."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.idle = 0  # how many have no file: they wait, or look for one
        self.is_over = False


class _Scheduler:
    """Assigns the threads of the process to the files of all pulls. A process has one scheduler.

    A free thread gets the first of these that there is: a file that no thread began, of a pull without a thread at
    work; the largest file that no thread began; the file with the fewest threads. A host has no more threads than
    connections.
    """

    def __init__(self, process: ProcessState) -> None:
        self._process = process
        self._pulls: list[_Pull] = []
        self._pool = _WorkerPool()
        self._numbers = itertools.count()  # of files of equal size, the one that was taken first begins first
        # Protects all of the above and the pulls' files. `with` gets the lock itself, never the condition, because
        # Condition.__enter__ is Python code: a signal handler that raises in it would leave the lock held for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # only workers wait for it

    # -- for the thread that called `pull`

    def open(self, pull: _Pull) -> None:
        """Begin to serve `pull`."""
        with self._lock:
            self._pulls.append(pull)

    def take(self, pull: _Pull, job: Job) -> None:
        """Add `job` to the files of `pull` that wait for a thread."""
        download = Download(job, pull.context, self._wake, partial(self._set_host, pull))
        with self._lock:
            pull.running.append(download)
            heapq.heappush(pull.waiting, (-job.file.size, next(self._numbers), download))
        self._wake()

    def result(self, pull: _Pull, cancel: CancelToken) -> Done | Failed:
        """Return the result of the next job of `pull` that ends.

        Raises:
            Stopped: `cancel` was cancelled.
            Exception: what a worker raised, if that is no CacheTaskError.
        """
        while True:
            try:
                download, end = pull.ended.get(timeout=_POLL_S)
            except queue.Empty:
                if not self._process.stopping:
                    cancel.check()
                    self._wake()  # workers that wait by now use no connection, so others may begin
                    continue
                pull.gives_up_at = pull.gives_up_at or time.monotonic() + pull.context.limits.stop_s
                if time.monotonic() < pull.gives_up_at:
                    continue
                download, end = pull.running[0], Stopped("stopped before it was complete")
                download.close()
                with self._lock:
                    pull.drop(download)
            if download not in pull.running:
                continue  # it was given up and yielded before
            pull.running.remove(download)
            if isinstance(end, Done):
                return end
            if isinstance(end, CacheTaskError):
                return Failed(download.job, end)
            raise end

    def close(self, pull: _Pull) -> None:
        """Cancel what runs of `pull`, and wait for its threads: none of its partials is written to after this."""
        if os.getpid() != self._process.pid:
            return  # a fork's copy of a pull: threads and connections are the parent's
        for download in pull.running:
            download.close()
        with self._lock:
            self._pulls = [other for other in self._pulls if other is not pull]
            pull.waiting.clear()
            pull.begun = [download for download in pull.begun if download.workers]
            pool = self._pool
            if not self._pulls:
                pool.is_over, self._pool = True, _WorkerPool()
                self._changed.notify_all()
        until = time.monotonic() + pull.context.limits.stop_s
        while pull.begun and (left := until - time.monotonic()) > 0:
            with suppress(queue.Empty):
                pull.ended.get(timeout=left)
        for thread in pool.threads if pool.is_over else ():
            if thread.ident is not None:  # else its start was interrupted
                thread.join(max(0.0, until - time.monotonic()))

    # -- for the workers

    def _wake(self) -> None:
        """Notify idle threads, or start new ones, for all that can be done now."""
        with self._lock:
            wanted = sum(min(self._room(group), sum(pull.wanted for pull in group)) for group in self._by_host())
            pool = self._pool
            self._changed.notify(wanted)
            for _ in range(wanted - pool.idle):
                name = f"transfer-{len(pool.threads)}"
                thread = threading.Thread(target=self._work, args=(pool,), name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # this user's limit of threads is reached
                    if pool.threads:
                        return
                    raise
                pool.threads.append(thread)
                pool.idle += 1

    def _set_host(self, pull: _Pull, host: str) -> None:
        if pull.host == host:
            return
        with self._lock:
            pull.host = host
        self._wake()  # the host may allow more connections than an unknown one

    def _by_host(self) -> Iterable[list[_Pull]]:
        """Return the pulls in groups that share a host's connections; one without a known host is a group by itself."""
        groups: dict[str | _Pull, list[_Pull]] = {}
        for pull in self._pulls:
            groups.setdefault(pull.host if pull.host is not None else pull, []).append(pull)
        return groups.values()

    def _room(self, group: Sequence[_Pull]) -> int:
        """Return how many further threads may work at files of `group`, whose pulls share a host; 0 at least."""
        most = max(pull.context.limits.connections for pull in group)
        return max(0, min(most, self._process.allowed(group[0].host)) - sum(pull.at_work for pull in group))

    def _work(self, pool: _WorkerPool) -> None:
        while (begun := self._next(pool)) is not None:
            pull, download, worker = begun
            failure: BaseException | None = None
            try:
                worker.context.token.check()
                worker.run()
            except BaseException as exc:  # the thread has to go on: the caller waits for the result of this job
                failure = exc
            end = download.remove_worker(worker, failure)
            with self._lock:
                pool.idle += 1
                if end is not None:
                    pull.drop(download)
            if end is not None:
                pull.ended.put((download, end))
            else:
                self._wake()

    def _next(self, pool: _WorkerPool) -> tuple[_Pull, Download, DownloadWorker] | None:
        """Return a worker of a file that wants one; None once the pool is over."""
        with self._lock:
            while not pool.is_over:
                chosen = self._choose()
                if chosen is not None:
                    pool.idle -= 1
                    pull, download = chosen
                    return pull, download, download.add_worker()
                self._changed.wait(_IDLE_S)
            return None

    def _choose(self) -> tuple[_Pull, Download] | None:
        """Return the file that the next thread works at, in the order of the class docstring; None if there is none."""
        pulls = [pull for group in self._by_host() if self._room(group) for pull in group]
        fresh = [pull for pull in pulls if pull.waiting]
        if fresh:
            pull = min(fresh, key=lambda pull: (pull.at_work > 0, pull.waiting[0]))
            download = heapq.heappop(pull.waiting)[2]
            pull.begun.append(download)
            return pull, download
        wanting = [(pull, download) for pull in pulls for download in pull.begun if download.wanted()]
        return min(wanting, key=lambda one: (one[1].workers, -one[1].job.file.size), default=None)
