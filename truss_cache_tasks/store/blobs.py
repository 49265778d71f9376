"""Blobs: whole, verified files that no path shows. A partial becomes one, and a file that a flat layout hides."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

from truss_cache_tasks.model.listing import Digest
from truss_cache_tasks.model.plan import RECORDS, PlannedFile
from truss_cache_tasks.model.records import FileRecord
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.model.status import same_mtime
from truss_cache_tasks.store import partials
from truss_cache_tasks.store.disk import disk_errors, token
from truss_cache_tasks.store.held import LocalBlob, held_file, place_file
from truss_cache_tasks.store.layout import STAGED, CacheRoot, blob_id, bytes_of, bytes_of_blob
from truss_cache_tasks.store.locks import OnWait, locked
from truss_cache_tasks.store.partials import Partial

STAGING = f"{RECORDS}/blobs"
PUBLISHED = f"{RECORDS}/published"


def publish(
    place: CacheRoot,
    planned: PlannedFile,
    partial: Partial,
    digest: Digest | None,
    *,
    xxh3: str,
    stopped: Callable[[], bool] = lambda: False,
) -> LocalBlob | None:
    """Make a complete, verified and synced partial a blob; its name survives a power cut after `sync_names`.

    What the store has as gzip is decoded first; its digest is of the stored bytes.

    Returns:
        None where another process took the partial, as it can where locks do not work.
    """
    if planned.file.encoding:
        stored = partial
        partial, xxh3 = partials.decode(place, planned, stored, stopped)
        stored.discard()
    confirmed = as_text(digest, planned.file.encoding)
    with disk_errors(f"cannot publish {planned.file.path}"):
        stat, is_in_place = os.fstat(partial.descriptor), partial.is_in_place
        partial.close()
        if not is_in_place:
            return None
        path = _blob_path(place, planned.identity, xxh3, confirmed)
        _mark(place, path, stat.st_mtime_ns)
        try:
            _put(place, partial.path, path)
        except FileNotFoundError:
            return None
        partial.drop_journal()
    return held_file(place.tree, path, stat, xxh3, confirmed)


def _put(place: CacheRoot, path: str, blob: str) -> None:
    try:
        place.tree.rename(path, blob)
    except IsADirectoryError:
        place.tree.remove_hollow(blob)
        place.tree.rename(path, blob)


def sync_names(place: CacheRoot, held: Iterable[LocalBlob]) -> None:
    """Make the names of published blobs survive a power cut, which a manifest that lists them relies on."""
    folders = {os.path.dirname(one.at) for one in held}
    for folder in sorted(folders | {os.path.dirname(folder) for folder in folders}):
        with disk_errors(f"cannot sync {place.root / folder}"), contextlib.suppress(FileNotFoundError):
            place.tree.sync_folder(folder)  # gone: another project's clean took them, which the commit will find


def _mark(place: CacheRoot, blob: str, mtime_ns: int) -> None:
    """Note that the hub blob `blob` is ours, until a manifest says so: a kill must not make it huggingface_hub's."""
    if place.layout is Layout.HUB:
        note = f"{PUBLISHED}/{os.path.basename(blob)}"
        descriptor = place.tree.open(note, os.O_WRONLY | os.O_CREAT, make=True)
        try:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(descriptor)


def is_marked(place: CacheRoot, blob: str) -> bool:
    """Whether the hub blob `blob` is noted as ours."""
    note, stat = place.tree.lstat(f"{PUBLISHED}/{os.path.basename(blob)}"), place.tree.lstat(blob)
    return note is not None and stat is not None and same_mtime(note.st_mtime_ns, stat.st_mtime_ns)


def settle_in(place: CacheRoot, held: Iterable[LocalBlob]) -> None:
    """Remove what stood for these bytes until a manifest listed them. The caller holds the root's lock."""
    for one in held:
        if place.layout is Layout.HUB:
            place.tree.unlink(f"{PUBLISHED}/{os.path.basename(one.at)}")
        elif one.root is place.tree and one.at.startswith(f"{STAGING}/"):
            place.tree.unlink(one.at)
    if place.layout is not Layout.HUB:
        place.tree.remove_hollow(STAGING)


