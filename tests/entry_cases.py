"""One entry in each of the layouts, with a source that a test can change, for what holds whatever the layout.

case = make("volume")                      # the fixture `make_case`; LAYOUTS has the names
case.truss.cli()                           # config.yaml is written already
case.shown / "sub/c.txt"                   # where the entry's files are visible
case.root / ".truss_cache"                 # our records
case.put("sub/c.txt", b"new")              # in the store
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenarios.buckets.conftest import before_gcs, on_gcs
from servers.hub import Hub
from trusses import Ran, Truss, tree

__all__ = ["FILES", "LAYOUTS", "Case", "before_gcs", "make_case", "on_gcs", "well_said"]

FILES = {
    "config.json": b"{}",
    "model.bin": random.Random(9).randbytes(30_000),
    "sub/c.txt": b"c" * 100,
    "sub/deep/d.bin": random.Random(10).randbytes(12_000),
}

# layout -> (of a config, `{uri}` and all; the cache root and the folder of the files, below the Truss's own root)
LAYOUTS = {
    "hub": ("model_cache:\n  - repo_id: org/name\n", "hf/hub/models--org--name", ""),
    "volume": (
        "model_cache:\n  - repo_id: org/name\n    use_volume: true\n    volume_folder: vol\n",
        "model_cache",
        "model_cache/vol",
    ),
    "mount": ("weights:\n  - source: hf://org/name\n    mount_location: /home/u\n", "mounts/home/u", "mounts/home/u"),
    "bucket": ("model_cache:\n  - repo_id: {uri}\n", "model_cache", ""),
    "local": ("model_cache:\n  - repo_id: file://./weights\n", "model_cache", "model_cache/weights"),
    "local mount": (
        "weights:\n  - source: file://{folder}/weights\n    mount_location: /home/u\n",
        "mounts/home/u",
        "mounts/home/u",
    ),
}


@dataclass
class Case:
    """One entry of one Truss, of the layout `layout`."""

    layout: str
    truss: Truss
    root: Path
    _shown: Path | None
    _put: Callable[[str, bytes], object]
    _commit: Callable[[], str] | None

    @property
    def shown(self) -> Path:
        """The folder that its files are visible in; of the Hub layout the snapshot of what `main` is now."""
        if self._shown is not None:
            return self._shown
        assert self._commit is not None
        return self.root / "snapshots" / self._commit()

    @property
    def records(self) -> Path:
        return self.root / ".truss_cache"

    def put(self, path: str, data: bytes) -> None:
        """Put other bytes into the store, or a further file."""
        self._put(path, data)

    def tree(self) -> dict[str, bytes]:
        return tree(self.shown) if self.shown.exists() else {}

    def is_whole(self, files: dict[str, bytes] = FILES) -> None:
        """See that it is fresh, and that its bytes are right by our own `verify` and by looking at them."""
        why = self.truss.cli("why", "--check")
        assert (why.code, why.out.count("fresh")) == (0, 1), why
        verify = self.truss.cli("verify")
        assert verify.code == 0, verify
        assert {path: (self.shown / path).read_bytes() for path in files} == files


@pytest.fixture
def make_case(truss: Truss, hub: Hub, request: pytest.FixtureRequest) -> Callable[..., Case]:
    """Return what makes the case of a layout; one a test."""

    def make(layout: str, files: dict[str, bytes] = FILES) -> Case:
        config, root, shown = LAYOUTS[layout]
        commit: Callable[[], str] | None = None
        uri = ""
        where: Path | None = truss.root / shown if shown else None
        put: Callable[[str, bytes], object]
        if layout in ("hub", "volume", "mount"):
            repo = hub.create("org/name")
            repo.commit(dict(files))

            def put(path: str, data: bytes) -> object:
                return repo.commit({path: data})

            def commit() -> str:
                return repo.refs["refs/heads/main"]

        elif layout == "bucket":
            store: Any = request.getfixturevalue("on_gcs")
            store.give(truss)
            uri, where = store.uri("m"), truss.model_cache / store.visible("m", "")
            for path, data in files.items():
                store.put(f"m/{path}", data)

            def put(path: str, data: bytes) -> object:
                return store.put(f"m/{path}", data)

        else:

            def put(path: str, data: bytes) -> object:
                target = truss.folder / "weights" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                return target.write_bytes(data)

            for path, data in files.items():
                put(path, data)
        truss.config(config.format(uri=uri, folder=truss.folder))
        return Case(layout, truss, truss.root / root, where, put, commit)

    return make


def well_said(ran: Ran, *words: str) -> None:
    """See that a run failed as an entry fails: exit 1, a cause with these words, one remedy, no mistake of ours."""
    assert ran.code == 1, ran
    assert "internal error" not in ran.text, ran
    assert "Traceback" not in ran.text, ran
    assert ran.err.count("hint: ") == 1, ran
    for word in words:
        assert word in ran.err, (word, ran)
