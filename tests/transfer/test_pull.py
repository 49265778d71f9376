"""The call: lazy, bounded, in the order of finishing, ended by closing, by stop(), and across a fork."""

import errno
import os
import queue
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.faults import FaultServer

from transfer.conftest import FAST, Scratch, content_of, error_of, job_for, on_received, pull_one, sha256
from truss_cache_tasks import transfer
from truss_cache_tasks.errors import AccessDenied, DiskError, SourceChanged, Stopped
from truss_cache_tasks.events import Received, Verified
from truss_cache_tasks.model.listing import Location
from truss_cache_tasks.network.cancel import WorkerToken
from truss_cache_tasks.transfer.context import this_process

BODY = bytes(range(256)) * 1024
HANGS = replace(FAST, connect_s=60, answer_s=60, stall_s=60)  # only a cancel ends these in a test's time


def jobs_for(server: FaultServer, count: int, *faults: str) -> list[transfer.Job]:
    return [job_for(server.add(f"/{n}", BODY, *faults), BODY, path=str(n)) for n in range(count)]


def test_many_files_come_whole_with_few_at_once_and_warm_connections(server: FaultServer) -> None:
    results = list(transfer.pull(jobs_for(server, 40), limits=replace(FAST, files=4)))
    assert {result.job.file.path for result in results} == {str(n) for n in range(40)}
    assert all(content_of(result.job) == BODY for result in results)
    assert server.most_in_flight <= 4
    assert server.connections <= 4


def test_files_come_in_the_order_in_which_they_finish(server: FaultServer) -> None:
    slow, *others = jobs_for(server, 3)
    let_go = threading.Event()

    def locate() -> Location:
        let_go.wait()
        return slow.locate()

    pull = transfer.pull([replace(slow, locate=locate), *others], limits=FAST)
    first = {next(pull).job.file.path, next(pull).job.file.path}
    let_go.set()
    assert first == {"1", "2"}
    assert [result.job.file.path for result in pull] == ["0"]


def test_a_failed_file_does_not_stop_the_others(server: FaultServer) -> None:
    jobs = jobs_for(server, 3)
    server.files["/1"].faults.append("403")
    results = {result.job.file.path: result for result in transfer.pull(jobs, limits=FAST)}
    assert isinstance(error_of(results.pop("1")), AccessDenied)
    assert all(isinstance(result, transfer.Done) for result in results.values())


def test_a_job_is_taken_in_the_callers_thread_when_another_one_was_yielded(server: FaultServer) -> None:
    taken = []

    def supply() -> Iterator[transfer.Job]:
        for job in jobs_for(server, 6):
            taken.append(threading.current_thread())
            yield job

    pull = transfer.pull(supply(), limits=replace(FAST, files=2))
    assert taken == []
    open_at_once = []
    for done, _ in enumerate(pull):
        open_at_once.append(len(taken) - done)
    assert max(open_at_once) == 2
    assert set(taken) == {threading.current_thread()}


def test_no_jobs_give_no_results_and_no_thread() -> None:
    assert list(transfer.pull([])) == []


def test_what_the_jobs_raise_comes_out_after_the_running_ones_were_cancelled(server: FaultServer) -> None:
    hanging = job_for(server.add("/w", BODY, "silence"), BODY)

    def supply() -> Iterator[transfer.Job]:
        yield hanging
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(transfer.pull(supply(), limits=HANGS))


def test_a_callable_that_raises_anything_else_is_a_bug_that_comes_out() -> None:
    def locate() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pull_one(job_for("http://unused", BODY, locate=locate))


@pytest.mark.parametrize("fault", ["silence", "stall:1000"])
def test_closing_ends_a_job_that_waits_for_the_network(server: FaultServer, fault: str) -> None:
    arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
    quick = job_for(server.add("/quick", BODY), BODY, path="quick")
    slow = job_for(server.add("/slow", BODY, *[fault] * 9), BODY, path="slow")
    limits = replace(HANGS, stop_s=60, buffer=1000)  # so that a thread which does not end is waited for
    pull = transfer.pull([slow, quick], on_received(lambda path, size: arrived.put(path)), limits=limits)
    assert next(pull).job.file.path == "quick"
    pull.close()  # conftest: no thread is left
    assert content_of(slow) in (b"", BODY[:1000])


