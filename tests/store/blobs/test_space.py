"""The space that a fetch reserves: its lock, and what its children have of it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from truss_cache_tasks.store.blobs import space
from truss_cache_tasks.store.blobs.space import Demand
from truss_cache_tasks.store.layouts.flat_layout import flat_root

Mount = Callable[[Path, int], Path]
DEMAND = Demand(coming=1 << 20, reserved=1 << 20, inodes=1)
pytestmark = pytest.mark.slow


def opened_below(folder: Path) -> set[str]:
    """Return what this process has open below a folder, save folders."""
    found = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    return {path for path in found if path.startswith(f"{folder}/") and not os.path.isdir(path)}


def test_a_child_keeps_nothing_of_what_its_parent_reserved(tmp_path: Path) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    root = flat_root(tmp_path / "cache")
    with space.reserved(root, "0" * 64, lambda: DEMAND, roots=tuple):
        assert len(opened_below(tmp_path)) == 2, "the reserve and its figure"
        child = os.fork()
        if child == 0:
            os._exit(len(opened_below(tmp_path)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_child_keeps_no_lock_of_the_disk(tmp_path: Path, small_disk: Mount) -> None:
    begun, begin = os.pipe()
    ended, end = os.pipe()
    children = []

    def fork() -> Demand:
        child = os.fork()
        if child == 0:
            os.close(end)
            os.write(begin, b".")
            os.read(ended, 1)  # until the parent has looked
            os._exit(0)
        children.append(child)
        os.read(begun, 1)
        return DEMAND

    root = flat_root(small_disk(tmp_path / "cache", 4 * 1024))
    try:
        with space.reserved(root, "0" * 64, fork, roots=tuple):
            descriptor = os.open(root.path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(descriptor)
    finally:
        for descriptor in (begun, begin, ended, end):
            os.close(descriptor)
        os.waitpid(children[0], 0)


def test_a_disk_whose_lock_another_program_keeps_is_waited_for_once(
    tmp_path: Path, small_disk: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = flat_root(small_disk(tmp_path / "cache", 4 * 1024))
    disk = os.open(root.path, os.O_RDONLY)
    try:
        fcntl.flock(disk, fcntl.LOCK_EX)
        monkeypatch.setattr(space, "_LONGEST_WAIT_S", 0.01)
        with space.reserved(root, "0" * 64, lambda: DEMAND, roots=tuple):
            monkeypatch.setattr(space, "_LONGEST_WAIT_S", 1e9)
            assert root.tree.reserve is not None
            for _ in range(3):
                with root.tree.reserve.given(1):
                    pass
    finally:
        os.close(disk)
