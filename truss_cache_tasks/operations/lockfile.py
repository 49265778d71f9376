"""Use and make what the lock file says of an entry.

A run gets its listing from it, and refuses other bytes. `cache-lock` makes it from a manifest, or from what the store
lists now; only the files of a `file://` folder are read, to hash them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from truss_cache_tasks.errors import CacheTaskError, LockMismatch, NotFound, NothingSelected
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import UNPINNED, UNVERSIONED, FilePin, Listing, Pins, RemoteFile
from truss_cache_tasks.model.lockfile import OURS, Locked, LockedEntry, LockedFile, remote_file
from truss_cache_tasks.model.plan import Plan, content_id
from truss_cache_tasks.model.records import LOCK_NAME, FileRecord, Manifest, digest_text
from truss_cache_tasks.model.request import Request, SourceRef
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.operations.source import open_source, plan_listing
from truss_cache_tasks.sources.base import Source
from truss_cache_tasks.store.blob import LocalBlob

# For a run


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
    details = _in_detail(source, [here[file.path] for file in moved if file.path in here])
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


# For `cache-lock`


@dataclass(frozen=True, kw_only=True, slots=True)
class Moves:
    """What has changed in a store since an entry was locked.

    Attributes:
        before, after: the locked commit, and the one that the revision stands for now; "" for other stores.
        changed, new, gone: paths, sorted.
        size: bytes of the files that a machine with the locked ones would have to fetch.
    """

    before: str = ""
    after: str = ""
    changed: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    size: int = 0

    def __bool__(self) -> bool:
        return self.before != self.after or bool(self.changed or self.new or self.gone)


def find_moves(locked: Locked, commit: str, now: LockedEntry) -> Moves:
    """Compare what is locked with what `resolve` found now. The same bytes under another version have not changed."""
    before, after = ({file.path: file for file in files} for files in (locked.files, now.files))
    changed = [path for path, file in after.items() if path in before and not _is_same(before[path], file)]
    had = {(file.size, file.digest) for file in locked.files if file.digest}
    new = [path for path in after if path not in before]
    coming = {(after[path].size, after[path].digest or path) for path in (*changed, *new)} - had
    return Moves(
        before=locked.commit,
        after=commit,
        changed=tuple(sorted(changed)),
        new=tuple(sorted(new)),
        gone=tuple(sorted(path for path in before if path not in after)),
        size=sum(size for size, _ in coming),
    )


def _is_same(before: LockedFile, after: LockedFile) -> bool:
    id_of_after = ContentId(f"@{after.version}")
    ours = after.digest.removeprefix(f"{OURS}:") if after.digest.startswith(OURS) else ""
    return before.size == after.size and before.is_met_by(digest=after.digest, xxh3=ours, content_id=id_of_after)


def ask_moves(context: EntryContext, run: RunContext, locked: Locked, *, commit: str = "") -> tuple[Moves, str]:
    """Ask the store what has changed since the entry was locked; return that, and the commit of now.

    Args:
        locked: of the entry, and complete.
        commit: of now, where another entry with this source and revision asked for it.

    Raises:
        CacheTaskError: as a run of the entry would.
    """
    commit, now = resolve(context, run, commit=commit, known=locked)
    return find_moves(locked, commit, now), commit


def resolve(
    context: EntryContext, run: RunContext, *, commit: str = "", known: Locked | None = None
) -> tuple[str, LockedEntry]:
    """Ask the store what the entry's request stands for now; return the commit ("" for other stores) and the files.

    Args:
        commit: of the Hub, where it is fixed already.
        known: what is locked: a file of an equal version, whose digest the listing does not tell, keeps its line and is
            not looked at again.

    Raises:
        CacheTaskError: as a run of the entry would.
    """
    request = context.entry.request
    source = open_source(context, run)
    listing = source.listing(Pins(revision=commit))
    plan = plan_listing(context, run, listing, of_lock=False)
    old = {(file.path, file.size, file.version): file for file in known.files if file.version} if known else {}
    kept = {
        file.path: line
        for file in (p.file for p in plan.files)
        if file.digest is None and (line := old.get((file.path, file.size, file.version)))
    }
    details = _in_detail(source, [planned.file for planned in plan.files if planned.file.path not in kept])
    lines = [kept.get(p.file.path) or _line(details[p.file.path], request) for p in plan.files]
    for line in lines:
        if not line.digest and not line.version:
            raise CacheTaskError(
                f"{request.source}: {line.path}: the server names neither a version nor a digest, expected one of them",
                hint="Fetch it, and then make the lock again: it takes the digest of what was fetched.",
            )
    return listing.revision, _entry(request, lines, single=listing.single)


def from_manifest(context: EntryContext, manifest: Manifest) -> tuple[str, LockedEntry] | None:
    """Return what `resolve` would, from the manifest of a fresh entry; None where that does not tell all of it.

    It tells no version ids of S3, and of the stores of other packages no versions.
    """
    store = context.entry.request.source.store
    if store.is_bucket and store.scheme != "gs":
        return None
    return manifest.revision, _entry_of_manifest(context.entry.request, manifest)


def as_locked(context: EntryContext, manifest: Manifest) -> Locked:
    """Return what the manifest of an entry tells, as if it were locked: for `ask_moves`."""
    entry = _entry_of_manifest(context.entry.request, manifest)
    return Locked(commit=manifest.revision, single=entry.single, files=entry.files, is_complete=True)


def _entry_of_manifest(request: Request, manifest: Manifest) -> LockedEntry:
    ref = request.source
    begin = f"{SourceRef(ref.scheme, ref.root)}/"
    keys = [record.origin.removeprefix(begin) for record in manifest.files]
    single = keys == [ref.prefix]
    folder = f"{ref.prefix}/" if ref.prefix else ""
    lines = []
    for key, record in zip(keys, manifest.files, strict=True):
        path = record.path.rpartition("/")[2] if single else key.removeprefix(folder)
        lines.append(_line_of_record(path, record, request))
    return _entry(request, lines, single=single)


def _entry(request: Request, lines: Iterable[LockedFile], *, single: bool) -> LockedEntry:
    files = tuple(sorted(lines, key=lambda file: file.path))
    is_single = single and not request.source.store.is_local
    return LockedEntry(source=str(request.source), revision=request.revision, single=is_single, files=files)


def _line(file: RemoteFile, request: Request) -> LockedFile:
    return LockedFile(
        path=file.path,
        size=file.size,
        digest=digest_text(file.digest, file.encoding),
        version="" if request.source.store.is_local or file.is_unversioned else file.version,
        version_id=file.version_id,
        encoding=file.encoding,
    )


def _line_of_record(path: str, record: FileRecord, request: Request) -> LockedFile:
    store = request.source.store
    if store.is_local:
        return LockedFile(path=path, size=record.size, digest=f"{OURS}:{record.xxh3}")
    if store.is_hub:
        return LockedFile(path=path, size=record.size, digest=record.digest, version=record.digest.partition(":")[2])
    _, _, version = record.content_id.removesuffix(" decoded").partition(f"{record.origin}@")
    if version.startswith(UNVERSIONED):
        version = ""
    if record.stored_size is not None:
        return LockedFile(path=path, size=record.stored_size, digest=record.digest, version=version, encoding="gzip")
    digest = record.digest or f"{OURS}:{record.xxh3}"
    return LockedFile(path=path, size=record.size, digest=digest, version=version)


def _in_detail(source: Source, files: Sequence[RemoteFile]) -> dict[str, RemoteFile]:
    """Return the files by path, each with its digest, which only a look at the file gives at some stores."""
    found = {file.path: file for file in files}
    asked = [file for file in files if file.digest is None and not file.is_unversioned]
    pins = tuple(FilePin(file.key, file.version) for file in asked)
    if pins:
        found |= {file.path: file for file in source.listing(Pins(files=pins, in_detail=True)).files}
    return found
