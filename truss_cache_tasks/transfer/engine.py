"""Jobs in, results out: a few worker threads for each pull, fed one job at a time."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator

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


def run(jobs: Iterable[Job], report: Report, limits: Limits, network: Network) -> Iterator[Done | Failed]:
    """See `transfer.pull`."""
    crew = _Crew(report, limits, network, this_process())
    supply = iter(jobs)
    more = True
    try:
        while True:
            while more and not crew.stopping and len(crew.running) < limits.files:
                try:
                    job = next(supply)
                except StopIteration:
                    more = False
                else:
                    crew.take(job)
            if not crew.running:
                break
            yield crew.result()
        if more:
            raise Stopped("stopped before all files were asked for", hint="Run it again: what is complete is kept.")
    finally:
        crew.end()


class _Crew:
    """The worker threads of one pull, and what they are at."""

    def __init__(self, report: Report, limits: Limits, network: Network, process: Process) -> None:
        self.running: list[Fetching] = []
        self._report = report
        self._limits = limits
        self._process = process
        self._means = Means(limits, network, process, Lifeline())
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closing = False
        self._changed = threading.Condition()  # of all of the above; workers alone wait for it
        # SimpleQueue, not Queue: a signal handler may interrupt `get`, which then holds no lock.
        self._finished: queue.SimpleQueue[tuple[Fetching, Done | BaseException]] = queue.SimpleQueue()

    @property
    def stopping(self) -> bool:
        return self._process.stopping

    def take(self, job: Job) -> None:
        """Begin `job`."""
        fetching = Fetching(job, self._report, self._means, self._wake)
        with self._changed:
            self.running.append(fetching)
        self._wake(1)

    def result(self) -> Done | Failed:
        """Return the next job's end. Raises what a worker met that is no CacheTaskError."""
        give_up = None
        while True:
            try:
                fetching, end = self._finished.get(timeout=_POLL_S)
            except queue.Empty:
                if not self.stopping:
                    self._wake()  # some may have gone away
                    continue
                give_up = give_up or time.monotonic() + self._limits.stop_s
                if time.monotonic() < give_up:
                    continue
                fetching, end = self.running[0], Stopped("stopped before it was complete")
                fetching.close()
            if fetching not in self.running:
                continue  # given up before
            with self._changed:
                self.running.remove(fetching)
            if isinstance(end, Done):
                return end
            if isinstance(end, CacheTaskError):
                return Failed(fetching.job, end)
            raise end

    def end(self) -> None:
        """Cancel what runs, and see the threads off: no partial is written to after this."""
        if os.getpid() != self._process.pid:
            return  # a fork's copy of a pull: threads and connections are the parent's
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for fetching in self.running:
            fetching.close()
        until = time.monotonic() + self._limits.stop_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _wake(self, wanted: int | None = None) -> None:
        """See that there are threads for what can be done now: `wanted` of them, where it is known what has changed."""
        with self._changed:
            if wanted is None:
                wanted = sum(fetching.wants() for fetching in self.running)
            if self._idle:
                self._changed.notify(wanted)
            wanted -= self._idle
            if wanted <= 0:
                return
            most = min(self._limits.connections, self._process.allowed) - len(self._threads)
            if most < wanted:
                most += sum(fetching.away for fetching in self.running)
            for _ in range(min(wanted, most)):
                if self._closing:
                    return
                thread = threading.Thread(target=self._work, name=f"transfer-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while (begun := self._next()) is not None:
            fetching, worker = begun
            failure: BaseException | None = None
            try:
                worker.means.lifeline.check()
                work(fetching, worker)
            except BaseException as exc:  # nothing may end a thread but `_next`: the caller waits for this job's end
                failure = exc
            end = fetching.leave(worker, failure)
            if end is not None:
                self._finished.put((fetching, end))
            else:
                self._wake()

    def _next(self) -> tuple[Fetching, Worker] | None:
        """Return a worker of a file that wants one; None in the end."""
        with self._changed:
            while not self._closing:
                fetching = self._choose()
                if fetching is not None:
                    return fetching, fetching.join()
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            return None

    def _choose(self) -> Fetching | None:
        """Return the file that has the fewest workers of those that want one; the first of equals."""
        best, least = None, 0
        for fetching in self.running:
            load = fetching.load
            if (best is None or load < least) and fetching.wants():
                best, least = fetching, load
                if not load:
                    break
        return best
