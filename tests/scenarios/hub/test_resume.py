"""A large file that broke off is gone on with: by the next run, and not fetched twice."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from entries import entry
from machine import Judge, Machine, Trussed
from rights import rights_of_files_count
from servers.hub import Hub

from truss_cache_tasks.errors import AccessDenied

MAIN = "org/name"
BIG = random.Random(3).randbytes((24 << 20) + 5)  # 4 parts of 8 MiB


def partials(machine: Machine) -> list[str]:
    return sorted(path.suffix for path in (machine.repo() / ".truss_cache/partials").glob("*"))


def broken_off(machine: Machine, hub: Hub) -> Trussed:
    """Return a Truss whose run came as far as the first part."""
    hub.create(MAIN).commit({"big.safetensors": BIG, "config.json": b"{}"})
    hub.fail("big.safetensors", "pass", *["403"] * 20, host="cdn")
    machine.connections = 1  # else a refusal ends the first part, which is still under way
    truss = machine.truss(entry(MAIN))
    with pytest.raises(AccessDenied):
        truss.run()
    return truss


def test_a_rerun_fetches_the_parts_that_are_missing(machine: Machine, hub: Hub, judge: Judge) -> None:
    truss = broken_off(machine, hub)
    assert ".parts" in partials(machine)
    hub.faults.clear()
    hub.requests.clear()
    truss.run()
    ranges = [request.headers["range"] for request in hub.asked("GET", "big.safetensors") if request.host == "cdn"]
    assert len(ranges) == 3
    assert "bytes=0-8388607" not in ranges
    assert judge.snapshot(machine) == {"big.safetensors": BIG, "config.json": b"{}"}
    assert partials(machine) == []
    judge.scan(machine)


def test_one_resolve_serves_all_parts(machine: Machine, hub: Hub, judge: Judge) -> None:
    hub.create(MAIN).commit({"big.safetensors": BIG})
    machine.truss(entry(MAIN)).run()
    asked = [request.host for request in hub.asked("GET", "big.safetensors")]
    assert (asked.count("hub"), asked.count("cdn")) == (1, 4)
    assert hub.leaks == []


def test_a_clean_takes_what_broke_off(machine: Machine, hub: Hub) -> None:
    broken_off(machine, hub)
    machine.truss(entry(MAIN, allow_patterns=["*.json"])).run()
    assert ".parts" in partials(machine)  # another entry's commit leaves it to the next run
    machine.truss(entry(MAIN, allow_patterns=["*.json"])).clean()
    assert partials(machine) == []


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_folder_with_file(path: Path) -> None:
    put_folder(path)
    (path / "mine.txt").write_text("mine")


def put_link(path: Path) -> None:
    path.rename(path.parents[2] / "precious")
    path.symlink_to(path.parents[2] / "precious")


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "garbage": lambda path: path.write_bytes(b"\xff}{ 0 8388608 \n" * 999),
    "numbers": lambda path: path.write_text(f"0 {10**30} {'0' * 32} x\n-1 5 {'0' * 32} x\n"),
    "empty folder": put_folder,
    "folder": put_folder_with_file,
    "link": put_link,
    "second name": lambda path: os.link(path, path.parents[2] / "precious"),
    "fifo": put_fifo,
    "no rights": lambda path: path.chmod(0),
}


@pytest.mark.parametrize("which", ["journal", "partial"])
def test_a_damaged_partial_or_journal_costs_at_most_its_own_file(
    which: str, machine: Machine, hub: Hub, tmp_path: Path
) -> None:
    truss = broken_off(machine, hub)
    hub.faults.clear()
    saved = tmp_path / "saved"
    subprocess.run(["cp", "-a", machine.root, saved], check=True)
    for damage, change in DAMAGES.items():
        shutil.rmtree(machine.root)
        subprocess.run(["cp", "-a", saved, machine.root], check=True)
        (journal,) = (machine.repo() / ".truss_cache" / "partials").glob("*.parts")
        path = journal if which == "journal" else journal.with_suffix("")
        change(path)
        before = (machine.repo() / "precious").read_bytes() if (machine.repo() / "precious").exists() else b""
        hub.sent.clear()
        with rights_of_files_count():
            truss.run()
        assert sum(hub.sent.values()) <= 1.5 * len(BIG), damage  # a part that two workers share is sent in part twice
        assert {path.name: path.read_bytes() for path in machine.repo().glob("snapshots/*/*")} == {
            "big.safetensors": BIG,
            "config.json": b"{}",
        }, damage
        assert truss.fresh, damage
        if before:
            assert (machine.repo() / "precious").read_bytes() == before, damage
        if damage == "folder":
            assert (path / "mine.txt").read_text() == "mine"
