"""Jobs in, results out: a few worker threads for each pull, fed one job at a time."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from truss_cache_tasks.errors import CacheTaskError, Stopped
from truss_cache_tasks.transfer.fetching import fetch
from truss_cache_tasks.transfer.job import Done, Failed, Job, Report
from truss_cache_tasks.transfer.lifeline import Lifeline
from truss_cache_tasks.transfer.limits import Limits, Network
from truss_cache_tasks.transfer.means import Means
from truss_cache_tasks.transfer.process import Process, this_process

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


@dataclass(frozen=True, eq=False)
class _Running:
    """A job that was taken and not yet yielded."""

    job: Job
    lifeline: Lifeline


class _Crew:
    """The worker threads of one pull, and what they are at."""

    def __init__(self, report: Report, limits: Limits, network: Network, process: Process) -> None:
        self.running: set[_Running] = set()
        self._report = report
        self._limits = limits
        self._network = network
        self._process = process
        self._threads: list[threading.Thread] = []
        # SimpleQueue, not Queue: a signal handler may interrupt `get`, which then holds no lock.
        self._todo: queue.SimpleQueue[_Running | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[_Running, Done | BaseException]] = queue.SimpleQueue()

    @property
    def stopping(self) -> bool:
        return self._process.stopping

    def take(self, job: Job) -> None:
        """Begin `job` in a thread of its own, a new one if none is idle."""
        running = _Running(job, self._process.lifeline())
        self.running.add(running)
        if len(self._threads) < len(self.running):
            thread = threading.Thread(target=self._work, name=f"transfer-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._todo.put(running)

    def result(self) -> Done | Failed:
        """Return the next job's end. Raises what a worker met that is no CacheTaskError."""
        give_up = None
        while True:
            try:
                running, end = self._finished.get(timeout=_POLL_S)
            except queue.Empty:
                if not self.stopping:
                    continue
                give_up = give_up or time.monotonic() + self._limits.stop_s
                if time.monotonic() < give_up:
                    continue
                running, end = next(iter(self.running)), Stopped("stopped before it was complete")
                self._take_back(running)
            if running not in self.running:
                continue  # given up before
            self.running.remove(running)
            self._process.lifelines.discard(running.lifeline)
            if isinstance(end, Done):
                return end
            if isinstance(end, CacheTaskError):
                return Failed(running.job, end)
            raise end

    def end(self) -> None:
        """Cancel what runs, and see the threads off: no partial is written to after this."""
        if os.getpid() != self._process.pid:
            return  # a fork's copy of a pull: threads and connections are the parent's
        for running in self.running:
            running.lifeline.cut()
        for _ in self._threads:
            self._todo.put(None)
        for running in self.running:
            self._take_back(running)
            self._process.lifelines.discard(running.lifeline)
        until = time.monotonic() + self._limits.stop_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    @staticmethod
    def _take_back(running: _Running) -> None:
        """Make sure that `running` writes no more: its descriptor is its owner's again."""
        running.lifeline.cut()
        running.lifeline.settle()

    def _work(self) -> None:
        while (running := self._todo.get()) is not None:
            end: Done | BaseException
            try:
                running.lifeline.check()
                means = Means(self._limits, self._network, self._process, running.lifeline)
                end = fetch(running.job, self._report, means)
            except BaseException as exc:  # nothing may end a worker but None: the caller waits for this job's end
                end = exc
            self._finished.put((running, end))
