"""Find the files of a plan that are on this disk already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from truss_cache_tasks.model.hashing import Hasher
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import Digest
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.model.records import FileRecord, digest_text
from truss_cache_tasks.model.status import same_mtime
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.store.files.disk import OnHashed, OnHashing, disk_errors, hash_file
from truss_cache_tasks.store.layouts.blob import FoundFile, LocalBlob, local_blob
from truss_cache_tasks.store.layouts.layout import CacheRoot, Candidate
from truss_cache_tasks.store.records.manifest import read_manifests

Recorded = dict[ContentId, list[tuple[FoundFile, FileRecord]]]  # by content id


def find_local_blobs(
    roots: Sequence[CacheRoot],
    wanted: Sequence[PlannedFile],
    *,
    rehash: bool,
    cancel: CancelToken,
    on_hashing: OnHashing = lambda _total: lambda _size: None,
) -> dict[ContentId, LocalBlob]:
    """Find those of the `wanted` files that are on this disk already, whichever entry, revision or tool brought them.

    A file that still has the stat of its record is not hashed again; every other is, on all cores. A file that is at
    the planned path already is preferred to a copy elsewhere: else two owners of one path would replace it in turns.

    Args:
        roots: cache roots to look in, the one where the files are to be visible first.
        rehash: hash every file, also one whose stat is as recorded.
        on_hashing: called with the bytes of all files that are to be hashed, if there are any.

    Returns:
        The blobs that were found, by content id.
    """
    recorded = _recorded(roots, wanted)
    found: dict[ContentId, LocalBlob] = {}
    to_hash: list[PlannedFile] = []
    for planned in wanted:
        blob = None if rehash else _first_unchanged(recorded.get(planned.content_id, ()))
        if blob is not None and not _shows_another_file(roots[0], planned, blob):
            found[planned.content_id] = blob
        elif planned.content_id in recorded or any(True for _ in _unlisted(roots, planned)):
            to_hash.append(planned)
    if not to_hash:
        return found
    from concurrent.futures import ThreadPoolExecutor  # imported here: a run of a fresh entry hashes nothing

    on_hashed = on_hashing(sum(planned.file.size for planned in to_hash))
    check = partial(_find_by_hash, roots, recorded, rehash=rehash, cancel=cancel, on_hashed=on_hashed)
    with ThreadPoolExecutor(os.cpu_count()) as pool, disk_errors("cannot read the cache"):
        for planned, blob in zip(to_hash, pool.map(check, to_hash), strict=True):
            if blob is not None:
                found[planned.content_id] = blob
    return found


def is_of_plan(record: FileRecord, planned: PlannedFile) -> bool:
    """Whether a record is of these very bytes, by all that the plan knows of them."""
    size = record.size if record.stored_size is None else record.stored_size
    want = digest_text(planned.file.digest, planned.file.encoding)
    contradicts = want.partition(":")[0] == record.digest.partition(":")[0] and want != record.digest
    return record.content_id == planned.content_id and size == planned.file.size and not contradicts


def _recorded(roots: Iterable[CacheRoot], wanted: Iterable[PlannedFile]) -> Recorded:
    """Return, by content id, the records of the wanted bytes, and where they say that these are."""
    by_id = {planned.content_id: planned for planned in wanted}
    found: Recorded = {}
    for root in roots:
        for manifest in read_manifests(root).readable:
            for record in manifest.files:
                planned = by_id.get(record.content_id)
                if planned is None or not is_of_plan(record, planned):
                    continue
                file = root.layout.recorded_bytes(record, is_hidden=record.path in manifest.hidden)
                if file is not None:
                    found.setdefault(record.content_id, []).append((file, record))
    return found


def _first_unchanged(records: Iterable[tuple[FoundFile, FileRecord]]) -> LocalBlob | None:
    return next((blob for file, record in records if (blob := _unchanged_blob(file, record))), None)


def _unchanged_blob(file: FoundFile, record: FileRecord) -> LocalBlob | None:
    """Return the blob if the file still has the stat that it was recorded with."""
    if file.stat.st_size != record.size or not same_mtime(file.stat.st_mtime_ns, record.mtime_ns):
        return None
    return local_blob(file.tree, file.path, file.stat, record.xxh3, record.digest, ours=record.made_blob)


def _shows_another_file(root: CacheRoot, planned: PlannedFile, blob: LocalBlob) -> bool:
    """Whether another file than `blob` is visible where these bytes are to be: it may hold them too."""
    shown = root.layout.own_file(planned.path)
    return shown is not None and (shown.stat.st_dev, shown.stat.st_ino) != (blob.device, blob.inode)


def _find_by_hash(
    roots: Sequence[CacheRoot],
    recorded: Recorded,
    planned: PlannedFile,
    *,
    rehash: bool,
    cancel: CancelToken,
    on_hashed: OnHashed,
) -> LocalBlob | None:
    """Hash every file that may hold these bytes, until one is right."""
    records = recorded.get(planned.content_id, [])
    shown = roots[0].layout.own_file(planned.path)
    if shown is not None:  # ours if a record of this very path says so
        ours = any(record.made_blob for file, record in records if file.is_same_file(shown))
        records = [(shown, record._replace(made_blob=ours)) for _, record in records[:1]] + records
    for file, record in records:
        if not rehash and not file.is_same_file(shown) and (blob := _unchanged_blob(file, record)):
            return blob
        if (found := _hashed(file, record.size, None, cancel, on_hashed)) and found[1] == record.xxh3:
            return local_blob(file.tree, file.path, found[0], found[1], record.digest, ours=record.made_blob)
    want = planned.file.digest
    for file, expected, digest, ours in _unlisted(roots, planned):
        # a file whose name tells its xxh3 is compared with the digest too: another tool may have put it there
        as_stored = None if planned.file.encoding else want
        if found := _hashed(file, None if expected else planned.file.size, as_stored, cancel, on_hashed):
            stat, xxh3 = found
            if xxh3 == (expected or xxh3):
                return local_blob(file.tree, file.path, stat, xxh3, digest or digest_text(want), ours=ours)
    return None


def _unlisted(roots: Iterable[CacheRoot], planned: PlannedFile) -> Iterator[Candidate]:
    return (candidate for root in roots for candidate in root.layout.unlisted_candidates(planned))


def _hashed(
    file: FoundFile, size: int | None, want: Digest | None, cancel: CancelToken, on_hashed: OnHashed
) -> tuple[os.stat_result, str] | None:
    """Return (stat, xxh3) of a file that is there with this size (None: any) and digest, else None."""
    try:
        descriptor = file.tree.open(file.path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        stat = os.fstat(descriptor)
        if size is not None and stat.st_size != size:
            return None
        hasher = Hasher(stat.st_size, want)
        hash_file(descriptor, hasher, cancel, on_hashed)
        return (stat, hasher.xxh3()) if hasher.matches else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
