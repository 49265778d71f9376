"""A Truss that fetches from the server with a script of faults, whose `truss-cache` is forked."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.cache.forks import ForkedTruss, Forks


@pytest.fixture
def truss(tmp_path: Path, forks: Forks) -> ForkedTruss:
    return ForkedTruss(tmp_path, forks=forks)
