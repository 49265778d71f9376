"""Whole, verified files: partials become blobs here, and what lies on the disk is found again as Held."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from truss_cache_tasks.errors import Stopped
from truss_cache_tasks.planning.digests import Hasher
from truss_cache_tasks.planning.freshness import same_mtime
from truss_cache_tasks.planning.listing import Digest
from truss_cache_tasks.planning.plan import PlannedFile
from truss_cache_tasks.planning.records import FileRecord
from truss_cache_tasks.planning.request import Form
from truss_cache_tasks.store.disk import (
    disk_errors,
    move,
    named,
    open_in,
    place_file,
    remove_hollow,
    sync_folder,
    token,
)
from truss_cache_tasks.store.layout import Place, blob_id
from truss_cache_tasks.store.locks import locked
from truss_cache_tasks.store.manifest import read_all
from truss_cache_tasks.store.partials import Partial

_CHUNK = 1 << 20  # bytes hashed between two looks at `stopped`


@dataclass(frozen=True)
class Held:
    """Bytes that are on this disk, whole and verified.

    Args:
        path: the file itself, no link.
        digest: `algorithm:hex` of the store's digest that confirmed them once; "" is unverified.
        ours: we brought them; what huggingface_hub left is not ours to remove.
    """

    path: Path
    size: int
    mtime_ns: int
    xxh3: str
    digest: str
    ours: bool = True


def publish(place: Place, planned: PlannedFile, partial: Partial, digest: Digest | None, xxh3: str) -> Held:
    """Make a complete, verified and synced partial a blob; its name survives a power cut after `sync_names`."""
    confirmed = as_text(digest)
    with disk_errors(f"cannot publish {planned.file.path}"):
        stat = os.fstat(partial.descriptor)
        partial.close()
        path = _blob_path(place, planned.identity, xxh3, confirmed)
        _mark(place, path, stat.st_mtime_ns)
        move(partial.path, path)
        partial.drop_journal()
    return Held(path, stat.st_size, stat.st_mtime_ns, xxh3, confirmed)


def sync_names(held: Iterable[Held]) -> None:
    """Make the names of published blobs survive a power cut, which a manifest that lists them relies on."""
    folders = {os.path.dirname(one.path) for one in held}
    for folder in folders | {os.path.dirname(folder) for folder in folders}:
        with disk_errors(f"cannot sync {folder}"), contextlib.suppress(FileNotFoundError):
            sync_folder(folder)  # gone: another project's clean took them, which the commit will find


def _mark(place: Place, path: Path, mtime_ns: int) -> None:
    """Note that the hub blob at `path` is ours, until a manifest says so: a kill must not make it a stranger's."""
    if place.form is Form.HUB:
        note = Path(f"{place.records}/published/{path.name}")
        os.close(open_in(note, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC))
        os.utime(note, ns=(mtime_ns, mtime_ns))


def _is_marked(place: Place, path: Path) -> bool:
    with contextlib.suppress(OSError):
        note = place.records / "published" / path.name
        return same_mtime(note.stat().st_mtime_ns, path.stat().st_mtime_ns)
    return False


def settle_in(place: Place, held: Iterable[Held]) -> None:
    """Remove what stood for these bytes until a manifest listed them. The caller holds the root's lock."""
    staged_below = f"{place.records}/blobs/"
    for one in held:
        if str(one.path).startswith(staged_below):
            one.path.unlink(missing_ok=True)
        elif place.form is Form.HUB:
            (place.records / "published" / one.path.name).unlink(missing_ok=True)
    if place.form is Form.HUB:
        (place.records / "published" / "links.json").unlink(missing_ok=True)
    else:
        remove_hollow(place.records / "blobs")


def bring_home(place: Place, planned: PlannedFile, held: Held, stopped: Callable[[], bool]) -> Held:
    """Put bytes that lie elsewhere on this machine (a mount, a volume) into the hub's blobs, linked where possible."""
    path = place.root / "blobs" / blob_id(planned.identity, place.form)
    if held.path == path:
        return held
    with locked(place.blob_lock(path.name), stopped), disk_errors(f"cannot write below {place.root}"):
        _mark(place, path, held.mtime_ns)
        place_file(held.path, path, place.records / "partials" / f"{path.name}.{token()}")
        return Held(path, held.size, path.stat().st_mtime_ns, held.xxh3, held.digest)


