"""A model in a store, whose files a test replaces as a whole, and the entry of a config that brings it.

upstream.put("v1", {"a.bin": b"a"})                     # "v1" holds exactly these files from now on
truss.config(config("volume", upstream.entry("v1", "volume", "folder")))
check(truss, "volume", {"folder": {"a.bin": b"a"}})     # every visible file, `why --check`, `verify`
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from servers.hub import Hub
from trusses import DODO, Truss, tree

from scenarios.buckets.front import Asked
from scenarios.buckets.stores import Folder, Store

Files = Mapping[str, bytes]
AnyTruss = TypeVar("AnyTruss", bound=Truss)
LAYOUTS = ("volume", "mount")


class Hold(NamedTuple):
    """An answer that a server keeps back: whether it was asked for, and what lets it go."""

    is_asked: Callable[[], bool]
    release: Callable[[], None]


class Upstream(ABC):
    """A version is a branch of a Hub repo, or a prefix of a bucket, or a folder."""

    @abstractmethod
    def put(self, version: str, files: Files) -> None:
        """Make `version` hold exactly `files`."""

    @abstractmethod
    def uri(self, version: str) -> tuple[str, str]:
        """Return the URI and the revision ("" where there is none) of `version`."""

    @abstractmethod
    def give(self, truss: Truss) -> None:
        """Let `truss` read it."""

    @abstractmethod
    def held(self, path: str) -> AbstractContextManager[Hold]:
        """Keep bytes of `path`, of which there are 10,000 at least, back: until released, at the latest by the end."""

    def entry(self, version: str, layout: str, folder: str, **fields: object) -> str:
        """Return the YAML of one entry, in `{model cache}/{folder}` or in the mount `/{folder}`."""
        uri, revision = self.uri(version)
        if layout == "mount":
            lines = {"source": f"{uri}@{revision}" if revision else uri, "mount_location": f"/{folder}"}
        else:
            lines = {"repo_id": uri, **({"revision": revision} if revision else {})}
            lines |= {"use_volume": "true", "volume_folder": folder}
        return "  - " + "\n    ".join(f"{name}: {value}" for name, value in {**lines, **fields}.items()) + "\n"


@dataclass
class OnHub(Upstream):
    hub: Hub
    name: str = "org/name"

    def put(self, version: str, files: Files) -> None:
        repo = self.hub.repos.get(self.name) or self.hub.create(self.name)
        before = repo.trees.get(repo.resolve(version) or repo.refs.get("refs/heads/main", ""), {})
        repo.commit({**dict.fromkeys(before), **files}, branch=version)

    def uri(self, version: str) -> tuple[str, str]:
        return f"hf://{self.name}", version

    def give(self, truss: Truss) -> None:
        truss.env["HF_ENDPOINT"] = self.hub.url

    @contextlib.contextmanager
    def held(self, path: str) -> Iterator[Hold]:
        self.hub.released.clear()
        self.hub.fail(f"/{path}", "stall", host="cdn")
        before = len(self.hub.requests)

        def is_asked() -> bool:
            return any(r.host == "cdn" and r.path.endswith(f"/{path}") for r in self.hub.requests[before:])

        try:
            yield Hold(is_asked, self.hub.released.set)
        finally:
            self.hub.released.set()


@dataclass
class OnStore(Upstream):
    store: Store
    name: str = "name"
    versions: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def put(self, version: str, files: Files) -> None:
        before = self.versions.get(version, {})
        for path in before.keys() - files.keys():
            self.store.delete(f"{self.name}-{version}/{path}")
        if isinstance(self.store, Folder):  # a bucket knows no folder that is empty
            for folder, _, _ in os.walk(self.store.root, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        for path, data in files.items():
            if before.get(path) != data:
                self.store.put(f"{self.name}-{version}/{path}", data)
        self.versions[version] = dict(files)

    def uri(self, version: str) -> tuple[str, str]:
        return self.store.uri(f"{self.name}-{version}"), ""

    def give(self, truss: Truss) -> None:
        self.store.give(truss)

    @contextlib.contextmanager
    def held(self, path: str) -> Iterator[Hold]:
        asked, released = threading.Event(), threading.Event()

        def keep_back(one: Asked) -> None:
            if one.kind == "get" and one.name.endswith(f"/{path}"):
                asked.set()
                released.wait()

        with self.store.front.watching() as front:
            front.before = keep_back
            try:
                yield Hold(asked.is_set, released.set)
            finally:
                released.set()


def upstream_of(request: pytest.FixtureRequest, kind: str) -> Upstream:
    """Return an empty upstream on the Hub (`hub`), or on the store whose fixture is `on_{kind}`."""
    if kind == "hub":
        return OnHub(request.getfixturevalue("hub"))
    return OnStore(request.getfixturevalue(f"on_{kind}"))


def config(layout: str, *entries: str) -> str:
    """Return a config of entries of this layout."""
    return ("weights:\n" if layout == "mount" else "model_cache:\n") + "".join(entries)


def root_of(truss: Truss, layout: str) -> Path:
    """Return the folder that holds the folders of entries of this layout."""
    return truss.mounts if layout == "mount" else truss.model_cache


def wrong(shown: Files, wanted: Files) -> list[str]:
    """Return a line for each path that does not show what it must, in words that tell renamed files apart."""
    names: dict[bytes, str] = {}
    for path, data in wanted.items():
        names.setdefault(data, path)

    def said(path: str) -> str:
        if path not in shown:
            return f"{path} is missing"
        if path not in wanted:
            return f"{path} is still there"
        data = shown[path]
        return f"{path} shows {len(data):,} bytes, which are {names.get(data, 'of no file of the source')}"

    return [said(path) for path in sorted({*shown, *wanted}) if shown.get(path) != wanted.get(path)]


def check(truss: Truss, layout: str, wanted: Mapping[str, Files], *, more: bool = False) -> None:
    """Hold every visible byte against the source; then our own two judges must agree.

    Args:
        more: other files may be there too: what an entry that is gone has left, until `clean`.
    """
    for folder, files in wanted.items():
        shown = tree(root_of(truss, layout) / folder)
        found = wrong({path: shown[path] for path in shown if path in files or not more}, files)
        assert found == [], "\n".join([folder, *found])
    for command in (["why", "--check"], ["verify"]):
        ran = truss.cli(*command)
        assert ran.code == 0, f"{' '.join(command)}: {ran.text}"


def run(truss: Truss, *args: str) -> None:
    """Run `truss-cache`, which must succeed."""
    ran = truss.cli(*args)
    assert ran.code == 0, ran.text


def use_disk(truss: Truss, disk: Path) -> None:
    """Put the model cache and the mounts on another disk than the hub cache."""
    truss.model_cache, truss.mounts = disk / "model_cache", disk / "mounts"
    truss.env |= {"TRUSS_MODEL_CACHE_DIR": str(truss.model_cache), "TRUSS_MOUNT_ROOT": str(truss.mounts)}


def beside(truss: AnyTruss, name: str) -> AnyTruss:
    """Return another project on the same caches: a config of its own in a folder of its own."""
    other = copy.copy(truss)
    other.env = dict(truss.env)
    other.folder = truss.root / name
    other.folder.mkdir()
    other.dodo(DODO)
    credentials = truss.folder / "data"
    if credentials.is_dir():
        shutil.copytree(credentials, other.folder / "data")
    return other
