"""cache-verify looks at every byte that we answer for, also behind the plain files of a mount."""

from __future__ import annotations

import os
from pathlib import Path

from servers.hub import Hub
from trusses import Truss

CONFIG = "weights:\n  - source: hf://org/name@main\n    mount_location: /m\n"


def fetched(truss: Truss, hub: Hub) -> Path:
    hub.create("org/name").commit({"model.bin": b"w" * 20_000})
    truss.config(CONFIG)
    assert truss.cli().code == 0
    (blob,) = (truss.hub_cache / "models--org--name" / "blobs").iterdir()
    return blob


def test_a_damaged_blob_behind_a_mount_is_named(truss: Truss, hub: Hub) -> None:
    blob = fetched(truss, hub)
    assert truss.cli("verify").code == 0
    seen = blob.stat()
    blob.unlink()  # the mount's file is another name of the same bytes, and stays
    blob.write_bytes(b"x" * 20_000)
    os.utime(blob, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    ran = truss.cli("verify")
    assert ran.code == 1
    assert "models--org--name/snapshots/" in ran.out


def test_a_mount_stands_for_itself_when_the_hub_cache_is_gone(truss: Truss, hub: Hub) -> None:
    fetched(truss, hub).unlink()
    assert truss.cli("verify").code == 0
    assert truss.cli("why", "--check").code == 0
