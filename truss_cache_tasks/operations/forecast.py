"""Forecast what a run would do to an entry, without reading its store: for `why`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from truss_cache_tasks.errors import CacheTaskError, Collision
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import RemoteFile
from truss_cache_tasks.model.plan import Plan, PlannedFile, make_plan
from truss_cache_tasks.model.records import FileRecord, Manifest, parse_digest
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.model.status import Need, Status
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.store.blobs.local_blobs import find_local_blobs
from truss_cache_tasks.store.entries.conflicts import ShownFiles, find_conflicts
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.manifest import read_manifests


@dataclass(frozen=True)
class Forecast:
    """What a run would do to one entry.

    Attributes:
        reads_store: whether it would have to read the store.
        size: bytes that it would fetch, by the records or the lock file; None where only a listing can tell.
    """

    reads_store: bool
    size: int | None


def forecast(
    context: EntryContext,
    status: Status,
    *,
    hashing: bool,
    cancel: CancelToken,
    shown: ShownFiles | None = None,
) -> Forecast:
    """Return what a run would do. Sends no request and writes nothing.

    Args:
        hashing: re-hash the files that were touched, for an exact answer; without it, the answer for an entry to
            repair is that its run reads the store.
        cancel: ends the hashing early, with Stopped.
        shown: find_shown_files() of this entry's root, where it is known.

    Raises:
        DiskError: the cache cannot be read.
        Stopped: `cancel` was cancelled.
    """
    if status.verdict.need <= Need.CLAIM:
        return Forecast(reads_store=False, size=0)
    if status.manifest is None or status.verdict.need is Need.FETCH:
        return _forecast_locked(context, status, hashing=hashing, cancel=cancel, shown=shown)
    with disk_errors(f"cannot look at {context.root.path}"):
        plan = replay(context.entry.request, status.manifest)
        if _must_list(context, plan, status.manifest, shown):
            return Forecast(reads_store=True, size=None)
        if not hashing and status.verdict.need is Need.REPAIR:
            found = context.root.layout.find_bytes
            present = {record.content_id for record in status.manifest.files if found(record.path)}
            return Forecast(reads_store=True, size=_missing_size(plan, present))
        blobs = find_local_blobs(context.roots, plan.files, rehash=False, cancel=cancel)
        missing = _missing_size(plan, blobs)
        return Forecast(reads_store=status.verdict.need > Need.REPAIR or missing > 0, size=missing)


def _forecast_locked(
    context: EntryContext, status: Status, *, hashing: bool, cancel: CancelToken, shown: ShownFiles | None
) -> Forecast:
    """Return the forecast of an entry whose manifest is of no use: only a lock file may tell what it is to have."""
    request, locked = context.entry.request, context.locked
    if locked is None or not locked.is_complete or request.source.store.is_local:
        return Forecast(reads_store=True, size=None)
    with disk_errors(f"cannot look at {context.root.path}"):
        try:
            plan = make_plan(request, locked.listing(request.source))
            find_conflicts(context.root, plan, context.other_entries(context.root, shown))
        except CacheTaskError:  # the run fails with it
            return Forecast(reads_store=True, size=None)
        if hashing:
            missing = _missing_size(plan, find_local_blobs(context.roots, plan.files, rehash=False, cancel=cancel))
        else:
            missing = _missing_size(plan, _recorded(context.roots))
    asks = not hashing or status.verdict.unproven or not request.source.store.lists_known
    return Forecast(reads_store=asks or missing > 0, size=missing)


def _recorded(roots: Iterable[CacheRoot]) -> set[ContentId]:
    """Return the content ids of the files that are there by a manifest, whatever their mtime."""
    return {
        record.content_id
        for root in roots
        for manifest in read_manifests(root).readable
        for record in manifest.files
        if root.layout.recorded_bytes(record, is_hidden=record.path in manifest.hidden) is not None
    }


def _must_list(context: EntryContext, plan: Plan, manifest: Manifest, shown: ShownFiles | None) -> bool:
    """Return whether another entry shows other files at these paths: only a listing tells which files are newer."""
    others = context.other_entries(context.root, shown)
    try:
        find_conflicts(context.root, plan, others)
    except Collision:  # the run fails with it
        return True
    return context.is_replaced(plan, manifest, others)


def _missing_size(plan: Plan, present: Collection[str]) -> int:
    """Return the bytes of the files whose content id is not `present`, each counted once."""
    return sum({file.content_id: file.file.size for file in plan.files if file.content_id not in present}.values())


def replay(request: Request, manifest: Manifest) -> Plan:
    """Return the plan whose commit wrote this manifest."""
    files = tuple(
        PlannedFile(
            _remote(record),
            record.path,
            record.content_id,
            record.origin,
        )
        for record in manifest.files
    )
    return Plan(request, manifest.revision, files, manifest.folder)


def _remote(record: FileRecord) -> RemoteFile:
    if record.stored_size is None:
        return RemoteFile(record.path, record.size, "", "", parse_digest(record.digest))
    return RemoteFile(record.path, record.stored_size, "", "", encoding="gzip")
