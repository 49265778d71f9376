"""A machine, a repo with files of every size class, and huggingface_hub as the judge of what lies in the cache."""

from __future__ import annotations

import os
import subprocess
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


@pytest.fixture
def small_disk(request: pytest.FixtureRequest) -> Callable[[Path, int], Path]:
    """Mount a tmpfs of so many KiB at a folder. Needs root, which CI has."""
    if os.geteuid():
        assert not os.environ.get("CI"), "CI must be able to mount"
        pytest.skip("needs root: a tmpfs")

    def mount(folder: Path, kib: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)], check=True)
        request.addfinalizer(lambda: subprocess.run(["umount", str(folder)], check=True))
        return folder

    return mount
