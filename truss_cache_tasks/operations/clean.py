"""clean: invalidate the claims of a config wherever it may have some, and remove what nothing else claims."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.operations.context import BEHIND, EntryContext
from truss_cache_tasks.store import remove
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.known_roots import forget_empty_roots, known_roots
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.remove import Cleaned, roots_of


def clean(
    entries: Iterable[EntryContext],
    names: Collection[str] | None,
    done: Cleaned,
    *,
    project: Project,
    settings: Settings,
    model_cache: Path,
    dry: bool,
) -> None:
    """Invalidate the entries `names` of a config; None: all of it, and what its gone entries left behind.

    Removes what it can in every root, and adds what it did to `done`.

    Args:
        entries: all entries of the config.
        dry: remove nothing, but add to `done` what would be removed.

    Raises:
        DiskError: the first root that could not be cleaned; the others are named in `done.left`.
    """
    claims = None if names is None else {claim for name in names for claim in (name, name + BEHIND)}
    errors: list[DiskError] = []
    with disk_errors("cannot clean"):
        for root in _roots(entries, project, settings, model_cache):
            try:
                remove.clean(root, project, claims, done, dry=dry)
            except DiskError as error:
                errors.append(error)
        if not dry:
            forget_empty_roots(settings, project)
    if errors:
        done.left += map(str, errors[1:])
        raise errors[0]


def _roots(entries: Iterable[EntryContext], project: Project, settings: Settings, model_cache: Path) -> list[CacheRoot]:
    """Return every root where this project may have claims: of its entries, of the hub cache, and those it had once."""
    found = {root.root: root for entry in entries for root in entry.places}
    found.setdefault(model_cache, CacheRoot(model_cache, Layout.BUCKET))
    hubs = {root.hub for root in found.values() if root.hub is not None} | {settings.hub_cache()}
    for hub in hubs:
        for repo in hub.glob("models--*"):
            found.setdefault(repo, CacheRoot(repo, Layout.HUB, hub))
    known = {path for root in found.values() for path in roots_of(root, project.id)}
    known |= known_roots(settings, project)
    for path in map(Path, sorted(known - {str(path) for path in found})):
        is_hub = path.name.startswith("models--")
        found[path] = CacheRoot(path, Layout.HUB, path.parent) if is_hub else CacheRoot(path, Layout.MOUNT)
    return list(found.values())