@pytest.mark.slow
def test_closing_ends_a_job_that_connects(tmp_path: Path) -> None:
    import socket

    with socket.socket() as full:  # a backlog that is full drops further SYNs
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        local = tmp_path / "w"
        local.write_bytes(BODY)
        jobs = [
            job_for(f"http://127.0.0.1:{full.getsockname()[1]}/w", BODY),
            job_for(local.as_uri(), BODY, path="local"),
        ]
        pull = transfer.pull(jobs, limits=replace(HANGS, stop_s=60))
        assert next(pull).job.file.path == "local"
        pull.close()
        for filler in fillers:
            filler.close()


def test_closing_ends_a_job_that_waits_to_try_again(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(BODY)
    limits = replace(HANGS, stop_s=60, retry_after_cap_s=3600, total_s=9999)
    jobs = [
        job_for(server.add("/w", BODY, "503:3600"), BODY),
        job_for((tmp_path / "w").as_uri(), BODY, path="local"),
    ]
    pull = transfer.pull(jobs, limits=limits)
    assert next(pull).job.file.path == "local"
    pull.close()


def test_a_thread_that_hangs_in_locate_never_writes_to_a_descriptor_that_was_given_back(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY), BODY)
    entered, let_go = threading.Event(), threading.Event()

    def locate() -> Location:
        entered.set()
        let_go.wait()
        return job.locate()

    quick = job_for(server.add("/quick", BODY), BODY, path="quick")
    pull = transfer.pull([replace(job, locate=locate), quick], limits=replace(FAST, stop_s=0.05))
    assert next(pull).job.file.path == "quick"
    entered.wait()
    pull.close()
    (left,) = [thread for thread in threading.enumerate() if thread.name.startswith("transfer-")]
    let_go.set()
    left.join()
    assert content_of(job) == b""
    assert [asked.path for asked in server.asked] == ["/quick"]


def test_a_thread_that_hangs_between_two_chunks_writes_no_further_one(tmp_path: Path) -> None:
    (tmp_path / "slow").write_bytes(BODY)
    (tmp_path / "quick").write_bytes(b"x")
    entered, let_go = threading.Event(), threading.Event()

    @on_received
    def report(path: str, size: int) -> None:
        if path == "slow":
            entered.set()
            let_go.wait()

    slow = job_for((tmp_path / "slow").as_uri(), BODY, path="slow")
    quick = job_for((tmp_path / "quick").as_uri(), b"x", path="quick")
    pull = transfer.pull([slow, quick], report, limits=replace(FAST, stop_s=0.05, buffer=1000))
    assert next(pull).job.file.path == "quick"
    entered.wait()
    pull.close()
    (left,) = [thread for thread in threading.enumerate() if thread.name.startswith("transfer-")]
    let_go.set()
    left.join()
    assert content_of(slow) == BODY[:1000]


def test_stop_fails_what_runs_and_begins_nothing_more(server: FaultServer) -> None:
    hanging = [job_for(server.add(f"/{n}", BODY, "silence"), BODY, path=str(n)) for n in range(2)]
    quick = job_for(server.add("/quick", BODY), BODY, path="quick")
    others = [job_for(server.add(f"/other{n}", BODY), BODY, path=f"other{n}") for n in range(5)]
    pull = transfer.pull([*hanging, quick, *others], limits=replace(HANGS, files=3, stop_s=60))
    assert next(pull).job.file.path == "quick"
    transfer.stop()
    ends = [next(pull), next(pull)]
    with pytest.raises(Stopped):
        next(pull)
    assert {end.job.file.path for end in ends} == {"0", "1"}
    assert all(isinstance(error_of(end), Stopped) for end in ends)
    assert {asked.path for asked in server.asked} <= {"/0", "/1", "/quick"}
    with pytest.raises(Stopped):
        next(transfer.pull(jobs_for(server, 1)))
    transfer.reset()
    assert isinstance(pull_one(jobs_for(server, 1)[0]), transfer.Done)


