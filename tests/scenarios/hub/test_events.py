"""What a run tells its Reporter: values, with the entry's name, in the order in which things happen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from entries import entry
from machine import FILES, Machine
from recorder import Recorder
from servers.hub import Hub, Repo
from trusses import Truss

from truss_cache_tasks.errors import NotFound
from truss_cache_tasks.events import (
    Committed,
    Failed,
    Hashing,
    Planned,
    Published,
    Received,
    Retrying,
    Started,
    Verified,
    Waiting,
)
from truss_cache_tasks.model.records import Maker
from truss_cache_tasks.network.cancel import NEVER
from truss_cache_tasks.operations.fetch.fetch import fetch
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.operations.verify import verify
from truss_cache_tasks.store.records.fetch_notes import note_fetch

MAIN = "org/name"
BLOBS = {content: path for path, content in FILES.items()}  # equal files come once


def test_a_fetch_tells_of_its_plan_and_of_each_file(machine: Machine, repo: Repo) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    events = truss.recorder.events
    assert {event.entry for event in events} == {MAIN}
    total, missing = sum(map(len, FILES.values())), sum(map(len, BLOBS))
    assert events[0] == Started(entry=MAIN, reasons=("not fetched yet",), lists=True, forced=False)
    assert events[1] == Planned(
        entry=MAIN, files=len(FILES), size=total, missing_files=len(BLOBS), missing_size=missing
    )
    assert sum(event.size for event in truss.recorder.of(Received)) == missing
    for events_of_files in (truss.recorder.of(Verified), truss.recorder.of(Published)):
        assert sum(event.size for event in events_of_files) == missing
        assert len(events_of_files) == len(BLOBS)
    assert {event.digest.partition(":")[0] for event in truss.recorder.of(Verified)} == {"sha256", "git-sha1"}
    assert events[-1] == Committed(
        entry=MAIN,
        how="fetched",
        files=len(FILES),
        size=total,
        unverified=0,
        fetched_files=len(BLOBS),
        fetched_size=missing,
        path=str(truss.context().root.path / "snapshots" / next(iter(repo.trees))),
    )


def test_what_is_here_already_is_not_planned_to_come(machine: Machine, repo: Repo) -> None:
    machine.truss(entry(MAIN, allow_patterns=["fp16/model.bin"])).run()
    truss = machine.truss(entry(MAIN, allow_patterns=["fp16/model.bin", "empty.txt", "config.json"]))
    truss.run()
    (planned,) = truss.recorder.of(Planned)
    assert (planned.files, planned.missing_files, planned.missing_size) == (3, 2, 2)
    assert truss.recorder.of(Committed)[0].fetched_size == 2


def test_files_that_are_hashed_again_are_told_in_bytes(machine: Machine, hub: Hub) -> None:
    big = bytes(20 << 20)
    hub.create(MAIN).commit({"big.bin": big, "small.bin": b"s"})
    machine.truss(entry(MAIN)).run()
    truss = machine.truss(entry(MAIN))
    truss.run(force=True)
    assert [one.is_good for one in verify([truss.context()], NEVER, truss.recorder)] == [True]
    total = len(big) + 1
    events = truss.recorder.of(Hashing)
    assert {event.total for event in events} == {total}
    starts = [number for number, event in enumerate(events) if event.size == 0]
    assert len(starts) == 2, "a run and a verification"
    for first, last in zip(starts, [*starts[1:], len(events)], strict=True):
        told = [event.size for event in events[first + 1 : last]]
        assert total - (8 << 20) < sum(told) <= total
        assert min(told) >= 8 << 20


def test_a_failure_is_the_last_that_is_told(machine: Machine, hub: Hub) -> None:
    truss = machine.truss(entry("org/none"))
    with pytest.raises(NotFound) as raised:
        truss.run()
    assert truss.recorder.events[-1] == Failed(entry="org/none", error=raised.value)
    assert not truss.recorder.of(Committed)


def test_a_retry_that_waits_is_told_for_a_listing_and_for_bytes(machine: Machine, repo: Repo, hub: Hub) -> None:
    hub.fail("/revision/main", "503")
    hub.fail("", "429 Retry-After=1", host="cdn")
    truss = machine.truss(entry(MAIN, allow_patterns=["model.bin"]))
    truss.run()
    listing, content = truss.recorder.of(Retrying)
    assert (listing.entry, listing.path, listing.attempt) == (MAIN, "", 1)
    assert "503" in listing.cause
    assert (content.entry, content.path, content.attempt) == (MAIN, "model.bin", 1)
    assert "429" in content.cause
    assert content.delay_s >= 1


def test_a_person_sees_that_a_retry_waits(truss: Truss, hub: Hub) -> None:
    hub.create(MAIN).commit({"model.bin": FILES["model.bin"]})
    hub.fail("", "429 Retry-After=1", host="cdn")
    truss.config(f"model_cache:\n  - repo_id: {MAIN}\n")
    done = truss.cli()
    assert done.code == 0, done.text
    (line,) = [line for line in done.err.splitlines() if "retrying" in line]
    assert re.fullmatch(r"org/name: retrying model\.bin in \d+\.\d s: .*429.*", line)


HOLD = """
import sys
from truss_cache_tasks.store.files.locks import FileLock, try_lock
from truss_cache_tasks.store.files.tree import FileTree
held = []
for where in sys.argv[2:]:
    held.append(try_lock(FileLock(FileTree(sys.argv[1]), where)))
    held[-1].describe(done=1_200_000, size=4_100_000)
print(all(held), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["entry", "file", "file of an unknown", "root"])
def test_a_wait_for_another_process_is_told_with_its_holder(
    machine: Machine, repo: Repo, in_background: Callable[[Callable[[], Any]], Callable[[], Any]], what: str
) -> None:
    truss = machine.truss(entry(MAIN, allow_patterns=["config.json"]))
    place = truss.context().root
    key = truss.context().entry.key
    (config,) = {tree["config.json"].etag for tree in repo.trees.values()}
    root, blob = str(place.path), place.layout.blob_lock(config)
    tree, locks, path = {
        "entry": (root, [place.lock(f"entry-{key}").path], root),
        "file": (str(machine.hub_cache), [blob.path], "config.json"),
        "file of an unknown": (str(machine.hub_cache), [blob.path], "config.json"),
        "root": (root, [place.lock("root").path], root),
    }[what]
    if what == "file":  # another entry, whose lock is held, has noted that it fetches it
        other = "0" * 64
        note_fetch(place, other, ("theirs", "other"), Maker(config="", host="", when=0.0), blobs=[config])
        locks.append(f"models--org--name/{place.lock(f'entry-{other}').path}")
    command = [sys.executable, "-c", HOLD, tree, *locks]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        run = in_background(truss.run)
        told = truss.recorder.wait_for(Waiting)
        assert not truss.recorder.of(Committed)
        assert (told.entry, told.lock, told.path, told.again) == (MAIN, what.partition(" ")[0], path, False)
        if what == "file of an unknown":
            assert told.holder is None
        else:
            assert told.holder is not None
            assert told.holder.host == os.uname().nodename
            assert (told.holder.pid, told.holder.done, told.holder.size) == (child.pid, 1_200_000, 4_100_000)
        child.communicate("")
    assert run()[MAIN].files == 1


def test_nothing_is_told_of_a_cache_that_is_fresh_but_that_it_is(machine: Machine, repo: Repo) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    recorder = Recorder()
    fetch(truss.context(), RunContext(id="again", reporter=recorder))
    assert [type(event) for event in recorder.events] == [Started, Committed]
    assert recorder.of(Committed)[0].how == "fresh"
