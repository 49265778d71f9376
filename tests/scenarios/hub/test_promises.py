"""Nothing wrong becomes visible, nothing is written outside, and a failed edit leaves the earlier good state."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import BIG, FILES, OTHER, Judge, Machine, eventually, read
from servers.hub import Hub, Repo
from servers.hub_repos import File

from truss_cache_tasks.errors import CacheTaskError, Collision, IntegrityError, UnsafeName

MAIN = "org/name"
LAYOUTS = [{}, {"mount_location": "/m"}, {"use_volume": True, "volume_folder": "v"}]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["hub", "mount", "volume"])


def visible(machine: Machine) -> dict[str, bytes]:
    """Return what readers of any layout see."""
    seen: dict[str, bytes] = {}
    for root in (machine.repo() / "snapshots", machine.mounts, machine.model_cache):
        seen |= read(root)
    return seen


@layouts
def test_a_bit_that_is_flipped_twice_is_an_integrity_error_and_nothing_is_visible(
    layout: dict[str, Any], machine: Machine, repo: Repo, hub: Hub
) -> None:
    hub.fail("model.bin", *["flip"] * 4, host="cdn")
    with pytest.raises(IntegrityError, match=r"model\.bin"):
        machine.truss(entry(MAIN, allow_patterns=["model.bin"], **layout)).run()
    assert visible(machine) == {}
    again = machine.truss(entry(MAIN, allow_patterns=["model.bin"], **layout))
    hub.faults.clear()
    again.run()
    assert again.fresh


@layouts
def test_a_bit_that_is_flipped_once_is_fetched_again(
    layout: dict[str, Any], machine: Machine, repo: Repo, hub: Hub
) -> None:
    hub.fail("model.bin", "flip", host="cdn")
    truss = machine.truss(entry(MAIN, allow_patterns=["model.bin"], **layout))
    truss.run()
    assert truss.fresh
    assert list(visible(machine).values()).count(BIG) >= 1


@layouts
def test_a_failing_second_file_leaves_the_earlier_good_state_whole(
    layout: dict[str, Any], machine: Machine, repo: Repo, hub: Hub
) -> None:
    before = machine.truss(entry(MAIN, **layout))
    before.run()
    was = visible(machine)
    repo.commit({"model.bin": OTHER[::-1], "config.json": b"[]", "new.bin": BIG[::-1]}, branch="dev")
    hub.fail("new.bin", *["flip"] * 4, host="cdn")
    with pytest.raises(IntegrityError):
        machine.truss(entry(MAIN, revision="dev", **layout)).run()
    assert visible(machine) == was
    assert machine.truss(entry(MAIN, **layout)).fresh
    hub.faults.clear()
    machine.asked()
    after = machine.truss(entry(MAIN, revision="dev", **layout))
    after.run()
    assert after.fresh
    assert "new.bin" in machine.downloads()


HOSTILE = [
    "../escaped.bin",
    "a/../../escaped.bin",
    "/absolute.bin",
    "nul\0.bin",
    ".truss_cache/manifests/x.json",
    "sub/.truss_cache/x.json",
    ".TRUSS_CACHE/x.json",
    "half\ud800.bin",
    "..",
]


@layouts
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_that_would_leave_the_folder_is_refused(
    name: str, layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    repo.trees[repo.refs["refs/heads/main"]][name] = File(b"evil", False, False)
    with pytest.raises(UnsafeName):
        machine.truss(entry(MAIN, **layout)).run()
    assert visible(machine) == {}
    assert machine.downloads() == []
    outside = {p for p in machine.root.rglob("*") if p.name in ("escaped.bin", "absolute.bin", "x.json")}
    assert outside == set()


@layouts
@pytest.mark.parametrize("names", [["file", "file/x"], ["p//y", "p/y"], ["./z", "z"]], ids=str)
def test_names_that_want_one_path_are_refused(
    names: list[str], layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    for name in names:
        repo.trees[repo.refs["refs/heads/main"]][name] = File(name.encode(), False, False)
    with pytest.raises(Collision) as error:
        machine.truss(entry(MAIN, **layout)).run()
    assert error.value.hint
    assert visible(machine) == {}


@layouts
def test_a_name_longer_than_any_disk_allows_fails_as_one_of_ours(
    layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    repo.commit({"n" * 300: b"long"})
    with pytest.raises(CacheTaskError) as error:
        machine.truss(entry(MAIN, **layout)).run()
    assert error.value.hint


def test_a_flat_entry_may_turn_a_file_into_a_folder_and_back(machine: Machine, repo: Repo) -> None:
    repo.tag("v1")
    repo.commit({"fp16/model.bin": None, "fp16/twin.bin": None, "fp16": b"a file now"})
    for revision in ("v1", "main", "v1"):
        truss = machine.truss(entry(MAIN, revision=revision, mount_location="/m"))
        truss.run()
        assert truss.fresh
        found = read(machine.mounts / "m")
        assert found == (FILES if revision == "v1" else {**_top(), "fp16": b"a file now"})


def _top() -> dict[str, bytes]:
    return {path: data for path, data in FILES.items() if "/" not in path}


# Killed anywhere


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from entries import entry
from machine import Machine
class Hub: url = sys.argv[3]
machine = object.__new__(Machine)
root = Path(sys.argv[2])
machine.root, machine.hub = root, Hub
machine.hub_cache, machine.model_cache = root / "hub", root / "model_cache"
machine.mounts, machine.secrets = root / "mounts", root / "secrets"
layout = {"mount_location": "/m"} if sys.argv[4] == "mount" else {}
print("ready", flush=True)
machine.truss(entry("org/name", **layout)).run()
"""


