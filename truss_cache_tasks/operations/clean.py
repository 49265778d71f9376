"""Clean a config: invalidate its claims in every root where it may have some, and remove what no other claim holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.operations.context import HUB_SUFFIX, EntryContext
from truss_cache_tasks.store.clean import Cleaned, clean_root, roots_of
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.flat_layout import flat_root
from truss_cache_tasks.store.hub_layout import hub_root
from truss_cache_tasks.store.known_roots import forget_empty_roots, known_roots
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.locks import OnWait


def clean(
    contexts: Iterable[EntryContext],
    names: Collection[str] | None,
    done: Cleaned,
    *,
    project: Project,
    settings: Settings,
    model_cache: Path,
    dry: bool,
    on_wait: OnWait,
) -> None:
    """Invalidate entries of a config, and remove the files that no other claim holds, in every root that it may use.

    Args:
        contexts: all entries of the config.
        names: which entries; None: all, and those that left the config.
        done: what was removed, kept and left is added to it.
        dry: remove nothing, but add to `done` what would be removed.
        on_wait: called while another process holds the lock of a root.

    Raises:
        DiskError: the first root that could not be cleaned; the errors of further ones are in `done.left`.
    """
    claims = None if names is None else {claim for name in names for claim in (name, name + HUB_SUFFIX)}
    errors: list[DiskError] = []
    with disk_errors("cannot clean"):
        for root in _roots(contexts, project, settings, model_cache):
            try:
                clean_root(root, project, claims, done, dry=dry, on_wait=on_wait)
            except DiskError as error:
                errors.append(error)
        if not dry:
            forget_empty_roots(settings, project, on_wait=on_wait)
    if errors:
        done.left += map(str, errors[1:])
        raise errors[0]


def _roots(
    contexts: Iterable[EntryContext], project: Project, settings: Settings, model_cache: Path
) -> list[CacheRoot]:
    """Return every root where this project may have claims.

    These are the roots of its entries, the model cache, all repos of the hub caches, and the roots that earlier runs
    have noted in those and in the state folder.
    """
    found = {root.path: root for context in contexts for root in context.roots}
    found.setdefault(model_cache, flat_root(model_cache))
    hubs = {root.layout.hub for root in found.values() if root.layout.hub is not None} | {settings.hub_cache()}
    for hub in hubs:
        for repo in hub.glob("models--*"):
            found.setdefault(repo, hub_root(repo))
    known = {path for root in found.values() for path in roots_of(root, project.id)}
    known |= known_roots(settings, project)
    for path in map(Path, sorted(known - {str(path) for path in found})):
        found[path] = hub_root(path) if path.name.startswith("models--") else flat_root(path)
    return list(found.values())
