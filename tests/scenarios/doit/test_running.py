"""`doit cache_weights` in all its modes: what runs, what it exits with, and what a no-op asks."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import Ran, Truss, tree

START_METHODS = ("fork", "spawn", "forkserver")
MODES = [pytest.param(["-P", "thread"], None, id="thread")] + [
    pytest.param(["-P", "process"], method, id=method) for method in START_METHODS
]
TWO = """
    model_cache:
      - repo_id: org/one
      - repo_id: org/two
"""


def dodo_starting_by(method: str | None) -> str:
    """A dodo.py as the user of another platform has it: macOS spawns, Linux of Python 3.14 has a fork server."""
    text = "from truss_cache_tasks import task_cache_weights\n"
    return text if method is None else f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n{text}"


def status(truss: Truss) -> dict[str, str]:
    listed = truss.doit("list", "--all", "--status")
    assert listed.code == 0, listed.text
    return {line.split()[1]: line.split()[0] for line in listed.out.splitlines()}


def ran(result: Ran) -> set[str]:
    """The tasks that doit ran, by its reporter's `.  name`."""
    return set(re.findall(r"^\. +(\S+)", result.out, re.M))


def listed(truss: Truss) -> list[str]:
    quiet = truss.doit("list", "-q")
    assert (quiet.code, quiet.err) == (0, "")
    return [line.rstrip() for line in quiet.out.splitlines()]


def lose_database(truss: Truss) -> None:
    lost = list(truss.folder.glob(".doit.db*"))
    assert lost
    for path in lost:
        path.unlink()


@pytest.fixture
def two(truss: Truss, hub: Hub) -> Truss:
    hub.create("org/one").commit({"one.bin": b"1" * 20_000})
    hub.create("org/two").commit({"two.bin": b"2" * 20_000})
    truss.config(TWO)
    return truss


def blobs_fetched(hub: Hub) -> list[str]:
    """The paths of the files that were read, once for each time (LFS files at the CDN, others at the Hub)."""
    cdn = [r.path for r in hub.requests if r.method == "GET" and r.host == "cdn"]
    small = [r.path for r in hub.requests if r.method == "GET" and r.host == "hub" and "/resolve/" in r.path]
    return sorted(path.rsplit("/", 1)[-1] for path in (cdn or small))


def test_doit_fetches_every_entry_and_a_second_run_asks_nobody(two: Truss, hub: Hub) -> None:
    assert status(two) == {"cache_weights": "R", "cache_weights:org/one": "R", "cache_weights:org/two": "R"}
    first = two.doit()
    assert first.code == 0, first.text
    assert ran(first) == {"cache_weights:org/one", "cache_weights:org/two"}
    assert (two.hub_cache / "models--org--one").is_dir()
    hub.requests.clear()
    before = tree(two.root / "hf"), _stamps(two.root / "hf")

    second = two.doit("cache_weights")
    assert (second.code, ran(second), second.err) == (0, set(), "")
    assert status(two) == {"cache_weights": "U", "cache_weights:org/one": "U", "cache_weights:org/two": "U"}
    lose_database(two)
    third = two.doit("cache_weights")
    assert (third.code, ran(third), third.err) == (0, set(), "")
    assert hub.requests == []
    assert (tree(two.root / "hf"), _stamps(two.root / "hf")) == before, "a no-op wrote below the cache root"


def _stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_one_entry_can_be_asked_for_by_name(two: Truss, hub: Hub) -> None:
    one = two.doit("cache_weights:org/two")
    assert (one.code, ran(one)) == (0, {"cache_weights:org/two"})
    assert status(two) == {"cache_weights": "R", "cache_weights:org/one": "R", "cache_weights:org/two": "U"}
    assert not hub.asked(ending="org/one/tree/main")
    rest = two.doit("cache_weights")
    assert (rest.code, ran(rest)) == (0, {"cache_weights:org/one"})