def bring_home(
    place: CacheRoot,
    planned: PlannedFile,
    held: LocalBlob,
    stopped: Callable[[], bool],
    on_wait: OnWait = lambda _lock: None,
) -> LocalBlob:
    """Put bytes that lie elsewhere on this machine (a mount, a volume) into the hub's blobs, linked where possible.

    Raises:
        Vanished: they are not there any more.
    """
    path = f"blobs/{blob_id(planned.identity, place.layout)}"
    if held.root is place.tree and held.at == path:
        return held
    shared = bytes_of_blob(place, path)
    if shared is not None and shared.root is place.hub_tree and held.is_file(shared.stat):
        return held  # it lies in the store that huggingface_hub shares between repos, and its link is there
    with (
        locked(place.blob_lock(os.path.basename(path)), stopped, on_wait),
        disk_errors(f"cannot write below {place.root}"),
    ):
        temporary = f"{partials.FOLDER}/{os.path.basename(path)}.{token()}"
        is_users = held.root not in (place.tree, place.hub_tree) and not held.ours
        stat = place_file(held, place.tree, temporary, stopped, link=not is_users)
        _mark(place, path, stat.st_mtime_ns)
        there = place.tree.lstat(path)
        if there is not None and (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino):
            place.tree.unlink(temporary)  # rename(2) of two links to one file does nothing
        else:
            _put(place, temporary, path)
        return held_file(place.tree, path, stat, held.xxh3, held.digest)


def staged(place: CacheRoot, name: str) -> list[str]:
    """Return the whole files of this blob id that no path shows (flat layouts)."""
    folder = _staging(name)
    return [
        f"{folder}/{one}"
        for one in place.tree.names(folder)
        if one.startswith(f"{name}.") and STAGED.fullmatch(one) and not place.tree.is_folder(f"{folder}/{one}")
    ]


def read_staged(path: str) -> tuple[str, str, str]:
    """Return (blob id, xxh3, digest) of a staged file, by its name.

    >>> read_staged("x/0123456789abcdef0123456789abcdef01234567.00112233445566778899aabbccddeeff.git-sha1-abcd")[2]
    'git-sha1:abcd'
    """
    name, xxh3, digest = os.path.basename(path).split(".", 2)
    return name, xxh3, ":".join(digest.rsplit("-", 1)) if digest != "unverified" else ""


def _staging(name: str) -> str:
    """Return the folder of this blob id: its lookup must not take longer the more files wait beside it."""
    return f"{STAGING}/{name[:2]}"


def retire(place: CacheRoot, record: FileRecord) -> None:
    """Take a file of a flat layout out of sight, its bytes kept, so that undoing an edit fetches nothing."""
    keep(place, record)
    target = _blob_path(place, record.identity, record.xxh3, record.digest)
    if place.tree.lstat(target) is None:  # the disk has no hard links
        place.tree.rename(record.path, target)
    place.tree.unlink(record.path)


def keep(place: CacheRoot, record: FileRecord) -> None:
    """Keep the bytes of a file of a flat layout that is about to be replaced; where the disk has no hard links, not."""
    with contextlib.suppress(OSError):
        place.tree.link(place.tree, record.path, _blob_path(place, record.identity, record.xxh3, record.digest))


def is_as_recorded(place: CacheRoot, record: FileRecord) -> bool:
    """Whether the file that shows `record` has the stat that it was recorded with."""
    found = bytes_of(place, record.path)
    if found is None or found.stat.st_size != record.size:
        return False
    return same_mtime(found.stat.st_mtime_ns, record.mtime_ns)


def as_text(digest: Digest | None, encoding: str = "") -> str:
    """Return `algorithm:hex`, `algorithm-composite:hex` for one over parts, `algorithm-gzip:hex` for one of bytes that
    are shown decoded, "" for none.
    """
    if digest is None:
        return ""
    of = "-composite" if digest.parts else f"-{encoding}" if encoding else ""
    return f"{digest.algorithm}{of}:{digest.value}"


def as_digest(text: str) -> Digest | None:
    """Return the digest that `as_text` wrote; None for "" and for one that the visible bytes alone do not have."""
    algorithm, _, value = text.partition(":")
    return Digest(algorithm, value) if value and not algorithm.endswith(("-composite", "-gzip")) else None


def _blob_path(place: CacheRoot, identity: str, xxh3: str, digest: str) -> str:
    name = blob_id(identity, place.layout)
    if place.layout is Layout.HUB:
        return f"blobs/{name}"
    return f"{_staging(name)}/{name}.{xxh3}.{digest.replace(':', '-', 1) if digest else 'unverified'}"
