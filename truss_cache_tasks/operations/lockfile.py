"""What the stores have now, as lines of the lock file, and how that differs from what is locked: for `cache-lock`.

Only the files of a `file://` folder are read, to hash them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import UNVERSIONED, Pins, RemoteFile
from truss_cache_tasks.model.lockfile import OURS, Locked, LockedEntry, LockedFile
from truss_cache_tasks.model.records import FileRecord, Manifest, digest_text
from truss_cache_tasks.model.request import Request, SourceRef
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.operations.source import list_in_detail, open_source, plan_listing


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
    details = list_in_detail(source, [planned.file for planned in plan.files if planned.file.path not in kept])
    lines = [kept.get(p.file.path) or _line(details[p.file.path], request) for p in plan.files]
    for line in lines:
        if not line.digest and not line.version:
            raise CacheTaskError(
                f"{request.source}: {line.path}: the server names neither a version nor a digest, expected one of them",
                hint="Fetch it while no lock names it, then make the lock: it takes the digest of what was fetched.",
            )
    return listing.revision, _entry(request, lines, single=listing.single)


def from_manifest(context: EntryContext, manifest: Manifest) -> tuple[str, LockedEntry] | None:
    """Return what `resolve` would, from the manifest of a fresh entry; None where that does not tell all of it.

    It tells no version ids of S3, and of the stores of other packages no versions.
    """
    store = context.entry.request.source.store
    if store.is_bucket and not store.version_is_all:
        return None
    return manifest.revision, _entry_of_manifest(context.entry.request, manifest)


def known_versions(context: EntryContext, manifest: Manifest | None) -> Locked | None:
    """Return the files of a manifest for `known` of `resolve`; None where it does not tell all of their lines."""
    if manifest is None or from_manifest(context, manifest) is None:
        return None
    return as_locked(context, manifest)


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