@pytest.mark.parametrize(("how", "method"), MODES)
def test_entries_side_by_side_are_fetched_and_then_fresh(
    two: Truss, hub: Hub, how: list[str], method: str | None
) -> None:
    two.dodo(dodo_starting_by(method))
    first = two.doit("run", "-n", "4", *how)
    assert first.code == 0, first.text
    assert ran(first) == {"cache_weights:org/one", "cache_weights:org/two"}
    assert blobs_fetched(hub) == ["one.bin", "two.bin"]
    hub.requests.clear()
    again = two.doit("run", "-n", "4", *how)
    assert (again.code, ran(again), again.err, hub.requests) == (0, set(), "", [])
    forced = two.doit("run", "-a", "-n", "4", *how)
    assert forced.code == 0, forced.text
    assert forced.err.count("1 file, 20.0 kB, here already") == 2, "an entry that is not forced is not planned"
    assert blobs_fetched(hub) == []


def test_a_failed_entry_stops_the_later_ones_and_with_c_does_not(two: Truss, hub: Hub) -> None:
    two.config("""
        model_cache:
          - repo_id: org/none
          - repo_id: org/one
    """)
    stopped = two.doit("cache_weights")
    assert stopped.code == 1, stopped.text
    assert "org/none" in stopped.err
    assert not (two.hub_cache / "models--org--one").exists()
    on = two.doit("run", "-c", "cache_weights")
    assert on.code == 2, on.text
    assert status(two) == {"cache_weights": "R", "cache_weights:org/none": "R", "cache_weights:org/one": "U"}


@pytest.mark.parametrize(("how", "method"), MODES)
def test_a_failed_entry_side_by_side_with_c_leaves_the_others_fetched(
    two: Truss, how: list[str], method: str | None
) -> None:
    two.config("""
        model_cache:
          - repo_id: org/none
          - repo_id: org/one
          - repo_id: org/two
    """)
    two.dodo(dodo_starting_by(method))
    done = two.doit("run", "-c", "-n", "2", *how)
    assert done.code == 2, done.text
    assert "Traceback" not in done.text
    assert sum("hint: " in line for line in done.err.splitlines()) == 1
    assert set(status(two).values()) == {"R", "U"}
    assert status(two)["cache_weights:org/two"] == "U"


@pytest.mark.parametrize("backend", ["dbm", "json", "sqlite3"])
def test_every_backend_of_doit_is_only_a_hint(two: Truss, hub: Hub, backend: str) -> None:
    two.dodo(f"DOIT_CONFIG = {{'backend': {backend!r}}}\n" + dodo_starting_by(None))
    assert two.doit().code == 0
    hub.requests.clear()
    assert ran(two.doit()) == set()
    lose_database(two)
    assert ran(two.doit()) == set()
    assert set(status(two).values()) == {"U"}
    assert hub.requests == []
    forgotten = two.doit("forget", "cache_weights:org/one")
    assert forgotten.code == 0, forgotten.text
    again = two.doit()
    assert (again.code, ran(again), hub.requests) == (0, set(), [])


def test_list_and_completion_print_nothing_of_ours(two: Truss) -> None:
    two.config("model_cache: []\n")
    assert listed(two) == ["cache_weights"]
    two.config(TWO + "    secrets:\n      hf_access_token: hf_abcdefghijklmnopqrstuvwxyz01234567\n")
    assert listed(two) == ["cache_weights"]
    assert two.doit("tabcompletion").err == ""
    told = two.doit("list", "--all", "--status")
    assert told.err.count("config.yaml:") == 1, "the config's warning comes once, with the first judgement"


def test_info_shows_why_an_entry_would_run(two: Truss, hub: Hub) -> None:
    before = two.doit("info", "cache_weights:org/one")
    assert (before.code, "not fetched yet" in before.out) == (1, True)
    assert two.doit().code == 0
    fresh = two.doit("info", "cache_weights:org/one")
    assert (fresh.code, "up-to-date" in fresh.out) == (0, True)
    two.config(TWO.replace("org/one", "org/one\n        revision: v2"))
    changed = two.doit("info", "cache_weights:org/one")
    assert "revision: 'main' -> 'v2'" in changed.out
    group = two.doit("info", "cache_weights")
    assert (group.code, "org/one not fresh" in group.out) == (1, True)


