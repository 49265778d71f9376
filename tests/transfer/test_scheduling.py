"""What the pulls of one process share: threads, hosts, and whose turn it is."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from servers.faults import FaultServer, fault_server
from servers.tools import wait_until

from transfer.conftest import FAST, job_for
from truss_cache_tasks import transfer


@pytest.fixture
def other() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture
def callers(server: FaultServer) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
        server.go.set()


class Jobs:
    """Jobs for files of these sizes, named so; `all_taken` is set once the engine asks for more."""

    def __init__(self, server: FaultServer, sizes: Iterable[int], *faults: str) -> None:
        self.all_taken = threading.Event()
        self._jobs = []
        for size in sizes:
            body = bytes(size)
            self._jobs.append(job_for(server.add(f"/{size}", body, *faults), body, path=str(size)))

    def __iter__(self) -> Iterator[transfer.Job]:
        yield from self._jobs
        self.all_taken.set()


def pull_all(jobs: Iterable[transfer.Job], limits: transfer.Limits = FAST) -> list[Any]:
    results = list(transfer.pull(jobs, limits=limits))
    assert all(isinstance(result, transfer.Done) for result in results), results
    return [result.job.file.path for result in results]


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("transfer-")]


def test_the_largest_file_of_all_pulls_comes_first(server: FaultServer, callers: ThreadPoolExecutor) -> None:
    one_at_a_time = replace(FAST, connections=1)
    odd, even = Jobs(server, [700, 500, 300, 100], "pause:1"), Jobs(server, [800, 600, 400, 200], "pause:1")
    running = [callers.submit(pull_all, jobs, one_at_a_time) for jobs in (odd, even)]
    assert odd.all_taken.wait(10)
    assert even.all_taken.wait(10)
    server.go.set()
    assert [one.result(10) for one in running] == [["700", "500", "300", "100"], ["800", "600", "400", "200"]]
    later = [asked.path for asked in server.asked][2:]  # a pull's first file finds out which host it is
    assert later == ["/600", "/500", "/400", "/300", "/200", "/100"]


def test_pulls_share_their_threads(server: FaultServer, callers: ThreadPoolExecutor) -> None:
    pulls = [Jobs(server, range(start, start + 8), "pause:1") for start in (10, 20, 30)]
    running = [callers.submit(pull_all, jobs) for jobs in pulls]
    assert all(jobs.all_taken.wait(10) for jobs in pulls)
    wait_until(lambda: server.in_flight == 4, "four connections", alive=lambda: True, timeout_s=10)
    assert len(worker_threads()) <= 4 + 2  # what a host gets at first, and one for each pull that does not know it yet
    server.go.set()
    assert sum(len(one.result(10)) for one in running) == 24
    assert server.most_in_flight == 4
    assert worker_threads() == []


def test_a_host_whose_connections_are_taken_does_not_keep_another_waiting(
    server: FaultServer, other: FaultServer, callers: ThreadPoolExecutor
) -> None:
    slow = Jobs(server, range(100, 112), "pause:1")
    running = callers.submit(pull_all, slow)
    assert slow.all_taken.wait(10)
    assert sorted(pull_all(Jobs(other, [1, 2, 3]))) == ["1", "2", "3"]
    assert not running.done()
    server.go.set()
    assert len(running.result(10)) == 12


def test_closing_one_pull_ends_nothing_of_another(server: FaultServer, callers: ThreadPoolExecutor) -> None:
    staying = Jobs(server, [30, 31], "pause:1")
    running = callers.submit(pull_all, staying)
    assert staying.all_taken.wait(10)
    leaving = transfer.pull(Jobs(server, [5, 6, 7]))
    next(leaving)
    leaving.close()
    server.go.set()
    assert sorted(running.result(10)) == ["30", "31"]


def test_a_pull_that_begins_while_the_last_one_ends_gets_threads_of_its_own(
    server: FaultServer, callers: ThreadPoolExecutor
) -> None:
    for _ in range(50):
        running = [callers.submit(pull_all, Jobs(server, [size])) for size in (1, 2, 3, 4)]
        assert [one.result(10) for one in running] == [["1"], ["2"], ["3"], ["4"]]


def test_a_pull_of_small_files_does_not_wait_for_one_of_many_large_ones(
    server: FaultServer, callers: ThreadPoolExecutor
) -> None:
    large, small = Jobs(server, range(1000, 1200), "pause:1"), Jobs(server, [3, 2, 1])
    running = callers.submit(pull_all, large)
    wait_until(lambda: server.in_flight == 4, "four connections", alive=lambda: True, timeout_s=10)
    beside = callers.submit(pull_all, small)
    assert small.all_taken.wait(10)
    server.go.set()
    assert len(running.result(20)) == 200
    assert sorted(beside.result(10)) == ["1", "2", "3"]
    assert [asked.path for asked in server.asked].index("/1") < 100


def test_a_thread_that_cannot_be_started_costs_nobody_his_files(
    server: FaultServer, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Jobs(server, range(10, 14), "pause:1")
    running = callers.submit(pull_all, large)
    wait_until(lambda: server.in_flight == 4, "four connections", alive=lambda: True, timeout_s=10)
    # Python's own `start`, not ours: a limit of the kernel does not bind root, as which CI runs.
    start = threading.Thread.start
    refused: list[threading.Thread] = []

    def start_one_less(thread: threading.Thread) -> None:
        if thread.name.startswith("transfer-") and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    with fault_server() as other:
        monkeypatch.setattr(threading.Thread, "start", start_one_less)
        assert pull_all(Jobs(other, [1])) == ["1"]
        assert refused
        assert pull_all(Jobs(other, [2])) == ["2"]
    server.go.set()
    assert len(running.result(10)) == 4
