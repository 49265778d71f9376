"""The cache roots that a project has used, noted outside them, so that `clean` finds a root after an edit of its path.

`${XDG_STATE_HOME:-~/.local/state}/truss-cache/{project}.json`, written only by a run or clean that writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import FORMAT, Project
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store import record_file
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.locks import LockFile, OnWait, ignore_wait, locked
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


def remember_roots(
    settings: Settings,
    project: Project,
    warn: Callable[[str], object],
    *,
    cancel: CancelToken = NEVER,
    on_wait: OnWait = ignore_wait,
) -> None:
    """Note the roots of the config, beside those that it had before. Calls `warn` where that cannot be written."""
    if not set(project.roots) <= known_roots(settings, project):
        try:
            with _locked(settings, project, cancel, on_wait):
                _write(settings, project, known_roots(settings, project) | set(project.roots))
        except DiskError as error:
            warn(f"{error}: `clean` will not find this cache after an edit of its path")


def forget_empty_roots(
    settings: Settings, project: Project, *, cancel: CancelToken = NEVER, on_wait: OnWait = ignore_wait
) -> None:
    """Forget the roots in which nothing of ours is. Raises DiskError."""
    known = known_roots(settings, project)
    used = {root for root in known if os.path.lexists(os.path.join(root, RECORDS))}
    if used != known:
        with _locked(settings, project, cancel, on_wait):
            _write(settings, project, known_roots(settings, project) & used)


@contextlib.contextmanager
def _locked(settings: Settings, project: Project, cancel: CancelToken, on_wait: OnWait) -> Iterator[None]:
    """Hold the lock of the note for the block; then remove its folder if it is empty."""
    path = f"{project.id}.json"
    lock = LockFile(FileTree(settings.state_dir), f"{project.id}.lock")
    with disk_errors(f"cannot write {settings.state_dir / path}"), locked(lock, cancel, on_wait):
        yield
    with contextlib.suppress(OSError):
        os.rmdir(settings.state_dir)


def _write(settings: Settings, project: Project, roots: Collection[str]) -> None:
    state, path = FileTree(settings.state_dir), f"{project.id}.json"
    if roots:
        write_json(state, path, {"format": FORMAT, "config": project.config, "roots": sorted(roots)})
    else:
        state.unlink(path)