@pytest.mark.parametrize("layout", ["hub", "mount"])
def test_after_a_sigkill_every_path_is_absent_or_whole_and_a_rerun_ends_good(
    layout: str, machine: Machine, hub: Hub, judge: Judge
) -> None:
    pick = random.Random(7)
    many = {f"part-{n:02}.bin": pick.randbytes(30_000 + n) for n in range(24)}
    repo = hub.create(MAIN)
    repo.commit(many)
    got: set[str] = set()
    for _ in range(5):
        left = sorted(many.keys() - got)
        if left:
            hub.fail(pick.choice(left), "stall", host="cdn")  # so that one is in flight whenever the child dies
        seen = len(hub.requests)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(Path(__file__).parents[2]), str(machine.root), hub.url, layout],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        child.stdout.readline()
        enough = pick.randrange(1, 2 + 2 * len(left))  # requests: a listing, and two for every other file
        eventually(lambda: child.poll() is not None or len(hub.requests) - seen >= enough)  # noqa: B023 - called in here
        child.send_signal(signal.SIGKILL)
        child.communicate()
        hub.faults.clear()
        for path, data in visible(machine).items():
            assert data == many[path.rpartition("/")[2]], path
        blobs = [p for p in (machine.repo() / "blobs").glob("*")] if machine.repo().exists() else []
        got = {path for path, data in many.items() if any(blob.read_bytes() == data for blob in blobs)}
        assert len(got) == len(blobs)
        judge.scan(machine) if machine.hub_cache.exists() else None
    hub.requests.clear()
    fields: dict[str, Any] = {"mount_location": "/m"} if layout == "mount" else {}
    truss = machine.truss(entry(MAIN, **fields))
    truss.run()
    assert truss.fresh
    assert set(machine.downloads()) == many.keys() - got
    assert judge.snapshot(machine) == many
    assert list(machine.root.rglob(".truss_cache/partials/*")) == []
    assert list(machine.root.rglob(".truss_cache/published/*")) == []
    truss.clean()  # what was published before a kill is ours to remove
    assert visible(machine) == {}
    assert not machine.repo().exists()


def test_partials_of_a_dead_run_are_swept_and_those_of_a_live_one_are_not(
    machine: Machine, repo: Repo, hub: Hub, in_background: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> None:
    machine.truss(entry(MAIN, allow_patterns=["*.json"])).run()
    partials = machine.repo() / ".truss_cache" / "partials"
    (partials / f"{'0' * 64}.deaddead").write_bytes(b"x")
    hub.fail("model.bin", "stall", host="cdn")
    live = in_background(machine.truss(entry(MAIN, name="live", allow_patterns=["model.bin"]), project="live").run)
    eventually(lambda: [r for r in hub.asked("GET", "model.bin") if r.host == "cdn"])
    machine.truss(entry(MAIN, allow_patterns=["*.json", "*.txt"])).run()
    assert [p.name for p in partials.iterdir() if p.name.endswith(".deaddead")] == []
    assert len(list(partials.iterdir())) == 1
    hub.released.set()
    assert live()["live"].files == 1
    assert os.listdir(partials) == []
