"""A machine, a repo with files of every size class, and huggingface_hub as the judge of what lies in the cache."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from machine import Machine
from servers.hub import Hub, Repo

BIG, OTHER = random.Random(1).randbytes(60_000), random.Random(2).randbytes(40_000)
FILES = {
    "config.json": b"{}",
    "empty.txt": b"",
    "model.bin": BIG,
    "fp16/model.bin": OTHER,
    "fp16/twin.bin": BIG,  # the same blob under another name
    "a b+ü.txt": b"odd",
}


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


class Judge:
    """huggingface_hub itself, asked in this process and offline."""

    def snapshot(self, machine: Machine, revision: str = "main", **named: Any) -> dict[str, bytes]:
        """Return what snapshot_download(local_files_only=True) finds."""
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            "org/name", revision=revision, cache_dir=machine.hub_cache, local_files_only=True, **named
        )
        return read(Path(folder))

    def scan(self, machine: Machine) -> dict[str, set[str]]:
        """Return the refs of every commit that scan_cache_dir() finds, which must not warn."""
        from huggingface_hub import scan_cache_dir

        info = scan_cache_dir(machine.hub_cache)
        assert [str(warning) for warning in info.warnings] == []
        return {rev.commit_hash: set(rev.refs) for repo in info.repos for rev in repo.revisions}

    def loads(self, machine: Machine, path: str, revision: str = "main") -> bytes | None:
        """Return what `transformers` would load."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache("org/name", path, cache_dir=machine.hub_cache, revision=revision)
        return Path(found).read_bytes() if isinstance(found, str) else None


def read(folder: Path) -> dict[str, bytes]:
    """Return every file that a user sees below `folder`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".truss_cache" not in path.parts
    }
