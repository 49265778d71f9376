"""Clean a config: invalidate its claims in every root where it may have some, and remove what no other claim holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.operations.context import HUB_SUFFIX, EntryContext
from truss_cache_tasks.operations.roots import roots_of_project
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.locks import OnWait
from truss_cache_tasks.store.records.known_roots import forget_empty_roots
from truss_cache_tasks.store.removal.clean import clean_root
from truss_cache_tasks.store.removal.removal import Cleaned


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
        for root in roots_of_project(contexts, project, settings, model_cache):
            try:
                clean_root(root, project, claims, done, dry=dry, on_wait=on_wait)
            except DiskError as error:
                errors.append(error)
        if not dry:
            forget_empty_roots(settings, project, on_wait=on_wait)
    if errors:
        done.left += map(str, errors[1:])
        raise errors[0]
