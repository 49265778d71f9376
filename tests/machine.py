"""A machine with its caches below one folder, where entries are judged, fetched and cleaned in this very process.

machine = Machine(tmp_path, hub)
truss = machine.truss(entry("org/name"), entry("org/name", name="fp16", allow_patterns=["fp16/*"]))
truss.run()                       # -> {name: Outcome} of the entries that were stale, as doit runs them
truss.verdicts()                  # -> {name: "fresh" | why not}
truss.clean("fp16")
machine.downloads()               # -> the paths whose bytes were asked for since the last look
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entries import settings as process
from recorder import Recorder
from servers.hub import Hub

from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.operations.context import make_context, project_entries
from truss_cache_tasks.operations.fetch.fetch import fetch
from truss_cache_tasks.operations.fetch.online_fetch import Outcome
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.store.removal.removal import Cleaned

BIG, OTHER = random.Random(1).randbytes(60_000), random.Random(2).randbytes(40_000)
FILES = {
    "config.json": b"{}",
    "empty.txt": b"",
    "model.bin": BIG,
    "fp16/model.bin": OTHER,
    "fp16/twin.bin": BIG,  # the same blob under another name
    "a b+ü.txt": b"odd",
}


class Machine:
    """`hub_cache`, `model_cache`, `mounts` and `secrets` below `root`; the Hub is the stand-in."""

    connections: int | None = None
    max_bytes: int | None = None

    def __init__(self, root: Path, hub: Hub) -> None:
        self.root, self.hub = root, hub
        self.hub_cache, self.model_cache = root / "hub", root / "model_cache"
        self.mounts, self.secrets = root / "mounts", root / "secrets"
        self.secrets.mkdir(parents=True)

    def settings(self, **env: str) -> Settings:
        base = process(
            self.secrets,
            **{"HF_ENDPOINT": self.hub.url, "HF_HUB_CACHE": str(self.hub_cache), "HOME": str(self.root)},
            **env,
        )
        return base._replace(mount_root=self.mounts, connections=self.connections, max_bytes=self.max_bytes)

    def truss(self, *entries: Entry, project: str = "ours", **env: str) -> Trussed:
        """A config with these entries, read anew: another call is the same config after an edit."""
        settings = self.settings(**env)
        config = self.root / project / "config.yaml"
        blank = Project("", "", {})
        roots = [make_context(entry, blank, settings, self.model_cache) for entry in entries]
        known = {str(p.path) for t in roots for p in t.roots}
        host = os.uname().nodename
        owner = Project(project, str(config), project_entries(entries), tuple(sorted(known)), host)
        targets = tuple(make_context(entry, owner, settings, self.model_cache) for entry in entries)
        return Trussed(Workspace(config, settings, self.model_cache, targets, owner, ()))

    def repo(self, name: str = "org/name") -> Path:
        return self.hub_cache / f"models--{name.replace('/', '--')}"

    def asked(self) -> list[str]:
        """Return `METHOD path` of every request since the last look, what huggingface_hub asks for itself left out."""
        asked = [f"{r.method} {r.path}" for r in self.hub.requests if r.path != "/api/agent-harnesses"]
        self.hub.requests.clear()
        return asked

    def downloads(self) -> list[str]:
        """Return the paths in repos whose bytes were asked for since the last look, sorted; HEADs and listings not."""
        found = [re.fullmatch(r"GET /[^/]+/[^/]+/resolve/[0-9a-f]+/(.+)", line) for line in self.asked()]
        return sorted(match[1] for match in found if match)


@dataclass
class Trussed:
    """One config on one machine, for one invocation."""

    workspace: Workspace
    recorder: Recorder = field(default_factory=Recorder)

    def context(self, name: str | None = None) -> Any:
        return next(t for t in self.workspace.contexts if name in (None, t.name))

    def verdicts(self) -> dict[str, str]:
        return {t.name: str(self.workspace.read_status(t).verdict) for t in self.workspace.contexts}

    @property
    def fresh(self) -> bool:
        return set(self.verdicts().values()) == {"fresh"}

    def run(self, *names: str, force: bool = False) -> dict[str, Outcome]:
        """Run entries as doit would: the stale ones, one after the other; with `force` as `doit run -a`."""
        done = {}
        for context in self.workspace.contexts:
            fresh = self.workspace.read_status(context).verdict.fresh
            if (not names or context.name in names) and (force or not fresh):
                run = RunContext(id=self.workspace.run_id, reporter=self.recorder)
                done[context.name] = fetch(context, run, force=force and fresh)
        return done

    def clean(self, *names: str, dry: bool = False) -> Cleaned:
        self.workspace.cleaned = Cleaned()
        return self.workspace.clean(names or None, dry=dry)


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
        warnings = [str(warning) for warning in info.warnings]
        assert warnings == []
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


def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until `condition` holds. Raises AssertionError when it never does."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.005)


def flip(path: Path) -> None:
    """Turn one bit of a file, in a way that no stat shows."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with open(path, "r+b") as out:
        out.write(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
