"""A machine, a repo with files of every size class, and huggingface_hub as the judge of what lies in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from machine import FILES, Judge, Machine
from servers.hub import Hub, Repo


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Machine:
    return Machine(tmp_path / "machine", hub)


@pytest.fixture
def repo(hub: Hub) -> Repo:
    repo = hub.create("org/name")
    repo.commit(FILES)
    return repo


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], Any]], Callable[[], Any]]]:
    """Start a call in a thread; what is returned waits for it and gives its result, or raises its error."""
    with ThreadPoolExecutor(8) as pool:
        yield lambda call: pool.submit(call).result
