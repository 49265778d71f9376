"""The server of the tests, started once and emptied for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dav import Dav

pytest.register_assert_rewrite("truss_cache_tasks.sources.testing")  # failures show values


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dav]:
    server = Dav(tmp_path_factory.mktemp("dav"))
    yield server
    server.stop()


@pytest.fixture
def dav(server: Dav) -> Dav:
    server.clear()
    return server