def test_an_empty_model_cache_is_a_group_without_sub_tasks_and_says_so_once(two: Truss) -> None:
    for text in ("model_cache: []\n", "model_cache:\n", "model_name: no-weights\n"):
        two.config(text)
        empty = two.doit("cache_weights")
        assert (empty.code, empty.out) == (0, "-- cache_weights\n")
        assert empty.err.count("no model_cache entries") == 1
    assert status(two) == {"cache_weights": "U"}


def flip(path: Path) -> None:
    """Damage a byte where stat cannot see it: size and mtime stay."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_forced_run_hashes_everything_again_and_repairs_a_flipped_byte(two: Truss, hub: Hub) -> None:
    assert two.doit().code == 0
    (one,) = two.hub_cache.glob("models--org--one/snapshots/*/one.bin")
    flip(one.resolve())
    assert ran(two.doit()) == set(), "stat alone cannot see it"
    hub.requests.clear()
    assert two.doit("run", "-a").code == 0
    assert one.read_bytes() == b"1" * 20_000
    assert blobs_fetched(hub) == ["one.bin"]


SHARED = """
    model_cache:
      - repo_id: org/repo
        allow_patterns: ["a.bin", "both.bin"]
      - repo_id: org/repo
        allow_patterns: ["b.bin", "both.bin"]
"""


@pytest.mark.parametrize("how", [[], ["-n", "4", "-P", "thread"], ["-n", "4", "-P", "process"], ["cli"]])
def test_a_forced_run_takes_a_moved_main_and_entries_of_one_repo_end_on_one_commit(
    truss: Truss, hub: Hub, how: list[str]
) -> None:
    repo = hub.create("org/repo")
    old = repo.commit({"a.bin": b"a" * 20_000, "b.bin": b"b" * 20_000, "both.bin": b"c" * 20_000})
    truss.config(SHARED)
    assert truss.doit().code == 0
    new = repo.commit({"a.bin": b"A" * 20_000})
    assert truss.doit().out.count("-- ") == 3, "a pinned main stays where it is until the user asks"
    snapshots = truss.hub_cache / "models--org--repo" / "snapshots"
    flip((snapshots / old / "b.bin").resolve())  # of the entry that is judged after the other moved their pin
    done = truss.cli("-a") if how == ["cli"] else truss.doit("run", "-a", *how)
    assert done.code == 0, done.text
    assert (truss.hub_cache / "models--org--repo" / "refs" / "main").read_text() == new
    assert {name: (snapshots / new / name).read_bytes()[:1] for name in ("a.bin", "b.bin", "both.bin")} == {
        "a.bin": b"A",
        "b.bin": b"b",
        "both.bin": b"c",
    }
    assert (snapshots / new / "b.bin").read_bytes() == b"b" * 20_000, "-a hashes the second entry's files too"
    hub.requests.clear()
    assert set(status(truss).values()) == {"U"}
    assert hub.requests == []


def test_the_reporter_json_gets_stdout_alone_and_progress_goes_to_stderr(two: Truss) -> None:
    for how in ([], ["-n", "2", "-P", "thread"], ["-n", "2", "-P", "process"]):
        done = two.doit("run", "-a", "-r", "json", *how)
        assert done.code == 0, done.text
        assert {task["result"] for task in json.loads(done.out)["tasks"]} == {"success"}
        assert "org/one: " in done.err
    two.config("model_cache:\n  - repo_id: org/none\n")
    failed = two.doit("run", "-r", "json")
    assert failed.code == 1
    (entry,) = [task for task in json.loads(failed.out)["tasks"] if task["name"] == "cache_weights:org/none"]
    assert "hint: " in entry["error"]
