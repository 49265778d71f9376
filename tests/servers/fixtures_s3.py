"""The S3 servers as fixtures: `pytest_plugins = ["servers.fixtures_s3"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.named import Named
from servers.s3 import S3Server, moto_server, seaweedfs, under_names


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


@pytest.fixture(scope="session")
def named_seaweed(seaweed: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    """Return a proxy that leads to SeaweedFS under the names of R2, CoreWeave and `s3.test`."""
    with under_names(seaweed.url, tmp_path_factory.mktemp("named")) as running:
        yield running


@pytest.fixture(scope="session")
def named_moto(moto: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    """Return a proxy that leads to moto under the names of R2, CoreWeave and `s3.test`."""
    with under_names(moto.url, tmp_path_factory.mktemp("named")) as running:
        yield running
