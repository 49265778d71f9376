"""Where the weights of the model come from: stores whose every version is remembered, and what an entry selects there.

upstream = Upstreams(hub, objects, base)
upstream["org/one"].change({"model.bin": None, "old.bin": b"..."})       # a commit, an upload, or files in a folder
upstream.of(entry, "p0").versions("main")                                # all that it ever was, the newest last
entry.shown(base, version)                                               # path on disk -> bytes that must be there
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers.hub import Hub
from servers.objects import Objects

HUB, BUCKET, VOLUME, MOUNT = "hub", "bucket", "volume", "mount"  # the layouts
STORE = "store"  # the one bucket, seen through S3 and GCS alike
LFS_SIZE = 100  # bytes from which a file of a Hub repo is LFS: known by its sha256, not by its git blob
_seconds = itertools.count(1_700_000_000)  # mtimes of local files: no two are equal, however coarse the clock is


@dataclass(frozen=True)
class Version:
    """What a source was at one time: `label` is the commit of a Hub repo, else ""."""

    label: str
    files: Mapping[str, bytes]


class Upstream(ABC):
    """One repo, bucket or folder. `files` is what it holds now."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.past: list[dict[str, bytes]] = []

    def change(self, changes: Mapping[str, bytes | None]) -> None:
        """Put and remove (None) files, all in one step as far as the store can."""
        changes = {path: data for path, data in changes.items() if data is not None or path in self.files}
        self.publish(changes)
        for path, data in changes.items():
            if data is None:
                del self.files[path]
            else:
                self.files[path] = data
        self.past.append(dict(self.files))

    def become(self, files: Mapping[str, bytes]) -> None:
        """Hold these files and no others."""
        self.change({**dict.fromkeys(set(self.files) - set(files)), **files})

    @abstractmethod
    def publish(self, changes: Mapping[str, bytes | None]) -> None: ...

    def versions(self, revision: str) -> list[Version]:
        """Return everything that `revision` ever stood for, the newest last."""
        return [Version("", files) for files in self.past]


class HubRepo(Upstream):
    def __init__(self, hub: Hub, name: str) -> None:
        super().__init__()
        self.repo = hub.create(name)
        self.repo.lfs_size = LFS_SIZE
        self.commits: list[str] = []
        self.tagged: list[str] = []

    def publish(self, changes: Mapping[str, bytes | None]) -> None:
        self.commits.append(self.repo.commit(dict(changes)))

    def tag(self) -> None:
        """Let the tag `v1` stand for what main is now."""
        self.repo.tag("v1")
        self.tagged.append(self.commits[-1])

    def versions(self, revision: str) -> list[Version]:
        commits = {"main": self.commits, "v1": self.tagged}.get(revision, [revision])
        return [Version(commit, self._tree(commit)) for commit in commits]

    def _tree(self, commit: str) -> dict[str, bytes]:
        return {path: file.data for path, file in self.repo.trees[commit].items()}


class Bucket(Upstream):
    def __init__(self, objects: Objects, name: str) -> None:
        super().__init__()
        self.objects, self.name = objects, name
        objects.buckets[name] = {}

    def publish(self, changes: Mapping[str, bytes | None]) -> None:
        for key, data in changes.items():
            if data is None:
                self.objects.delete(self.name, key)
            else:
                self.objects.put(self.name, key, data)


class Folder(Upstream):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        root.mkdir(parents=True)

    def publish(self, changes: Mapping[str, bytes | None]) -> None:
        for path in [path for path, data in changes.items() if data is None]:
            (self.root / path).unlink()
            for parent in list((self.root / path).parents)[: path.count("/")]:
                if not os.listdir(parent):
                    parent.rmdir()
        for path, data in changes.items():
            if data is not None:
                target = self.root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                moment = next(_seconds) * 1_000_000_000 + 500
                os.utime(target, ns=(moment, moment))


