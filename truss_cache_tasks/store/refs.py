"""refs/REVISION of a repo in the hub cache: read, written and dropped as huggingface_hub does it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection

from truss_cache_tasks.errors import ForeignFile
from truss_cache_tasks.model.plan import Plan
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store.disk import token
from truss_cache_tasks.store.layout import CacheRoot, is_commit
from truss_cache_tasks.store.partials import FOLDER as PARTIALS

MOVE_AWAY = "Move it away, or let it be replaced: --replace (TRUSS_CACHE_REPLACE=1, cache_tasks(replace=True))."


def point_ref(place: CacheRoot, revision: str, commit: str) -> None:
    """Write refs/REVISION as huggingface_hub does: no ref for a full commit."""
    if is_commit(revision) or read_ref(place, revision) == commit:
        return
    temporary = f"{PARTIALS}/ref.{token()}"
    descriptor = place.tree.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, make=True)
    with open(descriptor, "w", encoding="ascii") as out:
        out.write(commit)
    place.tree.rename(temporary, f"refs/{revision}")


def read_ref(place: CacheRoot, revision: str) -> str:
    """Return the commit that refs/REVISION names, "" without one."""
    return _read_short(place, f"refs/{revision}").strip()


def _read_short(place: CacheRoot, path: str) -> str:
    try:
        with open(place.tree.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(1000).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def drop_refs(place: CacheRoot, leaving: Collection[str]) -> None:
    """Remove the refs to snapshots that hold nothing but `leaving`, before it goes: scan_cache_dir() warns of such."""
    going = set(leaving)
    snapshots = {"/".join(path.split("/")[:2]) for path in going}
    for path in list(place.tree.files_below("refs")):
        snapshot = f"snapshots/{_read_short(place, path).strip()}"
        if snapshot in snapshots and set(place.tree.files_below(snapshot)) <= going:
            with contextlib.suppress(OSError):
                place.tree.unlink(path)
                place.tree.remove_empty_parents(path)


def refuse_foreign_ref(place: CacheRoot, plan: Plan, *, replace: bool) -> None:
    """Refuse a file at refs/REVISION that is none of huggingface_hub's: those hold a commit, and no line end."""
    path = f"refs/{plan.request.revision}"
    if place.layout is not Layout.HUB or is_commit(plan.request.revision) or replace:
        return
    stat = place.tree.lstat(path)
    if stat is not None and stat.st_size and not is_commit(_read_short(place, path)):
        raise ForeignFile(f"{place.root / path}: found a file that is no ref of the Hub's cache", hint=MOVE_AWAY)
