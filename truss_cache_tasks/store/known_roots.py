"""The cache roots that a project has used, noted outside them, so that `clean` finds a root after an edit of its path.

`${XDG_STATE_HOME:-~/.local/state}/truss-cache/{project}.json`, written only by a run or clean that writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import FORMAT, Project
from truss_cache_tasks.store import record_file
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.locks import LockFile, locked
from truss_cache_tasks.store.record_file import Unreadable, read_record, write_json
from truss_cache_tasks.store.tree import FileTree

_FIELDS = {"roots": lambda value: isinstance(value, list) and all(map(record_file.is_root, value))}


def known_roots(settings: Settings, project: Project) -> set[str]:
    """Return the absolute paths of the roots that this project has used; none where the note cannot be read."""
    try:
        value = read_record(FileTree(settings.state_dir), f"{project.id}.json")
        return set() if value is None else set(record_file.check_fields(value, _FIELDS, "it", more=True)["roots"])
    except (Unreadable, DiskError):
        return set()


def all_known_roots(settings: Settings) -> set[str]:
    """Return the absolute paths of the roots that any project has used; none of a note that cannot be read."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for name in FileTree(settings.state_dir).names(""):
            project, dot, kind = name.rpartition(".")
            if dot and kind == "json":
                found |= known_roots(settings, Project(id=project, config="", entries={}))
    return found


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
            write_json(state, path, {"format": FORMAT, "config": project.config, "roots": sorted(roots)})
        else:
            state.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(settings.state_dir)
