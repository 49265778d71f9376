"""The cache roots that a project has used, noted outside them, so that `clean` finds a root after an edit of its path.

`${XDG_STATE_HOME:-~/.local/state}/truss-cache/{project}.json`, written only by a run or clean that writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import FORMAT, Project
from truss_cache_tasks.store import record_file
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.locks import LockFile, locked
from truss_cache_tasks.store.record_file import Unreadable, read_record, write_json
from truss_cache_tasks.store.tree import FileTree

_FIELDS = {
    "roots": lambda value: isinstance(value, list) and all(map(record_file.is_root, value)),
    "config": record_file.is_text,
    "host": record_file.is_text,
}


def known_roots(settings: Settings, project: Project) -> set[str]:
    """Return the absolute paths of the roots that this project has used; none where the note cannot be read."""
    return _read(settings, project.id).roots


@dataclass(frozen=True, kw_only=True, slots=True)
class NotedRoots:
    """What is noted of one project.

    Attributes:
        config, host: whose note it is; "" where it does not say.
        roots: absolute paths.
    """

    config: str = ""
    host: str = ""
    roots: set[str] = field(default_factory=set)


def noted_projects(settings: Settings) -> dict[str, NotedRoots]:
    """Return what is noted of each project that ran here, by project id; without notes that cannot be read."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = FileTree(settings.state_dir).names("")
    return {name[:-5]: _read(settings, name[:-5]) for name in names if name.endswith(".json")}


def _read(settings: Settings, project: str) -> NotedRoots:
    """Return what is noted of this project; nothing where that cannot be read."""
    try:
        value = read_record(FileTree(settings.state_dir), f"{project}.json") or {"roots": []}
        found = record_file.check_fields(value, _FIELDS, "it", optional=("config", "host"), more=True)
    except (Unreadable, DiskError, OSError):
        return NotedRoots()
    return NotedRoots(config=found.get("config", ""), host=found.get("host", ""), roots=set(found["roots"]))


def remember_roots(settings: Settings, project: Project, warn: Callable[[str], object]) -> None:
    """Note the roots of the config, beside those that it had before. Calls `warn` where that cannot be written."""
    if not set(project.roots) <= known_roots(settings, project):
        try:
            _write(settings, project, add=project.roots)
        except DiskError as error:
            warn(f"{error}: `clean` will not find this cache after an edit of its path")


def forget_empty_roots(settings: Settings, project: Project) -> None:
    """Forget the roots in which nothing of ours is. Raises DiskError."""
    known = known_roots(settings, project)
    used = {root for root in known if os.path.lexists(os.path.join(root, RECORDS))}
    if used != known:
        _write(settings, project, only=used)


def _write(
    settings: Settings, project: Project, *, add: Collection[str] = (), only: Collection[str] | None = None
) -> None:
    state, path = FileTree(settings.state_dir), f"{project.id}.json"
    with disk_errors(f"cannot write {settings.state_dir / path}"), locked(LockFile(state, f"{project.id}.lock")):
        roots = known_roots(settings, project) | set(add)
        roots = roots if only is None else roots & set(only)
        if roots:
            note = {"config": project.config, "host": project.host, "roots": sorted(roots)}
            write_json(state, path, {"format": FORMAT, **note})
        else:
            state.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(settings.state_dir)
