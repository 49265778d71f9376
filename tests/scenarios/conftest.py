"""The process that commands are forked from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scenarios.cache.forks import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.end()
