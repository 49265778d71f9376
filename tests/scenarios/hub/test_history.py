"""runs.jsonl: every run that changed a root leaves a line there that says what it did and what went wrong."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import BIG, Judge, Machine
from servers.hub import Hub, Repo

from truss_cache_tasks.errors import IntegrityError, NotFound, Stopped
from truss_cache_tasks.events import Committed, Event, Received, Refetching, Warned
from truss_cache_tasks.network.cancel import StopPoll
from truss_cache_tasks.operations.fetch.fetch import fetch
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.store.files.locks import HeldLock, try_lock

MAIN = "org/name"


def lines(root: Path) -> list[dict[str, Any]]:
    path = root / ".truss_cache" / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def did(root: Path) -> list[str]:
    return [line["did"] for line in lines(root)]


def test_a_fetch_leaves_a_line_and_a_no_op_leaves_none(machine: Machine, repo: Repo, judge: Judge) -> None:
    truss = machine.truss(entry(MAIN, allow_patterns=["model.bin", "config.json"]))
    outcome = truss.run()[MAIN]
    (line,) = lines(machine.repo())
    assert re.fullmatch("[0-9a-f]{32}", line["run"])
    assert line["run"] == truss.workspace.run_id
    assert (line["format"], line["project"], line["entry"], line["did"]) == (1, "ours", MAIN, "fetched")
    assert (line["host"], line["pid"]) == (os.uname().nodename, os.getpid())
    assert (line["source"], line["revision"], line["snapshot"]) == (
        "hf://org/name",
        outcome.manifest.revision,
        outcome.manifest.snapshot,
    )
    size = len(BIG) + 2
    assert (line["files"], line["size"], line["unverified"], line["verified"]) == (2, size, 0, 2)
    assert (line["fetched_files"], line["fetched_size"], line["received"]) == (2, size, size)
    assert (line["reused_files"], line["reused_size"], line["faults"]) == (0, 0, [])
    again = machine.truss(entry(MAIN, allow_patterns=["model.bin", "config.json"]))
    fetch(again.context(), RunContext(id="again"))
    assert len(lines(machine.repo())) == 1
    machine.truss(entry(MAIN, allow_patterns=["*.bin", "config.json"])).run()
    wider = lines(machine.repo())[1]
    assert (wider["fetched_files"], wider["reused_files"]) == (1, 3)
    assert judge.scan(machine)


def test_the_line_is_in_each_root_that_the_run_changed(machine: Machine, repo: Repo) -> None:
    machine.truss(entry(MAIN, mount_location="/m")).run()
    in_hub, in_mount = lines(machine.repo()), lines(machine.mounts / "m")
    assert len(in_hub) == 1
    assert in_hub == in_mount
    machine.truss(entry(MAIN, mount_location="/m"), project="theirs").run()
    assert did(machine.mounts / "m") == ["fetched", "claimed"]
    assert did(machine.repo()) == ["fetched"]
    (machine.mounts / "m" / "config.json").unlink()
    machine.truss(entry(MAIN, mount_location="/m")).run()
    assert did(machine.mounts / "m") == ["fetched", "claimed", "repaired"]


def test_what_went_wrong_is_in_the_line(machine: Machine, repo: Repo, hub: Hub) -> None:
    hub.fail("/revision/main", "503")
    hub.fail("", "flip", host="cdn")
    truss = machine.truss(entry(MAIN, allow_patterns=["model.bin"]))
    truss.run()
    (line,) = lines(machine.repo())
    assert (line["retries"], line["refetches"], line["received"]) == (1, 1, 2 * len(BIG))
    listing, content = line["faults"]
    assert (listing["kind"], listing["path"], listing["count"]) == ("retries", "", 1)
    assert (content["kind"], content["path"], content["count"]) == ("refetches", "model.bin", 1)
    assert "sha256" in content["cause"]
    (told,) = truss.recorder.of(Refetching)
    assert (told.entry, told.path) == (MAIN, "model.bin")


def test_a_run_that_failed_and_left_parts_leaves_a_line_and_one_that_changed_nothing_leaves_none(
    machine: Machine, repo: Repo, hub: Hub
) -> None:
    with pytest.raises(NotFound):
        machine.truss(entry("org/none")).run()
    assert not machine.repo("org/none").exists()
    hub.fail("fp16/model.bin", *["404"] * 9)
    machine.connections = 1
    with pytest.raises(NotFound):
        machine.truss(entry(MAIN)).run()  # the larger model.bin comes first
    (line,) = lines(machine.repo())
    assert line["did"] == "failed"
    assert line["error"]["class"] == "NotFound"
    assert line["error"]["message"].startswith("org/name")
    assert line["fetched_files"] >= 1
    assert "snapshot" not in line


def test_wrong_bytes_alone_leave_no_record_and_so_no_line(machine: Machine, repo: Repo, hub: Hub) -> None:
    hub.fail("", *["flip"] * 9, host="cdn")
    with pytest.raises(IntegrityError):
        machine.truss(entry(MAIN, allow_patterns=["model.bin"])).run()
    assert not machine.repo().exists()
    hub.faults.clear()
    machine.truss(entry(MAIN, allow_patterns=["config.json"])).run()
    hub.fail("", *["flip"] * 9, host="cdn")
    with pytest.raises(IntegrityError):
        machine.truss(entry(MAIN, allow_patterns=["config.json"]), entry(MAIN, name="b", allow=["model.bin"])).run()
    assert [(line["did"], line["entry"]) for line in lines(machine.repo())] == [("fetched", MAIN), ("failed", "b")]


def test_a_clean_leaves_a_line_while_others_have_records_and_the_last_takes_it_along(
    machine: Machine, repo: Repo
) -> None:
    ours = machine.truss(entry(MAIN))
    theirs = machine.truss(entry(MAIN, allow_patterns=["config.json"]), project="theirs")
    ours.run()
    theirs.run()
    ours.clean(dry=True)
    assert did(machine.repo()) == ["fetched", "fetched"]
    done = ours.clean()
    (line,) = lines(machine.repo())[2:]
    assert (line["did"], line["project"], line["entries"]) == ("cleaned", "ours", [MAIN])
    assert (line["files"], line["size"]) == (done.files, done.size)
    ours.clean()
    assert len(lines(machine.repo())) == 3, "a clean that changes nothing"
    theirs.clean()
    assert not machine.repo().exists()


def folder(path: Path) -> None:
    path.mkdir()
    (path / "precious").touch()


def link(path: Path) -> None:
    path.symlink_to(path.parent.parent.parent / "precious")


@pytest.mark.parametrize("make", [folder, link, os.mkfifo])
def test_a_history_that_cannot_be_written_is_a_warning(machine: Machine, repo: Repo, make: Any) -> None:
    precious = machine.hub_cache / "precious"
    truss = machine.truss(entry(MAIN, allow_patterns=["config.json"]))
    truss.run()
    precious.write_text("precious")
    path = machine.repo() / ".truss_cache" / "runs.jsonl"
    path.unlink()
    make(path)
    truss = machine.truss(entry(MAIN))
    truss.run()
    (warning,) = truss.recorder.of(Warned)
    assert "runs.jsonl" in warning.message
    assert truss.recorder.of(Committed)
    assert precious.read_text() == "precious"
    done = truss.clean()
    assert path.is_dir() == (make is folder)
    assert machine.repo().exists() == (make is folder)
    assert bool(done.kept) == (make is folder)
    assert precious.read_text() == "precious"


def test_a_run_that_is_stopped_waits_for_no_lock_of_a_root(machine: Machine, repo: Repo) -> None:
    truss = machine.truss(entry(MAIN))
    root = truss.context().root
    held: list[HeldLock | None] = []
    first = threading.Lock()  # taken by the first of the threads that receive bytes

    def reporter(event: Event, /) -> None:
        if isinstance(event, Received) and first.acquire(blocking=False):
            held.append(try_lock(root.lock("root")))

    run = RunContext(id="one", reporter=reporter, cancel=StopPoll(lambda: bool(held)))
    with pytest.raises(Stopped):
        fetch(truss.context(), run)
    (release,) = held
    assert release is not None
    release()
    assert lines(machine.repo()) == []
