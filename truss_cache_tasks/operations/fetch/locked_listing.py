"""The listing that the lock file stands for, and the refusal of other bytes than it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from truss_cache_tasks.errors import LockMismatch, NotFound, NothingSelected
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import UNPINNED, FilePin, Listing, Pins, RemoteFile
from truss_cache_tasks.model.lockfile import OURS, Locked, LockedFile, remote_file
from truss_cache_tasks.model.plan import Plan, content_id
from truss_cache_tasks.model.records import LOCK_NAME, digest_text
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.source import list_in_detail
from truss_cache_tasks.sources.base import Source
from truss_cache_tasks.store.layouts.blob import LocalBlob


def list_locked(source: Source, context: EntryContext, locked: Locked, *, again: bool = False) -> Listing:
    """Return the files that the lock names, and where it does not name all, the others as the store has them now.

    No request is sent where the lock has all, and the store gives files by their version (Hub, GCS, S3).

    Args:
        again: a locked version was not there: find the locked bytes under another version.

    Raises:
        LockMismatch: the store has other bytes, or none, in place of a locked file.
    """
    ref = context.entry.request.source
    if again:
        return _find_again(source, context, locked)
    if locked.is_complete:
        return _held(source.listing(locked.pins(ref)), context, locked)
    listing = source.listing(Pins(revision=locked.commit))
    if not ref.store.lists_known or locked.commit:
        return listing
    known = {file.path: file for file in source.listing(Pins(known=locked.listing(ref))).files}
    return replace(listing, files=tuple(({file.path: file for file in listing.files} | known).values()))


def refuse_other_bytes(context: EntryContext, plan: Plan, blobs: Mapping[ContentId, LocalBlob]) -> None:
    """Raise LockMismatch if a file that is about to be shown has other bytes than the lock names.

    Args:
        blobs: of every file of the plan, by content id.
    """
    if context.locked is None:
        return
    locked = {file.path: file for file in context.locked.files}
    for planned in plan.files:
        file, blob = locked.get(planned.file.path), blobs[planned.content_id]
        if file is None or file.is_met_by(digest=blob.digest, xxh3=blob.xxh3, content_id=planned.content_id):
            continue
        now = f"{OURS}:{blob.xxh3}" if file.digest.startswith(OURS) else blob.digest or planned.file.version
        raise _mismatch(context, file, now)


def _held(listing: Listing, context: EntryContext, locked: Locked) -> Listing:
    """Return the listing with exactly the locked files; raise LockMismatch for what it already shows to be another."""
    here, ref = {file.path: file for file in listing.files}, context.entry.request.source
    for file in locked.files:
        now = here.get(file.path)
        if now is None or now.size != file.size or not _may_be(file, now, ref):
            raise _mismatch(context, file, _described(now))
    return replace(listing, files=tuple(here[file.path] for file in locked.files))


def _may_be(file: LockedFile, now: RemoteFile, ref: SourceRef) -> bool:
    if now.digest is None:
        return bool(file.digest) or not file.version or file.version == now.version
    text = digest_text(now.digest, now.encoding)
    return file.is_met_by(digest=text, xxh3="", content_id=content_id(ref, now))


def _find_again(source: Source, context: EntryContext, locked: Locked) -> Listing:
    """List what is there now, and take the locked bytes where they are, under whichever version."""
    ref = context.entry.request.source
    try:
        listing = source.listing(UNPINNED)
    except NothingSelected:
        listing = Listing("", ())
    if locked.commit:
        return _at_commit(source, listing, context, locked)
    here = {file.path: file for file in listing.files}
    known = {file.path: file for file in source.listing(Pins(known=locked.listing(ref))).files}
    moved = [file for file in locked.files if not _is_as_locked(file, here.get(file.path), ref)]
    details = list_in_detail(source, [here[file.path] for file in moved if file.path in here])
    for file in moved:
        now = details.get(file.path)
        if now is not None and now.size == file.size and _may_be(file, now, ref):
            found = here[file.path]
            known[file.path] = found if now.digest else replace(found, digest=file.store_digest)
        elif now is not None and now.version == file.version:  # the locked version has other bytes than are locked
            raise _mismatch(context, file, _described(now))
        else:
            _refuse_lost(source, file, _described(now), context, locked)
    files = known if locked.is_complete else here | known
    return Listing("", tuple(files.values()), single=locked.single)


def _is_as_locked(file: LockedFile, now: RemoteFile | None, ref: SourceRef) -> bool:
    """Whether a listing shows the locked file; it does not tell whether S3 still has its version id."""
    return now is not None and not file.version_id and now.version == file.version and _may_be(file, now, ref)


def _refuse_lost(source: Source, file: LockedFile, now: str, context: EntryContext, locked: Locked) -> None:
    """Raise LockMismatch if the store does not keep the version of a file that was replaced or deleted."""
    pinned = remote_file(file, context.entry.request.source, locked.single)
    if not file.version:
        raise _mismatch(context, file, now)
    try:
        source.listing(Pins(files=(FilePin(pinned.key, file.version, file.version_id),)))
    except (NotFound, NothingSelected):
        raise _mismatch(context, file, now) from None


def _at_commit(source: Source, now: Listing, context: EntryContext, locked: Locked) -> Listing:
    """Return the locked listing if its commit is still there with these files; else raise LockMismatch."""
    try:
        return _held(source.listing(Pins(revision=locked.commit)), context, locked)
    except NotFound:
        pass
    here = {file.path: file for file in now.files}
    ref = context.entry.request.source
    lost = [file for file in locked.files if file.path not in here or not _may_be(file, here[file.path], ref)]
    at = f"commit {now.revision[:12]}"
    for file in lost[:1]:
        raise _mismatch(context, file, f"{_described(here.get(file.path))} at {at}", locked.commit)
    wanted = f"{locked.commit[:12]} of {LOCK_NAME}"
    raise LockMismatch(f"{ref}: the store has {at} with equal files, expected {wanted}", hint=_hint(context))


def _described(now: RemoteFile | None) -> str:
    if now is None:
        return "no such file"
    text = digest_text(now.digest, now.encoding) or f"version {now.version}"
    return f"{text} ({now.size:,} bytes)"


def _mismatch(context: EntryContext, file: LockedFile, now: str, commit: str = "") -> LockMismatch:
    at = f" at commit {commit[:12]}" if commit else ""
    wanted = f"{file.digest or f'version {file.version}'} ({file.size:,} bytes){at}"
    return LockMismatch(
        f"{context.entry.request.source}: {file.path}: the store has {now}, expected {wanted} of {LOCK_NAME}",
        hint=_hint(context),
    )


def _hint(context: EntryContext) -> str:
    return f"Put the locked bytes back, or take what is there now: truss-cache lock --upgrade {context.name}"
