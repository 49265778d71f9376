"""Compute what the fetch of a plan will take on the disk of a root.

What is whole is a hard link and takes nothing, except on another disk, or if it is the user's own file: then it is a
reflink, which takes nothing either, or a copy. What the partial of a dead run holds is there already. What a living
fetch of another entry brings is reserved by that one. A replaced file keeps its space until the new one is shown.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.store.blobs.partials import bytes_of_partials
from truss_cache_tasks.store.blobs.space import Demand, living_reserves, unnamed_file
from truss_cache_tasks.store.files import disk
from truss_cache_tasks.store.files.names import PARTIALS
from truss_cache_tasks.store.layouts.blob import LocalBlob
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.fetch_notes import read_notes

# Bytes of a file's records, at the most: a line of the manifest, the note, and a superseded manifest
_RECORDS = 1 << 10
_LOCKS = 16  # files and folders of ours that are there for a while


Shares = Callable[[LocalBlob], bool]  # whether the root can show the bytes of a blob without a copy


def demand_of(root: CacheRoot, key: str, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]) -> Demand:
    """Return what it takes to fetch `files` into `root`, and to show them there. Nothing if all is there.

    Args:
        key: of the request that is fetched, whose lock in `root` the caller holds.
        blobs: what is on this machine already, by content id.
    """

    if not blobs:
        return _demand(root, key, files, blobs, lambda _blob: False)
    with _tried_sharing(root) as shares:
        return _demand(root, key, files, blobs, shares)


def largest_demand_of(
    root: CacheRoot, key: str, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]
) -> Demand:
    """Return `demand_of` without a try, which writes: as if a disk had hard links to itself and no reflinks."""
    here = disk.device_of(root.path)
    return _demand(root, key, files, blobs, lambda blob: blob.device == here and root.layout.may_link(blob))


def _demand(
    root: CacheRoot,
    key: str,
    files: Sequence[PlannedFile],
    blobs: Mapping[ContentId, LocalBlob],
    shares: Shares,
) -> Demand:
    missing = {planned.content_id: planned for planned in files if planned.content_id not in blobs}
    copies = _copies(root, files, blobs, shares)
    if not missing and not copies:
        return Demand()
    block = disk.block_size(root.path)
    there, of_others = bytes_of_partials(root), _blobs_of_others(root, key)
    coming, blocks = 0, 0
    elsewhere: dict[str, frozenset[str]] = {}
    for planned in missing.values():
        blob_id, size = root.layout.blob_id(planned.content_id), planned.file.size
        if blob_id in of_others:
            elsewhere[blob_id] = of_others[blob_id]
            continue
        left = min(there[blob_id], size)
        coming, blocks = coming + size - left, blocks + max(0, _rounded(size, block) - left)
        if planned.file.encoding:  # stored as gzip: what is decoded has at least this size, mostly
            coming, blocks = coming + size, blocks + _rounded(size, block)
    for blob in copies:
        coming, blocks = coming + blob.size, blocks + _rounded(blob.size, block)
    links = len(files) if root.layout.paths_name_bytes else 0
    spare = _LOCKS * block + _RECORDS * len(files)
    inodes = len(missing) + len(copies) + links + _LOCKS
    return Demand(coming, blocks, spare, inodes, elsewhere)


def _rounded(size: int, block: int) -> int:
    return -(-size // block) * block


def _blobs_of_others(root: CacheRoot, key: str) -> dict[str, frozenset[str]]:
    """Return the id of each blob that living fetches of other requests bring into this root and have space for.

    With their reserves. A fetch waits for these alone: they began before its own, so no two wait for each other.
    """
    reserves = {reserve: its_key for reserve, its_key in living_reserves(root).items() if its_key != key}
    if not reserves:
        return {}
    found: dict[str, frozenset[str]] = {}
    for note in read_notes(root):
        theirs = frozenset(reserve for reserve, its_key in reserves.items() if its_key == note.key)
        if theirs:
            found.update((blob, found.get(blob, frozenset()) | theirs) for blob in note.blobs)
    return found


@contextlib.contextmanager
def _tried_sharing(root: CacheRoot) -> Iterator[Shares]:
    """Yield a Shares that tries a hard link and a reflink, once for each root and each disk of blobs."""
    links: dict[Path, bool] = {}  # root of a blob -> whether its files can be hard links here
    clones: dict[int, bool] = {}  # device -> whether its files can be reflinks here
    with unnamed_file(root.tree) as descriptor:
        here = os.fstat(descriptor).st_dev  # of files: on an overlay, folders have another one

        def shares(blob: LocalBlob) -> bool:
            if blob.device == here and root.layout.may_link(blob):
                at = blob.tree.path
                if at not in links:
                    links[at] = disk.can_link(blob.tree, blob.path, root.tree, f"{PARTIALS}/link.{disk.token()}")
                if links[at]:
                    return True
            if blob.device not in clones:
                clones[blob.device] = disk.can_clone(blob.tree, blob.path, descriptor)
            return clones[blob.device]

        yield shares


def _copies(
    root: CacheRoot, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob], shares: Shares
) -> list[LocalBlob]:
    """Return the blob of every copy of bytes that `files` need: neither a hard link nor a reflink can show it."""
    found: list[LocalBlob] = []
    for planned in files:
        blob = blobs.get(planned.content_id)
        if blob is None or not blob.size or (blob.tree is root.tree and blob.path == planned.path):
            continue
        if not shares(blob):
            found.append(blob)
    if root.layout.paths_name_bytes:  # copied once, and shown by links
        return list({id(blob): blob for blob in found}.values())
    return found
