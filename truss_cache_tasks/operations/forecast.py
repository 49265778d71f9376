"""What a run would do to an entry, told without asking any server: `cache-why`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from truss_cache_tasks.errors import Collision
from truss_cache_tasks.model.listing import RemoteFile
from truss_cache_tasks.model.plan import Plan, PlannedFile
from truss_cache_tasks.model.records import FileRecord, Manifest, parse_digest
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.model.status import Need, Verdict
from truss_cache_tasks.operations.context import EntryContext, current_manifest
from truss_cache_tasks.store.conflicts import ShownFiles, find_conflicts
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.local_blobs import find_local_blobs


@dataclass(frozen=True)
class Forecast:
    """What a run would do to one entry.

    Args:
        asks: whether it would ask a server.
        size: bytes that would come, as far as the records know them; None where only a listing can tell.
    """

    verdict: Verdict
    asks: bool
    size: int | None


def forecast(
    target: EntryContext,
    verdict: Verdict,
    *,
    hashing: bool,
    stopped: Callable[[], bool],
    shown: ShownFiles | None = None,
) -> Forecast:
    """Say what a run would do, asking no network and writing nothing.

    Args:
        hashing: re-hash what was touched, to know for sure; else it counts as something to ask about.
        shown: what the config's entries show around this entry's root, where it is known.
    """
    if verdict.need <= Need.CLAIM:
        return Forecast(verdict, False, 0)
    with disk_errors(f"cannot look at {target.root.path}"):
        return _forecast(target, verdict, hashing=hashing, stopped=stopped, shown=shown)


def _forecast(
    target: EntryContext, verdict: Verdict, *, hashing: bool, stopped: Callable[[], bool], shown: ShownFiles | None
) -> Forecast:
    manifest = current_manifest(target)
    if manifest is None or verdict.need is Need.FETCH:
        return Forecast(verdict, True, None)
    plan = replay(target.entry.request, manifest)
    try:
        others = target.other_entries(target.root, shown)
        find_conflicts(target.root, plan, others)
        overtaken = target.is_replaced(plan, manifest, others)
    except Collision:  # the run says which, and fails
        overtaken = True
    if overtaken:
        return Forecast(verdict, True, None)
    if not hashing and verdict.need is Need.REPAIR:
        present = {record.identity for record in manifest.files if target.root.layout.find_bytes(record.path)}
        missing = sum(planned.file.size for planned in plan.files if planned.identity not in present)
        return Forecast(verdict, True, missing)
    blobs = find_local_blobs(target.roots, plan.files, rehash=False, stopped=stopped)
    missing = sum({f.identity: f.file.size for f in plan.files if f.identity not in blobs}.values())
    return Forecast(verdict, verdict.need > Need.REPAIR or missing > 0, missing)


def replay(request: Request, manifest: Manifest) -> Plan:
    """Return the plan that this manifest carried out."""
    files = tuple(
        PlannedFile(
            _remote(record),
            record.path,
            record.identity,
            record.origin,
        )
        for record in manifest.files
    )
    return Plan(request, manifest.revision, files, manifest.folder)


def _remote(record: FileRecord) -> RemoteFile:
    if record.stored_size is None:
        return RemoteFile(record.path, record.size, "", "", parse_digest(record.digest))
    return RemoteFile(record.path, record.stored_size, "", "", encoding="gzip")