def test_stop_yields_each_running_job_as_stopped(server: FaultServer) -> None:
    jobs = [job_for(server.add(f"/{n}", BODY, "silence"), BODY, path=str(n)) for n in range(3)]

    def supply() -> Iterator[transfer.Job]:
        yield from jobs
        transfer.stop()

    pull = transfer.pull(supply(), limits=replace(HANGS, stop_s=60))
    ends = list(pull)
    assert {end.job.file.path for end in ends} == {"0", "1", "2"}
    assert all(isinstance(error_of(end), Stopped) for end in ends)


def test_pulls_of_many_threads_share_the_cap_on_connections(server: FaultServer) -> None:
    jobs = jobs_for(server, 24)
    results: list[transfer.Done | transfer.Failed] = []

    def one(part: list[transfer.Job]) -> None:
        results.extend(transfer.pull(part, limits=replace(FAST, files=4, connections=3)))

    threads = [threading.Thread(target=one, args=(jobs[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 24
    assert all(isinstance(result, transfer.Done) for result in results)
    assert server.most_in_flight <= 3


class Waits(WorkerToken):
    """A CancelToken that notes what it should wait."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def check(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.asked.append(seconds)


def test_the_rate_is_shared_and_paid_for() -> None:
    one, other = Waits(), Waits()
    limits = replace(FAST, max_rate=1000)
    this_process().pace(2500, limits, one)
    this_process().pace(2500, limits, other)
    this_process().pace(1, limits, one)
    assert one.asked[0] == 0
    assert 0 < other.asked[0] <= 2.5  # less what passed meanwhile
    assert other.asked[0] < one.asked[1] <= 5


def test_a_rate_makes_each_chunk_so_small_that_it_flows(server: FaultServer) -> None:
    sizes = []
    body = b"x" * 2500
    limits = replace(FAST, max_rate=8000)
    done = pull_one(job_for(server.add("/w", body), body), limits, on_received(lambda path, size: sizes.append(size)))
    assert isinstance(done, transfer.Done)
    assert max(sizes) == 1000


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="/dev/full, a disk that is always full, is a device of Linux"
)
def test_a_full_disk_is_a_store_error_and_is_not_tried_again(server: FaultServer) -> None:
    class Full:
        descriptor = os.open("/dev/full", os.O_RDWR)
        journal = None

    error = pull_one(job_for(server.add("/w", BODY), BODY, partial=Full())).error
    os.close(Full.descriptor)
    assert type(error) is DiskError
    assert str(error) == "w.bin: cannot write to the cache: no space left on device"
    assert len(server.asked) == 1


def test_a_disk_error_is_not_taken_for_a_network_error(server: FaultServer) -> None:
    class Closed:
        descriptor = -1
        journal = None

    error = pull_one(job_for(server.add("/w", BODY), BODY, partial=Closed())).error
    assert type(error) is DiskError
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == errno.EBADF
    assert len(server.asked) == 1


def in_child(work: Callable[[], int | None]) -> int:
    """Run `work` in a forked child; return its exit status."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = work() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_size_limit_is_a_store_error(server: FaultServer) -> None:
    job = job_for(server.add("/w", BODY), BODY)

    def work() -> int | None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) // 2, len(BODY) // 2))
        return 0 if type(pull_one(job).error) is DiskError else 1

    assert in_child(work) == 0
    assert len(server.asked) == 1


def test_a_forked_child_pulls_with_connections_of_its_own(server: FaultServer) -> None:
    assert isinstance(pull_one(jobs_for(server, 1)[0]), transfer.Done)  # leaves a warm connection in the parent
    before = server.connections

    def work() -> int | None:
        return 0 if all(isinstance(end, transfer.Done) for end in transfer.pull(jobs_for_child, limits=FAST)) else 1

    jobs_for_child = jobs_for(server, 3)
    assert in_child(work) == 0
    assert server.connections > before
    assert isinstance(pull_one(jobs_for(server, 1)[0]), transfer.Done)


def test_a_child_that_drops_its_copy_of_a_pull_does_not_end_the_parents(server: FaultServer) -> None:
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
    paused = job_for(server.add("/paused", BODY, "pause:1000"), BODY, path="paused")
    quick = job_for(server.add("/quick", BODY), BODY, path="quick")
    report = on_received(lambda path, size: arrived.put(size) if path == "paused" else None)
    pull = transfer.pull([paused, quick], report, limits=replace(HANGS, buffer=1000))
    assert next(pull).job.file.path == "quick"
    assert arrived.get() == 1000
    assert in_child(pull.close) == 0
    server.go.set()
    assert [type(end) for end in pull] == [transfer.Done]
    assert len(server.asked) == 2  # the connection that the child knew of was not ended


def test_a_forked_child_of_a_stopped_process_is_not_stopped(server: FaultServer) -> None:
    transfer.stop()
    job = jobs_for(server, 1)[0]
    assert in_child(lambda: 0 if isinstance(pull_one(job), transfer.Done) else 1) == 0


CHILD = """
    import signal, sys, threading
    sys.path.insert(0, {tests!r})
    from transfer.conftest import FAST, error_of, job_for, on_received
    from dataclasses import replace
    from truss_cache_tasks import transfer
    from truss_cache_tasks.errors import Stopped

    signal.signal(signal.SIGTERM, lambda *_: transfer.stop())
    limits = replace(FAST, answer_s=600, stall_s=600, stop_s=60, buffer=1000)
    jobs = [job_for(url, b"x" * 100_000) for url in sys.argv[1:]]
    arrived = []

    @on_received
    def report(path, size):
        if not arrived:
            arrived.append(size)
            print("ready", flush=True)

    try:
        ends = list(transfer.pull(jobs, report, limits=limits))
    except Stopped:
        sys.exit(5)
    left = [t for t in threading.enumerate() if t.name.startswith("transfer-")]
    sys.exit(0 if all(isinstance(error_of(end), Stopped) for end in ends) and not left else 1)
"""


def test_a_signal_handler_that_stops_ends_the_process_in_its_own_time(server: FaultServer) -> None:
    urls = [server.add(f"/{n}", b"x" * 100_000, "stall:5000") for n in range(3)]
    code = textwrap.dedent(CHILD).format(tests=os.path.dirname(os.path.dirname(__file__)))
    with subprocess.Popen([sys.executable, "-c", code, *urls], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0  # the stall lasts 600 s


def test_interrupting_the_caller_cancels_too(server: FaultServer) -> None:
    hanging = job_for(server.add("/w", BODY, "silence"), BODY)

    def supply() -> Iterator[transfer.Job]:
        yield hanging
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(transfer.pull(supply(), limits=replace(HANGS, stop_s=60)))


@pytest.mark.slow
def test_importing_it_loads_no_library_and_a_local_pull_no_urllib3(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    code = """
        import os, sys
        from truss_cache_tasks import transfer
        heavy = {"urllib3", "ssl", "xxhash", "awscrt", "http.client"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        from truss_cache_tasks.model.listing import Location, RemoteFile
        class Partial:
            descriptor = os.open(sys.argv[1] + ".out", os.O_RDWR | os.O_CREAT)
        job = transfer.Job(RemoteFile("w", 3, "", "w"), lambda: Location("file://" + sys.argv[1]), Partial())
        assert isinstance(list(transfer.pull([job]))[0], transfer.Done)
        assert "urllib3" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "w")], check=True)
    assert (tmp_path / "w.out").read_bytes() == b"abc"


def test_a_local_file_that_changed_or_is_gone_is_told_as_such(tmp_path: Path) -> None:
    from truss_cache_tasks.errors import NotFound

    source = tmp_path / "a b+ü.bin"
    source.write_bytes(BODY)
    seen = source.stat()
    good = f"{seen.st_mtime_ns}-{seen.st_size}"
    assert pull_one(job_for(source.as_uri(), BODY, validator=good)).job.partial.content == BODY
    assert type(pull_one(job_for(source.as_uri(), BODY, validator=f"1-{seen.st_size}")).error) is SourceChanged
    assert type(pull_one(job_for(source.as_uri(), BODY[:-1])).error) is SourceChanged
    assert type(pull_one(job_for((tmp_path / "none").as_uri(), BODY)).error) is SourceChanged
    assert type(pull_one(job_for(tmp_path.as_uri(), BODY)).error) is NotFound
    os.mkfifo(tmp_path / "fifo")
    assert type(pull_one(job_for((tmp_path / "fifo").as_uri(), BODY)).error) is NotFound


def test_a_local_file_that_changes_while_it_is_read_is_told_as_such(tmp_path: Path) -> None:

    source = tmp_path / "w"
    source.write_bytes(BODY)
    seen = source.stat()

    @on_received
    def report(path: str, size: int) -> None:
        os.utime(source, ns=(1, 1))

    job = job_for(source.as_uri(), BODY, validator=f"{seen.st_mtime_ns}-{seen.st_size}")
    assert type(pull_one(job, reporter=report).error) is SourceChanged


@pytest.mark.parametrize("status", ["403", "404", "503"])
def test_a_probe_fails_as_the_file_would(server: FaultServer, status: str) -> None:
    job = job_for(server.add("/w", BODY, *[status] * 9), BODY)
    want = type(pull_one(job, replace(FAST, attempts=2)).error)
    server.add("/w", BODY, *[status] * 9)
    with pytest.raises(want):
        transfer.probe(job.file, job.locate, limits=replace(FAST, attempts=2))


def test_a_probe_asks_for_one_byte_and_explains_in_the_sources_words(server: FaultServer) -> None:
    target = server.add("/cdn", BODY)
    job = job_for(server.add("/w", BODY, f"redirect:{target}"), BODY)
    transfer.probe(job.file, job.locate, limits=FAST)
    assert server.ranges() == ["bytes=0-0"] * 2
    empty = job_for(server.add("/empty", b""), b"")
    transfer.probe(empty.file, empty.locate, limits=FAST)
    assert server.asked[-1].status == 416
    with pytest.raises(AccessDenied, match="gated"):
        transfer.probe(
            job.file,
            lambda: Location(server.add("/w", BODY, "403")),
            lambda *_: AccessDenied("gated"),
            limits=FAST,
        )
    transfer.stop()
    with pytest.raises(Stopped):
        transfer.probe(job.file, job.locate, limits=FAST)


def test_a_probe_of_a_local_file_opens_it(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(BODY)
    job = job_for((tmp_path / "w").as_uri(), BODY)
    transfer.probe(job.file, job.locate)
    (tmp_path / "w").unlink()
    with pytest.raises(SourceChanged):
        transfer.probe(job.file, job.locate)


def test_memory_stays_at_a_buffer_for_each_worker(server: FaultServer) -> None:
    import tracemalloc

    body = bytes(48 << 20)
    jobs = [job_for(server.add(f"/{n}", body), body, path=str(n)) for n in range(2)]
    list(transfer.pull(jobs_for(server, 1), limits=FAST))
    tracemalloc.start()
    try:
        list(transfer.pull(jobs, limits=FAST))
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_scratch_is_the_kind_of_partial_that_the_engine_asks_for() -> None:
    partial: transfer.Partial = Scratch()
    assert partial.descriptor > 2


@pytest.mark.parametrize("digest", ["sha256", None])
def test_a_file_is_told_as_verified_once_and_after_all_its_bytes(server: FaultServer, digest: str | None) -> None:
    told: list[Any] = []
    assert isinstance(
        pull_one(job_for(server.add("/w", BODY), BODY, digest=digest), reporter=told.append), transfer.Done
    )
    *received, verified = told
    assert sum(event.size for event in received) == len(BODY)
    assert {type(event) for event in received} == {Received}
    text = "" if digest is None else f"sha256:{sha256(BODY).value}"
    assert verified == Verified(path="w.bin", size=len(BODY), digest=text)
