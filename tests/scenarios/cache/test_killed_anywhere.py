"""Death by SIGKILL at the changes that a command makes to the disk: what is left has an owner, and `clean` finds it.

Every few changes (CRASH_POINT_STRIDE apart; 1 tries each of them, in some minutes), from one to the one after the last.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import tree

from scenarios.cache.disk import clean_tells, leftovers, paths_below, said_bytes
from scenarios.cache.forks import ForkedTruss, Forks
from scenarios.cache.upstreams import OnHub, check, config, root_of, run

STRIDE = int(os.environ.get("CRASH_POINT_STRIDE", "41"))
A, B = random.Random(1).randbytes(30_000), random.Random(2).randbytes(20_000)
BEFORE = {"model.bin": A, "sub/twin.bin": A, "other.bin": B, "config.json": b"{}", "x": b"x"}
AFTER = {"model.bin": B, "other.bin": A, "old/model.bin": A, "config.json": b"[]", "x/new.bin": b"now in a folder"}
# Commands, of which the last one is killed.
ACTS: dict[str, list[list[str]]] = {
    "fetch": [[]],
    "update": [[], ["-a"]],
    "clean": [[], ["clean"]],
}  # the last one is killed


@pytest.fixture
def lives() -> Iterator[Path]:
    """A folder where fsync costs nothing, as far as this machine has one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def entry(upstream: OnHub, layout: str) -> str:
    if layout == "hub":
        return f"model_cache:\n  - repo_id: {upstream.name}\n"
    return config(layout, upstream.entry("main", layout, "m"))


def deaths(act: str, layout: str, lives: Path, hub: Hub, forks: Forks) -> Iterator[ForkedTruss]:
    """Yield machines on which the act died, each later, and last the one where it did not."""
    number = random.Random(f"{act} {layout}").randrange(STRIDE)
    while True:
        number += STRIDE
        upstream = OnHub(hub, f"org/{act}-{layout}-{number}")
        truss = ForkedTruss(lives / f"{number:04}", forks=forks, hub=hub)
        truss.config(entry(upstream, layout))
        upstream.put("main", BEFORE)
        *before, last = ACTS[act]
        for command in before:
            run(truss, *command)
        if act == "update":
            upstream.put("main", AFTER)
        ran = truss.cli(*last, dies_at=number)
        assert ran.code in (0, -signal.SIGKILL), ran.text
        yield truss
        if ran.code == 0:
            return


def states(truss: ForkedTruss) -> list[Path]:
    return list(paths_below(truss.root / "home" / ".local"))


@pytest.mark.parametrize("layout", ["hub", "volume", "mount"])
@pytest.mark.parametrize("act", ACTS)
def test_what_a_kill_left_is_found_by_clean_and_a_rerun_is_right(
    act: str, layout: str, lives: Path, hub: Hub, forks: Forks
) -> None:
    for truss in deaths(act, layout, lives, hub, forks):
        if layout != "hub":
            for path, data in tree(root_of(truss, layout) / "m").items():
                assert data in (BEFORE.get(path), AFTER.get(path)), "whole, or not there"
        clean_tells(truss)
        assert leftovers(truss) == []
        assert states(truss) == []
        run(truss)
        check(truss, layout, {"m": AFTER if act == "update" else BEFORE} if layout != "hub" else {})
        if layout == "hub":
            (folder,) = truss.hub_cache.glob("*/snapshots/*")
            assert tree(folder) == (AFTER if act == "update" else BEFORE)


@pytest.mark.parametrize(("act", "layout"), [("fetch", "hub"), ("update", "mount"), ("update", "volume")])
def test_a_rerun_after_a_kill_leaves_no_trace_of_it(act: str, layout: str, lives: Path, hub: Hub, forks: Forks) -> None:
    """Without a clean between: no unfinished, staged or lock file is there after it, and `clean` takes all."""
    for truss in deaths(act, layout, lives, hub, forks):
        run(truss)
        run(truss, "-a")
        check(truss, layout, {"m": AFTER if act == "update" else BEFORE} if layout != "hub" else {})
        traces = [
            path
            for path in paths_below(truss.hub_cache, truss.model_cache, truss.mounts)
            if {"partials", "published", "locks"} & {*path.parts} and ".truss_cache" in path.parts
        ]
        assert traces == []
        dry, wet = truss.cli("clean", "-n"), truss.cli("clean")
        assert said_bytes(dry) == said_bytes(wet) > 0
        assert leftovers(truss) == []


@pytest.mark.parametrize("layout", ["volume", "mount"])
def test_a_file_of_the_user_that_a_killed_replace_did_not_reach_is_never_removed(
    layout: str, lives: Path, hub: Hub, forks: Forks
) -> None:
    theirs = {path: f"the user's {path}".encode() for path in BEFORE}

    def left_by_a_kill_at(number: int) -> int:
        """Check the promise; return how many of the user's files the killed run did not reach."""
        upstream = OnHub(hub, f"org/replace-{layout}-{number}")
        truss = ForkedTruss(lives / f"{number:04}", forks=forks, hub=hub)
        truss.config(entry(upstream, layout))
        upstream.put("main", BEFORE)
        shown = root_of(truss, layout) / "m"
        for path, data in theirs.items():
            (shown / path).parent.mkdir(parents=True, exist_ok=True)
            (shown / path).write_bytes(data)
        truss.cli("run", "--replace", dies_at=number)
        untouched = {path: data for path, data in tree(shown).items() if data == theirs.get(path)}
        assert truss.cli("run").code == int(bool(untouched)), "refused, by name"
        truss.cli("clean")
        assert {path: (shown / path).read_bytes() for path in untouched} == untouched
        return len(untouched)

    before, after = 1, 512  # the last change before the run replaces a file is found by halves
    while after - before > 1:
        half = (before + after) // 2
        before, after = (half, after) if left_by_a_kill_at(half) == len(theirs) else (before, half)
    left = [len(theirs) - 1]
    while left[-1]:
        left.append(left_by_a_kill_at(after + len(left)))
    assert len({*left}) > 2, "cut between the files"