@dataclass(frozen=True)
class Entry:
    """One entry of a config, as its user writes it.

    Args:
        folder: `volume_folder` or `mount_location`.
        revision: of a Hub repo: `main`, `v1` or a full commit; else "".
    """

    uri: str
    layout: str
    folder: str = ""
    revision: str = ""
    allow: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    @property
    def is_hub(self) -> bool:
        return "://" not in self.uri

    @property
    def slot(self) -> tuple[str, str, str]:
        """What stays the same when the patterns or the revision of an entry are edited."""
        return (self.uri, self.layout, self.folder)

    def yaml(self) -> dict[str, Any]:
        patterns = {"allow_patterns": self.allow, "ignore_patterns": self.ignore or None}
        given = {name: list(value) for name, value in patterns.items() if value is not None}
        if self.layout == MOUNT:
            source = f"hf://{self.uri}@{self.revision}" if self.is_hub else self.uri
            return {"source": source, "mount_location": self.folder, **given}
        revision = {"revision": self.revision} if self.is_hub else {}
        volume = {"use_volume": True, "volume_folder": self.folder} if self.layout == VOLUME else {}
        return {"repo_id": self.uri, **revision, **volume, **given}

    def root(self, base: Path) -> Path:
        """Return the cache root of the entry: the folder that holds `.truss_cache`."""
        if self.layout == HUB:
            return self.repo(base)
        return base / self.folder.strip("/") if self.layout == MOUNT else base / "cache"

    def repo(self, base: Path) -> Path:
        """Return the folder of the hub cache for this entry's repo."""
        return base / "hub" / f"models--{self.uri.replace('/', '--')}"

    def roots(self, base: Path) -> set[Path]:
        """Return every root that a run may write to: plain files of a Hub repo are in its hub cache too."""
        return {self.root(base), self.repo(base)} if self.is_hub else {self.root(base)}

    def place(self, base: Path, label: str = "") -> Path:
        """Return the folder that the user opens."""
        if self.layout == HUB:
            return self.root(base) / "snapshots" / label
        if self.layout == BUCKET:
            inside = self.uri.rpartition("/")[2] if self.uri.startswith("file:") else self.uri.partition("://")[2]
            return self.root(base) / inside
        return self.root(base) / self.folder if self.layout == VOLUME else self.root(base)

    def shown(self, base: Path, version: Version) -> dict[Path, bytes]:
        """Return what must be visible when this version of the source is: path -> bytes."""
        folder = self.place(base, version.label)
        prefix = ""
        if self.uri.startswith(("s3:", "gs:")):
            prefix = self.uri.partition("://")[2].partition("/")[2] + "/"
        below = {key.removeprefix(prefix): data for key, data in version.files.items() if key.startswith(prefix)}
        return {folder / path: data for path, data in below.items() if self._selects(path)}

    def _selects(self, path: str) -> bool:
        kept = self.allow is None or any(self._matches(pattern, path) for pattern in self.allow)
        return kept and not any(self._matches(pattern, path) for pattern in self.ignore)

    def _matches(self, pattern: str, path: str) -> bool:
        if self.layout != MOUNT:
            return fnmatch.fnmatchcase(path, pattern)
        words = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*"}  # the dialect of `weights`
        regex = "".join(words.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*)", pattern))
        return re.fullmatch(regex, path) is not None

    def __str__(self) -> str:
        parts = [self.uri, self.revision, f"{self.layout} {self.folder}".strip()]
        parts += [f"allow {list(self.allow)}"] if self.allow is not None else []
        parts += [f"ignore {list(self.ignore)}"] if self.ignore else []
        return " ".join(part for part in parts if part)


@dataclass
class Upstreams:
    """All sources of one world, by name: repos, the bucket, folders."""

    hub: Hub
    objects: Objects
    base: Path
    all: dict[str, Upstream] = field(default_factory=dict)

    def create(self, projects: Iterable[str]) -> None:
        """Make the sources, empty."""
        self.hub.repos.clear()
        self.hub.requests.clear()
        self.all = {
            "org/one": HubRepo(self.hub, "org/one"),
            "org/two": HubRepo(self.hub, "org/two"),
            STORE: Bucket(self.objects, STORE),
            "files": Folder(self.base / "files"),
            **{f"{project}/own": Folder(self.base / project / "own") for project in projects},
        }

    def __getitem__(self, name: str) -> Upstream:
        return self.all[name]

    def of(self, entry: Entry, project: str) -> Upstream:
        """Return the source of `entry` in the config of `project`."""
        if entry.uri.startswith(("s3:", "gs:")):
            return self.all[STORE]
        return self.all[{"file://../files": "files", "file://./own": f"{project}/own"}.get(entry.uri, entry.uri)]
