"""Fixtures for every test: real servers, started once, and a folder that holds a Truss with all that it touches."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.hub import Hub
from trusses import Truss

pytest.register_assert_rewrite("truss_cache_tasks.sources.testing")
pytest_plugins = ["servers.fixtures_s3", "servers.fixtures_gcs", "servers.fixtures_network"]


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every command that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def truss(tmp_path: Path, hub: Hub) -> Truss:
    """A Truss whose Hub is the stand-in; config.yaml is still to be written."""
    return Truss(tmp_path, hub=hub)
