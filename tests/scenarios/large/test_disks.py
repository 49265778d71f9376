"""Too little space for a large file: known before its first byte, and kept from another writer while it comes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from servers.hub import Hub
from servers.tools import wait_until
from trusses import Truss, ended

from scenarios.large.conftest import BIG, COMMAND, PART, check_whole, forget

KIB = 1024


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(KIB))
    assert os.statvfs(path).f_bavail == 0


def test_a_large_file_that_does_not_fit_is_refused_before_its_first_byte(
    large: Truss, hub: Hub, small_disk: Callable[[Path, int], Path]
) -> None:
    small_disk(large.hub_cache, len(BIG) // KIB)
    ran = large.doit("cache_weights:org/last")
    assert ran.code == 1, ran.text
    assert "not enough space" in ran.err
    assert ran.text.count("hint: ") == 1
    assert hub.sent["cdn"] == 0


def test_a_disk_that_another_fills_meanwhile_has_room_for_a_file_that_began(
    large: Truss, hub: Hub, small_disk: Callable[[Path, int], Path]
) -> None:
    disk = small_disk(large.hub_cache, len(BIG) // KIB + 1000)
    hub.fail("big.bin", "pass", *["stall"] * 9, host="cdn")
    child = large.start(COMMAND)
    with ended(child):
        wait_until(lambda: hub.sent["cdn"] == 2 * PART, "the stall", alive=lambda: child.poll() is None)
        fill(disk / "other.bin")
        hub.released.set()
        out, err = child.communicate(timeout=60)
    assert child.returncode == 1, out + err  # records find no room
    assert "No space left on device\nhint: Free some space" in err
    assert "big.bin" not in out + err
    assert "Traceback" not in out + err
    (disk / "other.bin").unlink()
    forget(hub)
    ran = large.doit("cache_weights")
    assert ran.code == 0, ran.text
    assert hub.sent["cdn"] == 0
    check_whole(large)
