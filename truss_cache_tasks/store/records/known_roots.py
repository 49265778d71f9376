"""The cache roots that a project has used, in a file outside them: `clean` finds a root after an edit of its path.

`${XDG_STATE_HOME:-~/.local/state}/truss-cache/{project}.json`, written only by a run or clean that writes.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import FORMAT, RECORDS, Project
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store.files import record_file
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.locks import FileLock, OnWait, ignore_wait, locked
from truss_cache_tasks.store.files.names import TOKEN
from truss_cache_tasks.store.files.record_file import Denied, NewerFormat, Unreadable, read_record, write_json
from truss_cache_tasks.store.files.tree import FileTree

_FIELDS = {
    "roots": lambda value: isinstance(value, list) and all(map(record_file.is_root, value)),
    "config": record_file.is_text,
    "host": record_file.is_text,
}


def known_roots(settings: Settings, project: Project) -> frozenset[str]:
    """Return the absolute paths of the roots that this project has used; none where their file cannot be read."""
    return _read_or_nothing(FileTree(settings.state_dir), project.id).roots


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownRoots:
    """The roots that one project has used.

    Attributes:
        config, host: of the project; "" where it does not say.
        roots: absolute paths.
    """

    config: str = ""
    host: str = ""
    roots: frozenset[str] = frozenset()


def known_roots_by_project(settings: Settings) -> dict[str, KnownRoots]:
    """Return the roots of each project that ran here, by project id; without files that cannot be read."""
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
    """Add the roots of the config to those that it had before. Calls `warn` where that cannot be written."""
    try:
        with disk_errors(f"cannot read {settings.state_dir / project.id}.json"):
            known = known_roots(settings, project)
        if not set(project.roots) <= known:
            with _locked_file(settings, project, cancel, on_wait) as file:
                file.write(file.roots | set(project.roots))
    except DiskError as error:
        warn(f"{error}: `clean` will not find this cache after an edit of its path")


def forget_empty_roots(
    settings: Settings, project: Project, *, cancel: CancelToken = NEVER, on_wait: OnWait = ignore_wait
) -> None:
    """Forget the roots in which nothing of ours is. Raises DiskError."""
    known = known_roots(settings, project)
    used = {root for root in known if os.path.lexists(os.path.join(root, RECORDS))}
    if used != known or _is_damaged(settings, project) or _left_by_kills(FileTree(settings.state_dir), project):
        with _locked_file(settings, project, cancel, on_wait) as file:
            file.write(file.roots & used)


class _RootsFile:
    """The file of one project, read under its lock.

    Attributes:
        roots: none where the file is damaged.
    """

    def __init__(self, state: FileTree, project: Project) -> None:
        """Read the file. Raises DiskError for one that must not be replaced: of another version, or unreadable."""
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
        for left in _left_by_kills(state, project):
            if left.endswith(".tmp"):
                state.unlink(left)

    def write(self, roots: set[str]) -> None:
        """Replace the roots; remove the file if there are none."""
        if roots:
            write_json(self._state, self._path, {"format": FORMAT, **self._owner, "roots": sorted(roots)})
        else:
            self._state.unlink(self._path)


@contextlib.contextmanager
def _locked_file(settings: Settings, project: Project, cancel: CancelToken, on_wait: OnWait) -> Iterator[_RootsFile]:
    """Hold the lock of the project's file for the block; then remove its folder if it is empty."""
    state = FileTree(settings.state_dir)
    lock = FileLock(state, f"{project.id}.lock")
    with disk_errors(f"cannot write {state.path / project.id}.json"), locked(lock, cancel, on_wait):
        yield _RootsFile(state, project)
    with contextlib.suppress(OSError):
        os.rmdir(settings.state_dir)


def _left_by_kills(state: FileTree, project: Project) -> list[str]:
    """Return the names of the lock and the temporaries of the project's file."""
    with contextlib.suppress(OSError):
        shape = re.compile(rf"{re.escape(project.id)}\.(?:lock|json\.{TOKEN}\.tmp)")
        return [name for name in state.names("") if shape.fullmatch(name)]
    return []


def _read(state: FileTree, project: str) -> KnownRoots:
    """Return the roots of this project, none without a file. Raises Unreadable and DiskError."""
    value = read_record(state, f"{project}.json")
    if value is None:
        return KnownRoots()
    found = record_file.check_fields(value, _FIELDS, "it", optional=("config", "host"), more=True)
    return KnownRoots(config=found.get("config", ""), host=found.get("host", ""), roots=frozenset(found["roots"]))


def _read_or_nothing(state: FileTree, project: str) -> KnownRoots:
    try:
        return _read(state, project)
    except (Unreadable, DiskError):
        return KnownRoots()


def _is_damaged(settings: Settings, project: Project) -> bool:
    """Whether no version can use what lies at the path of the file, and it is no folder."""
    state = FileTree(settings.state_dir)
    try:
        _read(state, project.id)
    except (NewerFormat, Denied):
        return False
    except Unreadable:
        return not state.is_folder(f"{project.id}.json")
    return False
