"""Death by SIGKILL at the changes that a run makes to the disk: at each of them, or at every few (STRIDE)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import BIG, FILES, OTHER, Judge, Machine, read
from servers.hub import Hub, Repo

MAIN = "org/name"
V2 = {**FILES, "config.json": b"[2]", "new.bin": BIG[::-1], "model.bin": OTHER[::-1], "fp16": b"now a file"}
for gone in ("fp16/model.bin", "fp16/twin.bin", "empty.txt"):
    del V2[gone]

# How many changes apart the deaths are; 1 tries every one, in some minutes.
STRIDE = int(os.environ.get("CRASH_POINT_STRIDE", "17"))

# For N = 1, 2, ...: a machine of its own, a whole first fetch, then an act that dies at the Nth change to the disk.
CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from entries import entry
from machine import Machine
import huggingface_hub  # once, and not in every fork

root, url, layout, act = Path(sys.argv[2]), sys.argv[3], eval(sys.argv[4]), sys.argv[5]
CHANGES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.truncate"}

class Hub:
    pass

def life(number):
    Hub.url = url
    machine = Machine(root / f"{number:03}", Hub)
    machine.truss(entry("org/name", revision="v1", **layout)).run()
    left = number
    def hook(event, arguments):
        nonlocal left
        if event in CHANGES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    if act == "edit":
        machine.truss(entry("org/name", **layout)).run()
    elif act == "clean":
        machine.truss(entry("org/name", revision="v1", **layout)).clean()

number = int(sys.argv[6])
while True:
    number += int(sys.argv[7])
    child = os.fork()
    if not child:
        try:
            life(number)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -signal.SIGKILL:
        sys.exit(status)
"""


def die_everywhere(root: Path, hub: Hub, layout: dict[str, object], act: str) -> list[Machine]:
    """Return the machines on which the act died, by the number of the change, and last the one where it did not."""
    start = -random.Random(f"{layout} {act}").randrange(STRIDE)
    where = [str(Path(__file__).parents[2]), str(root), hub.url]
    code = [sys.executable, "-c", CHILD, *where, repr(layout), act, str(start), str(STRIDE)]
    child = subprocess.run(code, capture_output=True, text=True, timeout=600, check=False)
    assert child.returncode == 0, child.stderr
    found = []
    for path in sorted(root.iterdir()):
        machine = object.__new__(Machine)
        machine.root, machine.hub = path, hub
        machine.hub_cache, machine.model_cache = path / "hub", path / "model_cache"
        machine.mounts, machine.secrets = path / "mounts", path / "secrets"
        found.append(machine)
    return found


@pytest.fixture
def moved(repo: Repo) -> Repo:
    repo.tag("v1")
    repo.commit({**dict.fromkeys(FILES), **V2})
    return repo


@pytest.fixture
def lives() -> Iterator[Path]:
    """A folder where fsync costs nothing, as far as this machine has one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


LAYOUTS: dict[str, dict[str, Any]] = {"hub": {}, "mount": {"mount_location": "/m"}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_edit_that_dies_at_any_change_is_finished_by_a_rerun_and_undone_without_a_download(
    layout: str, moved: Repo, hub: Hub, judge: Judge, lives: Path
) -> None:
    machines = die_everywhere(lives, hub, LAYOUTS[layout], "edit")
    assert len(machines) > 60 // STRIDE
    for machine in machines:
        for path, data in read(machine.mounts / "m").items():
            assert data in (FILES.get(path), V2.get(path)), (machine.root, path)
        for commit, want in ((moved.refs["refs/tags/v1"], FILES), (moved.refs["refs/heads/main"], V2)):
            for path, data in read(machine.repo() / "snapshots" / commit).items():
                assert data == want[path], (machine.root, path)
        judge.scan(machine)
        after = machine.truss(entry(MAIN, **LAYOUTS[layout]))
        after.run()
        assert after.fresh, machine.root
        assert judge.snapshot(machine) == V2
        assert layout == "hub" or read(machine.mounts / "m") == V2, machine.root
        machine.asked()
        undone = machine.truss(entry(MAIN, revision="v1", **LAYOUTS[layout]))
        undone.run()
        assert undone.fresh, machine.root
        assert machine.downloads() == [], machine.root
        assert layout == "hub" or read(machine.mounts / "m") == FILES, machine.root
        assert list(machine.root.rglob(".truss_cache/partials/*")) == []
        undone.clean()
        assert read(machine.mounts) == {}
        assert not machine.repo().exists(), machine.root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clean_that_dies_at_any_change_is_finished_by_another(
    layout: str, repo: Repo, hub: Hub, judge: Judge, lives: Path
) -> None:
    repo.tag("v1")
    for machine in die_everywhere(lives, hub, LAYOUTS[layout], "clean"):
        if machine.repo().exists():
            judge.scan(machine)
        truss = machine.truss(entry(MAIN, revision="v1", **LAYOUTS[layout]))
        truss.clean()
        assert read(machine.mounts) == {}, machine.root
        assert not machine.repo().exists(), machine.root
        assert not truss.fresh
