"""Upstreams of each kind, and a Truss whose Hub is the stand-in."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.hub import Hub
from servers.objects import Objects

from scenarios.buckets.conftest import before_gcs, before_moto, on_disk, on_gcs, on_moto
from scenarios.cache.forks import ForkedTruss, Forks
from scenarios.cache.upstreams import Upstream, upstream_of

__all__ = ["before_gcs", "before_moto", "on_disk", "on_gcs", "on_moto"]

UPSTREAMS = ("hub", "moto", "gcs", "disk")


@pytest.fixture(params=UPSTREAMS)
def upstream(request: pytest.FixtureRequest) -> Upstream:
    """One of each kind of store in turn."""
    return upstream_of(request, request.param)


@pytest.fixture
def truss(tmp_path: Path, hub: Hub, forks: Forks) -> ForkedTruss:
    """A Truss whose Hub is the stand-in; `truss-cache` is forked."""
    return ForkedTruss(tmp_path, forks=forks, hub=hub)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than `tmp_path`: no hard link leads there."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs /dev/shm on a disk of its own")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def objects() -> Iterator[Objects]:
    """A store for S3 and GCS alike, for thousands of steps."""
    with Objects() as running:
        yield running


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Undo what commands that run in this very process do to its signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
