"""The S3 servers as fixtures: `pytest_plugins = ["servers.fixtures_s3"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.s3 import S3Server, moto_server, seaweedfs


@pytest.fixture(scope="session")
def seaweed() -> Iterator[S3Server]:
    """Return a SeaweedFS with keys enforced, for the whole session: take a prefix of your own in its buckets."""
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """Return a moto with IAM enforced, for the whole session: take a prefix of your own in its bucket."""
    with moto_server() as server:
        yield server
