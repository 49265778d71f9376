"""Tell which visible paths are ours, and which of them a claim uses, in every cache root that a path lies in.

Roots nest (a mount below the model cache, a mount below a mount), so a path may lie in several, and each may have
records that list it. All of them are found by walking from the path up to the disk's root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store import claims
from truss_cache_tasks.store.disk import is_writable
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.locks import OnWait, locked
from truss_cache_tasks.store.manifest import are_all_readable, read_all
from truss_cache_tasks.store.unfinished import read_unfinished


def roots_around(place: CacheRoot, paths: Iterable[str]) -> list[CacheRoot]:
    """Return the roots with records of ours in which any of `paths` lies, `place` among them, outermost first.

    Args:
        paths: relative to `place`.
    """
    if place.layout is Layout.HUB:
        return [place]  # a repo of the hub cache has no other root above or below it
    top = os.path.realpath(place.root)
    above = [str(parent) for parent in Path(top).parents if _is_trusted(f"{parent}/{RECORDS}", top)]
    folders = {folder for path in paths for folder in folders_of(path)}
    below = [f"{top}/{folder}" for folder in sorted(folders) if place.tree.is_folder(f"{folder}/{RECORDS}")]
    outer, inner = ([CacheRoot(Path(root), Layout.MOUNT) for root in roots] for roots in (reversed(above), below))
    return [*outer, place, *inner]


def _is_trusted(records: str, top: str) -> bool:
    """Whether a folder above a root can hold records that count: anybody may make one in /tmp."""
    try:
        stat = os.lstat(records)
        trusted = {os.geteuid(), 0, os.stat(top).st_uid}
    except OSError:
        return False
    return S_ISDIR(stat.st_mode) and stat.st_uid in trusted and os.access(records, os.R_OK | os.X_OK)


@contextmanager
def roots_locked(
    place: CacheRoot,
    paths: Callable[[], Collection[str]],
    stopped: Callable[[], bool] = lambda: False,
    on_wait: OnWait = lambda _lock: None,
) -> Iterator[list[CacheRoot]]:
    """Hold the locks of the roots in which any of these paths lies, and lend these roots, as they are under the locks.

    Outermost first, so that no two processes wait for each other. A root that came, or whose records list further
    paths, while a lock was waited for needs its lock too: then once more. One whose lock cannot be taken, other than
    that of `place`, is not locked.

    Args:
        paths: relative to `place`; asked again under the locks.
    """
    place.tree.look_anew()
    around = roots_around(place, paths())
    while True:
        with ExitStack() as held:
            for root in around:
                if root is place:
                    held.enter_context(locked(root.lock("root"), stopped, on_wait))
                elif is_writable(root.records):
                    with suppress(DiskError):  # what keeps us from its lock keeps everybody
                        held.enter_context(locked(root.lock("root"), stopped, on_wait))
            place.tree.look_anew()
            now = roots_around(place, paths())
            if [root.root for root in now] == [root.root for root in around]:
                yield now
                return
        around = now


def own_paths(place: CacheRoot, around: Iterable[CacheRoot]) -> set[str]:
    """Return the paths below `place` that are ours: shown by a manifest as made by us, or noted by a fetch.

    Args:
        around: roots_around(place, ...).
    """
    found: set[str] = set()
    for root in around:
        paths = {file.path for manifest in read_all(root) for file in manifest.shown if file.made_link}
        paths |= {path for noted in read_unfinished(root) for path in noted.paths}
        found |= seen_from(place, root, paths)
    return found


def paths_in_use(
    place: CacheRoot, around: Iterable[CacheRoot], project: Project, but: Collection[tuple[Path, str]]
) -> set[str]:
    """Return the paths below `place` that a living claim of any project in any of these roots lists.

    Args:
        around: roots_around(place, ...).
        but: (root, claim name) of claims of `project` that do not count.
    """
    found: set[str] = set()
    for root in around:
        gone = {name for path, name in but if is_same_folder(path, root.root)}
        live = claims.live_keys(root, project, but=gone)
        paths = {file.path for manifest in read_all(root) if manifest.key in live for file in manifest.shown}
        if root is not place and not are_all_readable(root):  # it may list any file that is there
            paths |= set(root.tree.files_below(""))
        found |= seen_from(place, root, paths)
    return found


def is_same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder."""
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def folders_of(path: str) -> list[str]:
    """Return the folders that a relative path lies in, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def seen_from(place: CacheRoot, root: CacheRoot, paths: Iterable[str]) -> set[str]:
    """Return those of `paths`, relative to `root`, that lie below `place`, relative to it."""
    if root is place:
        return set(paths)
    there = way_between(place, root)
    return {seen for path in paths if (seen := there(path)) is not None}


def way_between(place: CacheRoot, root: CacheRoot) -> Callable[[str], str | None]:
    """Return what turns a path relative to `root` into one relative to `place`; None for one that lies not below it."""
    top, there = (os.path.realpath(one.root).rstrip("/") for one in (place, root))
    if top == there:
        return lambda path: path
    if top.startswith(f"{there}/"):
        inside = top[len(there) + 1 :] + "/"
        return lambda path: path[len(inside) :] if path.startswith(inside) else None
    outside = there[len(top) + 1 :]
    return lambda path: f"{outside}/{path}"