def arrived(place: Place, planned: PlannedFile, since_ns: int) -> bool:
    """Whether these bytes may have come since a stock was taken: somebody else published, or committed, meanwhile."""
    name = blob_id(planned.identity, place.form)
    if place.form is Form.HUB:
        return os.path.exists(f"{place.root}/blobs/{name}")
    return bool(staged(place, name)) or last_commit(place) != since_ns


def staged(place: Place, name: str) -> list[Path]:
    """Return the whole files of this blob id that no path shows."""
    return named(_staging(place, name), name)


def _staging(place: Place, name: str) -> str:
    """Return the folder of this blob id: its lookup must not take longer the more files wait beside it."""
    return f"{place.records}/blobs/{name[:2]}"


def last_commit(place: Place) -> int:
    """Return a number that changes when a manifest is written (ns)."""
    try:
        return os.stat(f"{place.records}/manifests").st_mtime_ns
    except FileNotFoundError:
        return 0


def retire(place: Place, record: FileRecord) -> Path:
    """Take a file of a flat layout out of sight, its bytes kept, so that undoing an edit fetches nothing."""
    path = place.root / record.path
    target = _blob_path(place, record.identity, record.xxh3, record.digest)
    move(path, target)
    path.unlink(missing_ok=True)  # rename(2) of two links to one file does nothing
    return target


