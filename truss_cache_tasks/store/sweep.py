"""sweep: remove what dead runs left and nothing owns, at each commit and each clean, under the root's lock.

Every byte that we made has an owner: a manifest, a note of an unfinished fetch, or a process that holds its lock.
"""

from __future__ import annotations

import contextlib
import re

from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store import partials
from truss_cache_tasks.store.blobs import PUBLISHED, STAGING, is_marked, staged
from truss_cache_tasks.store.layout import BLOB_ID, LOCK, PARTIAL, STAGED, CacheRoot, blob_id
from truss_cache_tasks.store.links import linked_blobs
from truss_cache_tasks.store.locks import sweep_locks, try_lock
from truss_cache_tasks.store.manifest import are_all_readable, read_all
from truss_cache_tasks.store.unfinished import drop_useless_notes, keep_unfinished, read_unfinished

RESUMABLE_S = 7 * 86400.0  # a failed download of another entry waits so long for its next run


def sweep(place: CacheRoot) -> None:
    """Remove what no manifest, no note of a fetch and no living process owns, and partials of no use."""
    partials.sweep_partials(place, older_than_s=RESUMABLE_S)
    sweep_unowned(place)


def sweep_unowned(place: CacheRoot) -> None:
    """Remove what no manifest, no note of a fetch and no living process owns."""
    partials.sweep_temporaries(place)
    drop_useless_notes(place)
    sweep_locks(place.tree, f"{RECORDS}/locks", LOCK)
    if not place.tree.is_folder(STAGING) and not place.tree.is_folder(PUBLISHED):
        return
    if not are_all_readable(place):
        return  # it cannot be known what is owned
    if place.layout is Layout.HUB:
        _sweep_published(place, owned_ids(place))
    else:
        _sweep_staged(place, owned_ids(place))


def owned_ids(place: CacheRoot) -> set[str]:
    """Return the ids of the blobs that a manifest lists or a fetch noted."""
    owned = {blob_id(file.identity, place.layout) for manifest in read_all(place) for file in manifest.files}
    return owned.union(*(noted.blobs for noted in read_unfinished(place)))


def _sweep_staged(place: CacheRoot, owned: set[str]) -> None:
    for path in list(place.tree.files_below(STAGING)):
        found = STAGED.fullmatch(path.rpartition("/")[2])
        if found is not None and found[1] not in owned:
            _unlink_unless_locked(place, found[1], path)
    place.tree.remove_hollow(STAGING)


def _sweep_published(place: CacheRoot, owned: set[str]) -> None:
    """Remove the blobs of the hub cache that are noted as ours, and that nothing lists or links to."""
    linked: set[str] | None = None
    for name in place.tree.names(PUBLISHED):
        if re.fullmatch(BLOB_ID, name) is None or name in owned:
            continue
        linked = linked_blobs(place) if linked is None else linked
        blob = f"blobs/{name}"
        if is_marked(place, blob) and blob not in linked:
            _unlink_unless_locked(place, name, blob)
        _unlink_unless_locked(place, name, f"{PUBLISHED}/{name}")


def _unlink_unless_locked(place: CacheRoot, name: str, path: str) -> None:
    if release := try_lock(place.blob_lock(name)):
        with contextlib.suppress(OSError):
            place.tree.unlink(path)
        release()


def forget_empty_note(place: CacheRoot, key: str, claim: tuple[str, str]) -> None:
    """Forget that this claim's fetch of a request noted anything, if nothing is left of it."""
    coming = {found[1] for name in place.tree.names(partials.FOLDER) if (found := PARTIAL.fullmatch(name))}
    for noted in read_unfinished(place):
        if noted.key != key:
            continue
        left = noted.blobs & coming or any(_is_there(place, name) for name in noted.blobs)
        if not left and not any(place.tree.lstat(path) for path in noted.paths):
            keep_unfinished(place, noted, noted.claims - {claim})


def _is_there(place: CacheRoot, name: str) -> bool:
    return is_marked(place, f"blobs/{name}") if place.layout is Layout.HUB else bool(staged(place, name))
