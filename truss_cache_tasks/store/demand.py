"""Demand: what the fetch of a plan takes on the disk of a root, before its first byte comes.

What is whole is a hard link and takes nothing, except on another disk, or if it is the user's own file: then it is a
reflink, which takes nothing either, or a copy. What the partial of a dead run holds is there already. What a living
fetch of another entry brings is reserved by that one. A replaced file keeps its space until the new one is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.store import disk
from truss_cache_tasks.store.blob import LocalBlob
from truss_cache_tasks.store.fetch_notes import read_notes
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.locks import is_held
from truss_cache_tasks.store.partials import bytes_of_partials
from truss_cache_tasks.store.space import Demand, unnamed_file

_RECORDS = (
    1 << 10
)  # bytes of a file's records, at the most: a line of the manifest, the note, and a superseded manifest
_LOCKS = 16  # files and folders of ours that are there for a while


def demand_of(root: CacheRoot, key: str, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]) -> Demand:
    """Return what it takes to fetch `files` into `root`, and to show them there. Nothing if all is there.

    Args:
        key: of the request that is fetched, whose lock in `root` the caller holds.
        blobs: what is on this machine already, by content id.
    """

    def may_clone(blob: LocalBlob) -> bool:
        with unnamed_file(root.tree) as descriptor:
            return disk.can_clone(blob.tree, blob.path, descriptor)

    return _demand(root, key, files, blobs, may_clone)


def largest_demand_of(
    root: CacheRoot, key: str, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]
) -> Demand:
    """Return `demand_of` without writing anything: as if the disk had no reflinks, which only a file there tells."""
    return _demand(root, key, files, blobs, lambda _blob: False)


def _demand(
    root: CacheRoot,
    key: str,
    files: Sequence[PlannedFile],
    blobs: Mapping[ContentId, LocalBlob],
    may_clone: Callable[[LocalBlob], bool],
) -> Demand:
    missing = {planned.content_id: planned for planned in files if planned.content_id not in blobs}
    copies = _copies(root, files, blobs, may_clone)
    if not missing and not copies:
        return Demand()
    block = disk.block_size(root.path)
    there, in_flight = bytes_of_partials(root), _in_flight(root, key)
    coming, blocks = 0, 0
    for planned in missing.values():
        blob_id, size = root.layout.blob_id(planned.content_id), planned.file.size
        if blob_id in in_flight:
            continue
        left = min(there[blob_id], size)
        coming, blocks = coming + size - left, blocks + max(0, _rounded(size, block) - left)
        if planned.file.encoding:  # stored as gzip: what is decoded has at least this size, mostly
            coming, blocks = coming + size, blocks + _rounded(size, block)
    for blob in copies:
        coming, blocks = coming + blob.size, blocks + _rounded(blob.size, block)
    links = len(files) if root.layout.paths_name_bytes else 0
    spare = _LOCKS * block + _RECORDS * len(files)
    return Demand(coming, blocks, spare, len(missing) + len(copies) + links + _LOCKS)


def _rounded(size: int, block: int) -> int:
    return -(-size // block) * block


def _in_flight(root: CacheRoot, key: str) -> set[str]:
    """Return the ids of the blobs that living fetches of other requests bring into this root."""
    notes = [note for note in read_notes(root) if note.key not in ("", key) and note.blobs]
    return {blob for note in notes if is_held(root.lock(f"entry-{note.key}")) for blob in note.blobs}


def _copies(
    root: CacheRoot,
    files: Sequence[PlannedFile],
    blobs: Mapping[ContentId, LocalBlob],
    may_clone: Callable[[LocalBlob], bool],
) -> list[LocalBlob]:
    """Return the blob of every copy of bytes that `files` need: neither a hard link nor a reflink can show it."""
    here = disk.device_of(root.path)
    found: list[LocalBlob] = []
    clones: dict[int, bool] = {}  # device -> whether its files can be reflinks here
    for planned in files:
        blob = blobs.get(planned.content_id)
        if blob is None or not blob.size or (blob.tree is root.tree and blob.path == planned.path):
            continue
        if blob.device == here and root.layout.may_link(blob):
            continue
        if blob.device not in clones:
            clones[blob.device] = may_clone(blob)
        if not clones[blob.device]:
            found.append(blob)
    if root.layout.paths_name_bytes:  # copied once, and shown by links
        return list({id(blob): blob for blob in found}.values())
    return found