def keep(place: Place, record: FileRecord) -> None:
    """Keep the bytes of a file of a flat layout that is about to be replaced; where the disk has no hard links, not."""
    target = _blob_path(place, record.identity, record.xxh3, record.digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        os.link(place.root / record.path, target)


def is_as_recorded(place: Place, record: FileRecord) -> bool:
    """Whether the file that holds the bytes of `record` has the stat that it was recorded with."""
    return _believed(place.root / (record.blob or record.path), record) is not None


def as_text(digest: Digest | None) -> str:
    """Return `algorithm:hex`, `algorithm-composite:hex` for one over parts, "" for none."""
    if digest is None:
        return ""
    return f"{digest.algorithm}{'-composite' if digest.parts else ''}:{digest.value}"


def as_digest(text: str) -> Digest | None:
    """Return the digest that `as_text` wrote; None for "" and for a composite, whose parts are not kept."""
    algorithm, _, value = text.partition(":")
    return Digest(algorithm, value) if value and not algorithm.endswith("-composite") else None


def take_stock(
    places: Sequence[Place], wanted: Sequence[PlannedFile], *, rehash: bool, stopped: Callable[[], bool]
) -> dict[str, Held]:
    """Find what of `wanted` is on this disk already, whichever entry, revision, edit or tool brought it.

    Args:
        places: cache roots to look in, the one where the files are to be visible first. Files recorded with the stat
            that they still have are believed, everything else is hashed, on all cores; what is visible already
            counts before a better copy elsewhere, so that two owners of one path do not take turns to replace it.
        rehash: believe no stat.

    Returns:
        0..N held files by identity.
    """
    recorded = _recorded(places, {planned.identity for planned in wanted})
    found: dict[str, Held] = {}
    doubtful: list[PlannedFile] = []
    for planned in wanted:
        held = None if rehash else _sure(recorded.get(planned.identity, ()))
        if held is not None and not _differs_in_sight(places[0], planned, held):
            found[planned.identity] = held
        elif planned.identity in recorded or any(path.exists() for path, *_ in _unrecorded(places, planned)):
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


def hash_file(path: Path, hasher: Hasher, stopped: Callable[[], bool]) -> None:
    """Feed a whole file to `hasher`. Raises Stopped when told to stop meanwhile."""
    buffer = memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as source:
        while size := source.readinto(buffer):
            if stopped():
                raise Stopped(f"stopped while hashing {path.name}")
            hasher.update(buffer[:size])


def _recorded(places: Iterable[Place], identities: set[str]) -> dict[str, list[tuple[Path, FileRecord]]]:
    found: dict[str, list[tuple[Path, FileRecord]]] = {}
    for place in places:
        for manifest in read_all(place):
            for record in manifest.files:
                if record.identity in identities:
                    physical = place.root / (record.blob or record.path)
                    found.setdefault(record.identity, []).append((physical, record))
    return found


def _sure(records: Iterable[tuple[Path, FileRecord]]) -> Held | None:
    return next((held for path, record in records if (held := _believed(path, record))), None)


def _differs_in_sight(place: Place, planned: PlannedFile, held: Held) -> bool:
    """Whether a file of another making is visible where these bytes are to be: it may hold them too."""
    path = place.root / planned.path
    try:
        return place.form is not Form.HUB and path.is_file() and not path.samefile(held.path)
    except OSError:
        return False


def _believed(path: Path, record: FileRecord) -> Held | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    if stat.st_size != record.size or not same_mtime(stat.st_mtime_ns, record.mtime_ns):
        return None
    return Held(path, stat.st_size, stat.st_mtime_ns, record.xxh3, record.digest, record.made_blob)


def _checked(
    places: Sequence[Place],
    recorded: dict[str, list[tuple[Path, FileRecord]]],
    rehash: bool,
    stopped: Callable[[], bool],
    planned: PlannedFile,
) -> Held | None:
    """Hash every place where these bytes may lie, until one is right."""
    records = recorded.get(planned.identity, [])
    in_sight = places[0].root / planned.path
    if places[0].form is not Form.HUB:
        records = [(in_sight, record) for _, record in records[:1]] + records
    for path, record in records:
        if not rehash and path != in_sight and (held := _believed(path, record)):
            return held
        if found := _hashed(path, planned.file.size, None, stopped):
            mtime_ns, xxh3 = found
            if xxh3 == record.xxh3:
                return Held(path, record.size, mtime_ns, xxh3, record.digest, record.made_blob)
    want = planned.file.digest
    for path, expected, digest, ours in _unrecorded(places, planned):
        if found := _hashed(path, planned.file.size, want, stopped):
            mtime_ns, xxh3 = found
            if xxh3 == (expected or xxh3):
                return Held(path, planned.file.size, mtime_ns, xxh3, digest or as_text(want), ours)
    return None


def _unrecorded(places: Sequence[Place], planned: PlannedFile) -> Iterator[tuple[Path, str, str, bool]]:
    """Yield (path, xxh3 or "", digest or "", ours) of bytes that no manifest lists."""
    for place in places:
        name = blob_id(planned.identity, place.form)
        if place.form is Form.HUB:
            if planned.file.digest is not None:
                path = place.root / "blobs" / name
                yield path, "", "", _is_marked(place, path)  # huggingface_hub's, or ours before its commit
            continue
        for path in staged(place, name):
            _, xxh3, digest = path.name.split(".", 2)
            yield path, xxh3, digest.replace("-", ":", 1) if digest != "unverified" else "", True
        if planned.file.digest is not None and not (place.root / planned.path).is_symlink():
            yield place.root / planned.path, "", "", True


def _hashed(path: Path, size: int, want: Digest | None, stopped: Callable[[], bool]) -> tuple[int, str] | None:
    """Return (mtime in ns, xxh3) of a file that is there with this size and digest, else None."""
    try:
        before = path.stat()
        if before.st_size != size or not path.is_file():
            return None
        hasher = Hasher(size, want)
        hash_file(path, hasher, stopped)
    except OSError:
        return None
    return (before.st_mtime_ns, hasher.xxh3()) if hasher.matches else None


def _blob_path(place: Place, identity: str, xxh3: str, digest: str) -> Path:
    name = blob_id(identity, place.form)
    if place.form is Form.HUB:
        return Path(f"{place.root}/blobs/{name}")
    return Path(f"{_staging(place, name)}/{name}.{xxh3}.{_plain(digest)}")


def _plain(digest: str) -> str:
    return digest.replace(":", "-", 1) if digest else "unverified"
