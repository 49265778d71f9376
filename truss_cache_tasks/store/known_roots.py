"""The cache roots that a project has used, noted outside them, so that `clean` finds a root after an edit of its path.

`${XDG_STATE_HOME:-~/.local/state}/truss-cache/{project}.json`, written only by a run or clean that writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import FORMAT, RECORDS, Project
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store import record_file
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.locks import LockFile, OnWait, ignore_wait, locked
from truss_cache_tasks.store.record_file import Denied, NewerFormat, Unreadable, read_record, write_json
from truss_cache_tasks.store.tree import FileTree

_FIELDS = {
    "roots": lambda value: isinstance(value, list) and all(map(record_file.is_root, value)),
    "config": record_file.is_text,
    "host": record_file.is_text,
}


def known_roots(settings: Settings, project: Project) -> frozenset[str]:
    """Return the absolute paths of the roots that this project has used; none where the note cannot be read."""
    return _read_or_nothing(FileTree(settings.state_dir), project.id).roots


@dataclass(frozen=True, kw_only=True, slots=True)
class NotedRoots:
    """What is noted of one project.

    Attributes:
        config, host: whose note it is; "" where it does not say.
        roots: absolute paths.
    """

    config: str = ""
    host: str = ""
    roots: frozenset[str] = frozenset()


def noted_projects(settings: Settings) -> dict[str, NotedRoots]:
    """Return what is noted of each project that ran here, by project id; without notes that cannot be read."""
    state, names = FileTree(settings.state_dir), list[str]()
    with contextlib.suppress(OSError):
        names = state.names("")
    projects = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return {project: _read_or_nothing(state, project) for project in projects}


def remember_roots(
    settings: Settings,
    project: Project,
    warn: Callable[[str], object],
    *,
    cancel: CancelToken = NEVER,
    on_wait: OnWait = ignore_wait,
) -> None:
    """Note the roots of the config, beside those that it had before. Calls `warn` where that cannot be written."""
    try:
        with disk_errors(f"cannot read {settings.state_dir / project.id}.json"):
            known = known_roots(settings, project)
        if not set(project.roots) <= known:
            with _locked_note(settings, project, cancel, on_wait) as note:
                note.write(note.roots | set(project.roots))
    except DiskError as error:
        warn(f"{error}: `clean` will not find this cache after an edit of its path")


def forget_empty_roots(
    settings: Settings, project: Project, *, cancel: CancelToken = NEVER, on_wait: OnWait = ignore_wait
) -> None:
    """Forget the roots in which nothing of ours is. Raises DiskError."""
    known = known_roots(settings, project)
    used = {root for root in known if os.path.lexists(os.path.join(root, RECORDS))}
    if used != known or _is_damaged(settings, project):
        with _locked_note(settings, project, cancel, on_wait) as note:
            note.write(note.roots & used)


class _Note:
    """The note of one project, read under its lock.

    Attributes:
        roots: none where the note is damaged.
    """

    def __init__(self, state: FileTree, project: Project) -> None:
        """Read the note. Raises DiskError for one that must not be replaced: of another version, or unreadable."""
        self._state = state
        self._path = f"{project.id}.json"
        self._owner = {"config": project.config, "host": project.host}
        try:
            self.roots = set(_read(state, project.id).roots)
        except (NewerFormat, Denied) as exc:
            name = state.path / self._path
            raise DiskError(f"cannot replace {name}: {exc}", hint="Make it readable, or remove it.") from exc
        except Unreadable:
            state.remove_empty_tree(self._path)
            self.roots = set()

    def write(self, roots: set[str]) -> None:
        """Replace the roots of the note; remove the note if there are none."""
        if roots:
            write_json(self._state, self._path, {"format": FORMAT, **self._owner, "roots": sorted(roots)})
        else:
            self._state.unlink(self._path)


@contextlib.contextmanager
def _locked_note(settings: Settings, project: Project, cancel: CancelToken, on_wait: OnWait) -> Iterator[_Note]:
    """Hold the lock of the project's note for the block; then remove its folder if it is empty."""
    state = FileTree(settings.state_dir)
    lock = LockFile(state, f"{project.id}.lock")
    with disk_errors(f"cannot write {state.path / project.id}.json"), locked(lock, cancel, on_wait):
        yield _Note(state, project)
    with contextlib.suppress(OSError):
        os.rmdir(settings.state_dir)


def _read(state: FileTree, project: str) -> NotedRoots:
    """Return what is noted of this project, nothing without a note. Raises Unreadable and DiskError."""
    value = read_record(state, f"{project}.json")
    if value is None:
        return NotedRoots()
    found = record_file.check_fields(value, _FIELDS, "it", optional=("config", "host"), more=True)
    return NotedRoots(config=found.get("config", ""), host=found.get("host", ""), roots=frozenset(found["roots"]))


def _read_or_nothing(state: FileTree, project: str) -> NotedRoots:
    try:
        return _read(state, project)
    except (Unreadable, DiskError):
        return NotedRoots()


def _is_damaged(settings: Settings, project: Project) -> bool:
    """Whether the note cannot be used by any version, and is a file."""
    state = FileTree(settings.state_dir)
    try:
        _read(state, project.id)
    except (NewerFormat, Denied):
        return False
    except Unreadable:
        return not state.is_folder(f"{project.id}.json")
    return False
