"""`truss_cache_tasks.fetch`: the run of `truss-cache` as a function, which prints nothing and leaves signals alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from recorder import Recorder
from servers.hub import Hub
from trusses import Truss

import truss_cache_tasks
from truss_cache_tasks import fetch, load_config
from truss_cache_tasks.errors import ConfigError, NotFound
from truss_cache_tasks.events import Committed, Failed, Planned, Received, Warned

TWO = """
    model_cache:
      - repo_id: file://./src
      - repo_id: org/two
"""


@pytest.fixture
def two(truss: Truss, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Truss:
    (truss.folder / "src").mkdir()
    (truss.folder / "src" / "one.bin").write_bytes(b"1" * 20_000)
    hub.create("org/two").commit({"two.bin": b"2" * 30_000, "sub/more.bin": b"m" * 1_500})
    truss.config(TWO)
    for name, value in truss.env.items():
        monkeypatch.setenv(name, value)
    return truss


def test_a_run_answers_for_each_entry_and_prints_nothing(two: Truss, capfd: pytest.CaptureFixture[str]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    result = fetch(two.folder)
    assert result.ok
    assert list(result.entries) == ["src", "org/two"]
    ours, theirs = result.entries.values()
    assert (ours.status, ours.path, ours.files, ours.bytes_fetched) == ("fetched", two.model_cache / "src", 1, 20_000)
    assert (theirs.status, theirs.files, theirs.bytes_fetched) == ("fetched", 2, 31_500)
    assert theirs.path == two.hub_cache / "models--org--two" / "snapshots" / theirs.revision
    assert theirs.path is not None
    assert (theirs.path / "two.bin").read_bytes() == b"2" * 30_000
    assert len(theirs.revision) == 40
    assert len(theirs.snapshot_key) == 64
    assert capfd.readouterr() == ("", "")
    assert {number: signal.getsignal(number) for number in before} == before
    assert two.cli("why", "--check").code == 0, "truss-cache shares its records"


def test_what_is_fresh_is_not_fetched_again(two: Truss, hub: Hub) -> None:
    first = fetch(two.folder)
    hub.requests.clear()
    again = fetch(load_config(two.folder))
    assert [entry.status for entry in again.entries.values()] == ["fresh", "fresh"]
    assert [entry.bytes_fetched for entry in again.entries.values()] == [0, 0]
    for name, entry in again.entries.items():
        assert (entry.path, entry.snapshot_key) == (first.entries[name].path, first.entries[name].snapshot_key)
    assert hub.requests == []


def test_names_choose_and_a_wrong_one_is_a_config_error(two: Truss, hub: Hub) -> None:
    assert list(fetch(two.folder, ["org/two"]).entries) == ["org/two"]
    assert list(fetch(two.folder, "org/two").entries) == ["org/two"]
    hub.requests.clear()
    with pytest.raises(ConfigError, match="no entry is called 'org/tow'"):
        fetch(two.folder, ["src", "org/tow"])
    with pytest.raises(ConfigError, match="no entry is called 'org/tow'"):
        fetch(two.folder, "org/tow")
    assert hub.requests == []
    assert not (two.model_cache / "src").exists()


def test_the_result_has_the_order_of_the_config_whatever_that_of_the_names(two: Truss) -> None:
    assert list(fetch(two.folder, ["org/two", "src"]).entries) == ["src", "org/two"]


def test_a_failure_is_in_the_result_and_the_others_are_fetched(two: Truss) -> None:
    two.config(TWO + "      - repo_id: org/none\n")
    recorder = Recorder()
    result = fetch(two.folder, reporter=recorder)
    assert not result.ok
    assert [entry.status for entry in result.entries.values()] == ["fetched", "fetched", "failed"]
    failed = result.entries["org/none"]
    assert isinstance(failed.error, NotFound)
    assert failed.path is None
    assert recorder.of(Failed) == [Failed(entry="org/none", error=failed.error)]


def test_a_broken_config_is_raised(two: Truss) -> None:
    two.config("model_cache:\n  - repo_id: org/one\n    revison: v1\n")
    with pytest.raises(ConfigError, match="revison: unknown key"):
        fetch(two.folder)


def test_events_have_the_names_of_their_entries(two: Truss) -> None:
    recorder = Recorder()
    fetch(two.folder, reporter=recorder)
    assert {event.entry: event.missing_size for event in recorder.of(Planned)} == {"src": 20_000, "org/two": 31_500}
    for name, size in {"src": 20_000, "org/two": 31_500}.items():
        assert sum(event.size for event in recorder.of(Received) if event.entry == name) == size
    assert {event.entry for event in recorder.of(Committed)} == {"src", "org/two"}


def test_warnings_of_the_config_are_events(two: Truss, capfd: pytest.CaptureFixture[str]) -> None:
    two.config("model_name: none\n")
    recorder = Recorder()
    assert fetch(two.folder, reporter=recorder).entries == {}
    assert recorder.events == [Warned(message="config.yaml: no model_cache entries, nothing to fetch")]
    assert capfd.readouterr() == ("", "")


def test_two_threads_may_fetch_at_once_and_each_byte_comes_once(two: Truss, hub: Hub) -> None:
    recorder, results = Recorder(), []
    threads = [threading.Thread(target=lambda: results.append(fetch(two.folder, reporter=recorder))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.ok for result in results] == [True, True]
    assert sum(event.size for event in recorder.of(Received)) == 51_500
    assert hub.sent["cdn"] == 30_000


def test_what_a_reporter_raises_ends_the_run_and_is_raised(two: Truss) -> None:
    class Enough(Exception):
        pass

    def reporter(event: object) -> None:
        if isinstance(event, Received):
            raise Enough

    with pytest.raises(Enough):
        fetch(two.folder, reporter=reporter)
    assert fetch(two.folder).ok


INTERRUPTED = """
import os, signal, sys, threading
from truss_cache_tasks import fetch
from truss_cache_tasks.events import Received

told = []

def reporter(event):
    if isinstance(event, Received) and not told:
        told.append(event)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

try:
    fetch(sys.argv[1], ["org/two"], reporter)
except KeyboardInterrupt:
    print("interrupted", *(thread.name for thread in threading.enumerate()), flush=True)
print(fetch(sys.argv[1], ["src"]).ok)
"""


def test_ctrl_c_ends_the_run_and_the_next_one_works(two: Truss, hub: Hub) -> None:
    hub.fail("", "stall", host="cdn")
    done = two.python(INTERRUPTED, str(two.folder))
    assert (done.code, done.out) == (0, "interrupted MainThread\nTrue\n"), done.text
    assert not list(two.hub_cache.rglob("two.bin"))
    assert fetch(two.folder).ok


@pytest.mark.slow  # starts a process
def test_importing_the_package_imports_nothing_else_of_it() -> None:
    code = "import sys, truss_cache_tasks; print(*[name for name in sys.modules if 'truss_cache_tasks' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "truss_cache_tasks\n"


def test_every_public_name_is_there(tmp_path: Path) -> None:
    for name in truss_cache_tasks.__all__:
        assert getattr(truss_cache_tasks, name) is not None
    assert dir(truss_cache_tasks) == sorted(truss_cache_tasks.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'fech'"):
        _ = truss_cache_tasks.fech
