"""Processes that wait for each other: they say for whom, take over from the dead, and wait for what stands still."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from entry_cases import FILES, Case, make_case
from odd_disk import OddDisk, odd_disk
from servers.hub import Hub
from servers.tools import wait_until
from trusses import BIN, Truss, ended

from scenarios.cache.test_odd_disks import Make, ours

__all__ = ["make_case", "odd_disk"]

BIG = FILES["model.bin"] * 400  # 12 MB: two parts
BOTH = {"model.bin": BIG, "config.json": b"{}"}
COMMAND = [str(BIN / "truss-cache")]


def partials(case: Case) -> list[Path]:
    return list(case.truss.root.rglob(".truss_cache/partials/*"))


def stalled(case: Case, hub: Hub, **env: str) -> subprocess.Popen[str]:
    """Start a run that holds its locks: the bytes of its large file stop in the middle until `hub.released`."""
    for _ in range(2):
        hub.fail("model.bin", "stall", host="cdn")
    child = case.truss.start(COMMAND, **env)

    def is_at_work() -> bool:
        asked = [request for request in hub.asked("GET", "model.bin") if request.host == "cdn"]
        return bool(asked) and bool(partials(case))

    wait_until(is_at_work, "a partial of the first run", alive=lambda: child.poll() is None)
    return child


def line_of(child: subprocess.Popen[str], word: str) -> str:
    """Return the next line on stderr with this word."""
    assert child.stderr is not None
    for line in child.stderr:
        if word in line:
            return line.rstrip()
    raise AssertionError(f"the process ended without a line with {word!r}")


@pytest.mark.parametrize("layout", ["hub", "mount"])
def test_who_waits_says_for_whom_and_a_dead_holder_is_taken_over(layout: str, make_case: Make, hub: Hub) -> None:
    case = make_case(layout, BOTH)
    one = stalled(case, hub)
    with ended(one):
        two = case.truss.start(COMMAND)
        with ended(two):
            told = line_of(two, "waiting")
            found = re.fullmatch(
                r"org/name: waiting for pid (\d+) on host \S+, which fetches this entry \((.+)\)", told
            )
            assert found is not None, told
            assert int(found[1]) == one.pid
            assert re.fullmatch(r"since \d\d:\d\d, .+ of 12\.0 MB", found[2])
            one.kill()
            one.communicate()
            hub.released.set()
            _, said = two.communicate(timeout=15)
            assert two.returncode == 0, said
    case.is_whole(BOTH)
    runs = [json.loads(line) for line in (case.records / "runs.jsonl").read_text().splitlines()]
    assert [(run["did"], run["pid"], run["waits"]) for run in runs] == [("fetched", two.pid, 1)]


def test_a_holder_that_stands_still_is_alive_and_waited_for(make_case: Make, hub: Hub) -> None:
    case = make_case("hub", BOTH)
    one = stalled(case, hub)
    with ended(one):
        one.send_signal(signal.SIGSTOP)
        hub.released.set()
        two = case.truss.start(COMMAND)
        with ended(two):
            assert f"waiting for pid {one.pid} " in line_of(two, "waiting")
            assert two.poll() is None
            one.send_signal(signal.SIGCONT)
            for child in (one, two):
                _, said = child.communicate(timeout=60)
                assert child.returncode == 0, said
    assert sum(request.host == "cdn" for request in hub.asked("GET", "model.bin")) <= 2, "each part once"
    case.is_whole(BOTH)


def test_who_waits_for_a_file_names_the_process_that_fetches_it(make_case: Make, hub: Hub) -> None:
    case = make_case("hub", BOTH)
    one = stalled(case, hub)
    with ended(one):
        other = case.truss.folder / "other"
        other.mkdir()
        (other / "config.yaml").write_text("model_cache:\n  - repo_id: org/name\n    allow_patterns: [model.bin]\n")
        two = case.truss.start([*COMMAND, "-f", str(other)])
        with ended(two):
            told = line_of(two, "waiting")
            assert f"waiting for pid {one.pid} on host " in told
            assert "which fetches model.bin (since" in told
            hub.released.set()
            for child in (one, two):
                _, said = child.communicate(timeout=60)
                assert child.returncode == 0, said


def test_on_a_full_disk_a_lock_is_held_without_a_note(odd_disk: OddDisk, tmp_path: Path) -> None:
    code = """
        import sys
        from truss_cache_tasks.store.files.locks import FileLock, locked, try_lock
        from truss_cache_tasks.store.files.tree import FileTree
        lock = FileLock(FileTree(sys.argv[1]), "locks/one.lock")
        with locked(lock):
            print(try_lock(lock), lock.read_holder())
    """
    ran = Truss(tmp_path / "t").python(code, str(tmp_path), **odd_disk(tmp_path, "write=ENOSPC"))
    assert ran.out == "None None\n", ran


@pytest.mark.parametrize("layout", ["hub", "mount"])
def test_two_runs_whose_locks_do_nothing_outlive_the_death_of_one(
    layout: str, make_case: Make, hub: Hub, odd_disk: OddDisk
) -> None:
    case = make_case(layout, BOTH)
    env = odd_disk(case.truss.root, "flock=ok")
    one = stalled(case, hub, **env)
    with ended(one):
        hub.fail("model.bin", "stall", host="cdn")
        two = case.truss.start(COMMAND, **env)
        with ended(two):
            wait_until(
                lambda: len({path.stem for path in partials(case)}) > 1,
                "a partial of the second run",
                alive=lambda: two.poll() is None,
            )
            one.kill()
            one.communicate()
            hub.released.set()
            _, said = two.communicate(timeout=60)
            assert two.returncode == 0, said
    case.is_whole(BOTH)
    ran = case.truss.cli("clean")
    assert ran.code == 0, ran
    assert ours(case.truss) == []


HOLD = """
import sys, time
from truss_cache_tasks.store.files.locks import FileLock, locked
from truss_cache_tasks.store.files.tree import FileTree
with locked(FileLock(FileTree(sys.argv[1]), sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("what", ["clean", "run"])
def test_every_wait_of_a_command_is_told_and_can_be_ended(what: str, make_case: Make) -> None:
    """A clean waits for the lock of the root, a run for that of the file that keeps the roots of its project."""
    case = make_case("local")
    state = case.truss.root / "home" / ".local" / "state" / "truss-cache"
    if what == "clean":
        assert case.truss.cli().code == 0
    tree, lock = (case.root, ".truss_cache/locks/root.lock") if what == "clean" else (state, "ours.lock")
    with ended(case.truss.start([str(BIN / "python"), "-c", HOLD, str(tree), lock])) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        child = case.truss.start([*COMMAND, what], TRUSS_CACHE_PROJECT="ours")
        with ended(child):
            told = line_of(child, "waiting")
            assert told.startswith("clean: " if what == "clean" else "weights: "), told
            assert f"waiting for pid {holder.pid} on host " in told
            assert f", which changes {tree} (since " in told
            child.terminate()
            _, said = child.communicate(timeout=15)
            assert child.returncode == 143, said
        holder.kill()
        holder.communicate()
    assert case.truss.cli(what, TRUSS_CACHE_PROJECT="ours").code == 0
