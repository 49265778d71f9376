"""take_stock: find the files of a plan that are on this disk already, from any entry, revision, edit or tool."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial as bind

from truss_cache_tasks.model.hashing import Hasher
from truss_cache_tasks.model.listing import Digest
from truss_cache_tasks.model.plan import RECORDS, PlannedFile
from truss_cache_tasks.model.records import FileRecord
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.model.status import same_mtime
from truss_cache_tasks.store.blobs import as_text, is_marked, read_staged, staged
from truss_cache_tasks.store.disk import disk_errors, hash_file
from truss_cache_tasks.store.held import LocalBlob, held_file
from truss_cache_tasks.store.layout import CacheRoot, Found, blob_id, bytes_of, bytes_of_blob
from truss_cache_tasks.store.manifest import read_all


def take_stock(
    places: Sequence[CacheRoot], wanted: Sequence[PlannedFile], *, rehash: bool, stopped: Callable[[], bool]
) -> dict[str, LocalBlob]:
    """Find what of `wanted` is on this disk already, whichever entry, revision, edit or tool brought it.

    Args:
        places: cache roots to look in, the one where the files are to be visible first. Files recorded with the stat
            that they still have are believed, everything else is hashed, on all cores; what is visible already
            counts before a better copy elsewhere, so that two owners of one path do not take turns to replace it.
        rehash: believe no stat.

    Returns:
        0..N held files by identity.
    """
    recorded = _recorded(places, wanted)
    found: dict[str, LocalBlob] = {}
    doubtful: list[PlannedFile] = []
    for planned in wanted:
        held = None if rehash else _sure(recorded.get(planned.identity, ()))
        if held is not None and not _differs_in_sight(places[0], planned, held):
            found[planned.identity] = held
        elif planned.identity in recorded or any(True for _ in _unrecorded(places, planned)):
            doubtful.append(planned)
    if not doubtful:
        return found
    from concurrent.futures import ThreadPoolExecutor  # a no-op hashes nothing, and saves its imports

    check = bind(_checked, places, recorded, rehash, stopped)
    with ThreadPoolExecutor(os.cpu_count()) as pool, disk_errors("cannot read the cache"):
        for planned, held in zip(doubtful, pool.map(check, doubtful), strict=True):
            if held is not None:
                found[planned.identity] = held
    return found


def arrived(place: CacheRoot, planned: PlannedFile, since_ns: int) -> bool:
    """Whether these bytes may have come since a stock was taken: another process published, or committed, meanwhile."""
    name = blob_id(planned.identity, place.layout)
    if place.layout is Layout.HUB:
        return place.tree.lstat(f"blobs/{name}") is not None
    return bool(staged(place, name)) or last_commit(place) != since_ns


def last_commit(place: CacheRoot) -> int:
    """Return a number that changes when a manifest is written (ns)."""
    stat = place.tree.lstat(f"{RECORDS}/manifests")
    return 0 if stat is None else stat.st_mtime_ns


def is_of_plan(record: FileRecord, planned: PlannedFile) -> bool:
    """Whether a record is of these very bytes, by all that the plan knows of them."""
    size = record.size if record.stored_size is None else record.stored_size
    want = as_text(planned.file.digest, planned.file.encoding)
    contradicts = want.partition(":")[0] == record.digest.partition(":")[0] and want != record.digest
    return record.identity == planned.identity and size == planned.file.size and not contradicts


def _recorded(places: Iterable[CacheRoot], wanted: Iterable[PlannedFile]) -> dict[str, list[tuple[Found, FileRecord]]]:
    """Return, by identity, the records of the wanted bytes, and where they say that these are."""
    by_identity = {planned.identity: planned for planned in wanted}
    found: dict[str, list[tuple[Found, FileRecord]]] = {}
    for place in places:
        for manifest in read_all(place):
            for record in manifest.files:
                planned = by_identity.get(record.identity)
                if planned is None or not is_of_plan(record, planned):
                    continue
                where = _where(place, record) if record.blob or record.path not in manifest.hidden else None
                if where is not None:
                    found.setdefault(record.identity, []).append((where, record))
    return found


def _where(place: CacheRoot, record: FileRecord) -> Found | None:
    return bytes_of_blob(place, record.blob) if record.blob else bytes_of(place, record.path)


def _sure(records: Iterable[tuple[Found, FileRecord]]) -> LocalBlob | None:
    return next((held for where, record in records if (held := _believed(where, record))), None)


def _believed(where: Found, record: FileRecord) -> LocalBlob | None:
    if where.stat.st_size != record.size or not same_mtime(where.stat.st_mtime_ns, record.mtime_ns):
        return None
    return held_file(where.root, where.at, where.stat, record.xxh3, record.digest, ours=record.made_blob)


def _differs_in_sight(place: CacheRoot, planned: PlannedFile, held: LocalBlob) -> bool:
    """Whether a file of another making is visible where these bytes are to be: it may hold them too."""
    if place.layout is Layout.HUB:
        return False
    where = bytes_of(place, planned.path)
    return where is not None and (where.stat.st_dev, where.stat.st_ino) != (held.device, held.inode)


def _checked(
    places: Sequence[CacheRoot],
    recorded: dict[str, list[tuple[Found, FileRecord]]],
    rehash: bool,
    stopped: Callable[[], bool],
    planned: PlannedFile,
) -> LocalBlob | None:
    """Hash every place where these bytes may lie, until one is right."""
    records = recorded.get(planned.identity, [])
    in_sight = bytes_of(places[0], planned.path) if places[0].layout is not Layout.HUB else None
    if in_sight is not None:  # ours if a record of this very path says so
        ours = any(record.made_blob for where, record in records if _is_same(where, in_sight))
        records = [(in_sight, replace(record, made_blob=ours)) for _, record in records[:1]] + records
    for where, record in records:
        if not rehash and not _is_same(where, in_sight) and (held := _believed(where, record)):
            return held
        if (found := _hashed(where, record.size, None, stopped)) and found[1] == record.xxh3:
            return held_file(where.root, where.at, found[0], found[1], record.digest, ours=record.made_blob)
    want = planned.file.digest
    for where, expected, digest, ours in _unrecorded(places, planned):
        as_stored = None if planned.file.encoding else want  # a name of ours may come from elsewhere too
        if found := _hashed(where, None if expected else planned.file.size, as_stored, stopped):
            stat, xxh3 = found
            if xxh3 == (expected or xxh3):
                return held_file(where.root, where.at, stat, xxh3, digest or as_text(want), ours=ours)
    return None


def _is_same(one: Found, other: Found | None) -> bool:
    return other is not None and os.path.samestat(one.stat, other.stat)


def _unrecorded(places: Sequence[CacheRoot], planned: PlannedFile) -> Iterator[tuple[Found, str, str, bool]]:
    """Yield (where, xxh3 or "", digest or "", ours) of bytes that no manifest lists.

    A path that shows a file is looked at where the store tells a digest of what is shown; what is not ours stays so.
    """
    can_be_told = planned.file.digest is not None and not planned.file.encoding
    for place in places:
        name = blob_id(planned.identity, place.layout)
        if place.layout is Layout.HUB:
            if can_be_told:
                if where := bytes_of_blob(place, f"blobs/{name}"):
                    yield where, "", "", is_marked(place, f"blobs/{name}")  # ours before its commit
                if (where := bytes_of(place, planned.path)) and where.at == planned.path:
                    yield where, "", "", False  # huggingface_hub's, where it makes no links
            continue
        for path in staged(place, name):
            _, xxh3, digest = read_staged(path)
            if (stat := place.tree.lstat(path)) is not None:
                yield Found(place.tree, path, stat), xxh3, digest, True
        if can_be_told and (where := bytes_of(place, planned.path)):
            yield where, "", "", False


def _hashed(
    where: Found, size: int | None, want: Digest | None, stopped: Callable[[], bool]
) -> tuple[os.stat_result, str] | None:
    """Return (stat, xxh3) of a file that is there with this size (None: any) and digest, else None."""
    try:
        descriptor = where.root.open(where.at, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        stat = os.fstat(descriptor)
        if size is not None and stat.st_size != size:
            return None
        hasher = Hasher(stat.st_size, want)
        hash_file(descriptor, hasher, stopped)
        return (stat, hasher.xxh3()) if hasher.matches else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
