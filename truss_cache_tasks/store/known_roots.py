"""The cache roots that a project has used, noted outside them, so that `clean` finds a root after an edit of its path.

`${XDG_STATE_HOME:-~/.local/state}/truss-cache/{project}.json`, written only by a run or clean that writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import FORMAT, Project
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store import record_file
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.locks import LockFile, OnWait, ignore_wait, locked
from truss_cache_tasks.store.record_file import Denied, NewerFormat, Unreadable, read_record, write_json
from truss_cache_tasks.store.tree import FileTree

_FIELDS = {"roots": lambda value: isinstance(value, list) and all(map(record_file.is_root, value))}


def known_roots(settings: Settings, project: Project) -> set[str]:
    """Return the absolute paths of the roots that this project has used; none where the note cannot be read."""
    return _read_or_nothing(FileTree(settings.state_dir), f"{project.id}.json")


def all_known_roots(settings: Settings) -> set[Path]:
    """Return the absolute paths of the roots that any project of this user has used, as far as they can be read."""
    state, found = FileTree(settings.state_dir), set[str]()
    with contextlib.suppress(OSError, DiskError):
        for name in state.names(""):
            if name.endswith(".json"):
                found |= _read_or_nothing(state, name)
    return set(map(Path, found))


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
        self._config = project.config
        try:
            self.roots = _read(state, self._path)
        except (NewerFormat, Denied) as exc:
            name = state.path / self._path
            raise DiskError(f"cannot replace {name}: {exc}", hint="Make it readable, or remove it.") from exc
        except Unreadable:
            state.remove_empty_tree(self._path)
            self.roots = set()

    def write(self, roots: set[str]) -> None:
        """Replace the roots of the note; remove the note if there are none."""
        if roots:
            write_json(self._state, self._path, {"format": FORMAT, "config": self._config, "roots": sorted(roots)})
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


def _read(state: FileTree, path: str) -> set[str]:
    value = read_record(state, path)
    return set() if value is None else set(record_file.check_fields(value, _FIELDS, "it", more=True)["roots"])


def _read_or_nothing(state: FileTree, path: str) -> set[str]:
    try:
        return _read(state, path)
    except (Unreadable, DiskError):
        return set()


def _is_damaged(settings: Settings, project: Project) -> bool:
    """Whether the note cannot be used by any version, and is a file."""
    state, path = FileTree(settings.state_dir), f"{project.id}.json"
    try:
        _read(state, path)
    except (NewerFormat, Denied):
        return False
    except Unreadable:
        return not state.is_folder(path)
    return False
