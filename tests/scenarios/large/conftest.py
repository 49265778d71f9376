"""A Truss with one small entry and one of a large file: six parts, the last one of five bytes."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from machine_fixtures import small_disk
from servers.hub import Hub
from trusses import Truss

__all__ = ["small_disk"]

COMMAND = [sys.executable, "-m", "doit", "cache_weights"]
PART = 8 << 20  # transfer.Limits.part_min
BIG = random.Random(5).randbytes(5 * PART + 5)


@pytest.fixture
def large(truss: Truss, hub: Hub) -> Truss:
    """Entries org/first (one small file) and org/last (big.bin, which the CDN has); two connections."""
    hub.create("org/first").commit({"first.json": b"{}"})
    hub.create("org/last").commit({"big.bin": BIG})
    truss.config("model_cache:\n  - repo_id: org/first\n  - repo_id: org/last\n")
    truss.env["TRUSS_CACHE_CONNECTIONS"] = "2"
    return truss


def big_of(truss: Truss) -> Path:
    """Return where the large file is visible, once it is."""
    (found,) = (truss.hub_cache / "models--org--last/snapshots").glob("*/big.bin")
    return found


def ranges(hub: Hub) -> Counter[str]:
    """Return how often each range of the large file was asked for at the CDN."""
    return Counter(asked.headers["range"] for asked in hub.asked("GET", "/big.bin") if asked.host == "cdn")


def check_whole(truss: Truss) -> None:
    """The large file is what was committed, and says so itself; no temporary is left."""
    assert big_of(truss).read_bytes() == BIG
    assert truss.cli("verify").code == 0
    assert list(truss.hub_cache.glob("*/.truss_cache/partials/*")) == []


def forget(hub: Hub) -> None:
    """Forget what was asked and scripted so far."""
    hub.faults.clear()
    hub.requests.clear()
    hub.sent.clear()
