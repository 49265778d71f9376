"""The fault server as fixtures, over plain HTTP and over TLS: `pytest_plugins = ["servers.fixtures_faults"]`."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.certificates import make_authority
from servers.faults import FaultServer, fault_server


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture(scope="session")
def fault_authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """Return the certificate of a CA of our own, and the TLS context of a server that it vouches for."""
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def secure(fault_authority: tuple[Path, ssl.SSLContext]) -> Iterator[FaultServer]:
    with fault_server(tls=fault_authority[1]) as running:
        yield running
