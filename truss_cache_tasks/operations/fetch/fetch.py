"""Fetch one entry: the order of the steps of a run, and which of them are done again when other processes interfere.

1. Read the status, without a lock. Fresh: done.
2. Wait for another process that fetches this entry; read the status again under the entry's lock.
3. Claim an entry that is whole, or repair it from bytes that are on this disk. Neither sends a request.
4. List the source at the pinned revision, and plan. Repeat this if another run moves the pin meanwhile.
5. Find what is on this disk; look at all paths; fetch what is missing; commit. Repeat this if blobs vanish meanwhile.
   An entry with plain files of a Hub repo does this for the hub cache first; its files become hard links of the blobs.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from truss_cache_tasks.errors import (
    CacheTaskError,
    DiskError,
    IntegrityError,
    NotFound,
    SourceChanged,
    Stopped,
)
from truss_cache_tasks.events import Committed, Failed, Relisting, Started
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.plan import Plan
from truss_cache_tasks.model.records import Manifest
from truss_cache_tasks.model.status import Need, Status
from truss_cache_tasks.operations.context import EntryContext, read_status
from truss_cache_tasks.operations.fetch.download import reserved_space
from truss_cache_tasks.operations.forecast import replay
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.store.blobs.local_blobs import find_local_blobs
from truss_cache_tasks.store.entries.commit import PinMoved, claim_if_whole
from truss_cache_tasks.store.files import disk
from truss_cache_tasks.store.files.locks import locked
from truss_cache_tasks.store.layouts.blob import LocalBlob, Vanished
from truss_cache_tasks.store.records import history
from truss_cache_tasks.store.records.root_state import RootState
from truss_cache_tasks.store.removal.clean import remove_empty_folders

if TYPE_CHECKING:
    pass
from truss_cache_tasks.operations.fetch.entry_commit import (
    claimant_of,
    commit_entry,
    report_moved,
    warn_of_other_claims,
)
from truss_cache_tasks.operations.fetch.entry_roots import opened_roots, remember_roots_of, wait_for_other_process
from truss_cache_tasks.operations.fetch.online_fetch import OnlineFetch, Outcome, make_online_fetch


def fetch(context: EntryContext, run: RunContext, *, force: bool = False) -> Outcome:
    """Make the entry fresh: do the least that its status asks for, or with `force` re-hash and resolve everything.

    Raises:
        CacheTaskError: with one cause and one hint. Files that were good before are still in place.
    """
    run = run.for_entry(context.name)
    status = read_status(context)
    run.report(started(status, context, force=force))
    try:
        if not force and status.fresh_manifest is not None:
            outcome = Outcome(status.fresh_manifest, how="fresh")  # without a lock: the disk may be read-only
        else:
            outcome = _fetch_stale(context, run, force=force)
    except BaseException as error:
        if run.record.brought_bytes:
            _append_to_history(context, run, error)
        if isinstance(error, CacheTaskError):
            run.report(Failed(error=error))
        raise
    committed = _committed(context, outcome)
    if outcome.how != "fresh":
        _append_to_history(context, run, committed, outcome.manifest)
    run.report(committed)
    return outcome


def _append_to_history(
    context: EntryContext, run: RunContext, end: Committed | BaseException, manifest: Manifest | None = None
) -> None:
    """Append what the run did to the history of its roots. That it cannot be written is a warning.

    A run that is stopped waits for no lock: while another process holds that of a root, its line there is left out.
    """
    did = end.how if isinstance(end, Committed) else "failed"
    source = history.shortened(str(context.entry.request.source))
    line = {**history.new_line(run.id, context.project.id, did), "entry": history.shortened(context.name)}
    line |= {"source": source, "revision": manifest.revision, "snapshot": manifest.snapshot} if manifest else {}
    line |= run.record.as_line(end)
    for root in run.record.roots:
        try:
            with disk.disk_errors(f"cannot look at {root.path}"):
                if history.has_records(root):  # else a lock would make our folder again
                    with locked(root.lock("root"), run.cancel, run.waits_for_root):
                        history.append_line(root, line)
                    if not history.has_records(root):  # a clean came first
                        remove_empty_folders(root)
        except Stopped:
            continue
        except DiskError as error:
            run.warn(f"the history lacks this run: {error}")


def _fetch_stale(context: EntryContext, run: RunContext, *, force: bool) -> Outcome:
    with (
        disk.disk_errors(f"cannot use the cache {context.root.path}"),
        disk.import_errors(),
        opened_roots(context, run),
        wait_for_other_process(context, context.root, run),
    ):
        status = read_status(context)  # again: another process may have fetched or cleaned it
        if not force and status.verdict.need is Need.CLAIM:
            status = _claim(context, run)
            if status.manifest is not None and status.verdict.need <= Need.CLAIM:
                return Outcome(status.manifest, how="claimed")
        if not force and status.fresh_manifest is not None:
            return Outcome(status.fresh_manifest, how="fresh")
        if not force and status.verdict.need is Need.REPAIR and (manifest := _repair(context, run, status)):
            return Outcome(manifest, how="repaired")
        return _fetch_online(context, run, status, force=force)


def _claim(context: EntryContext, run: RunContext) -> Status:
    """Claim an entry that is whole, if it still is under the root's lock: another project may clean it before that."""
    remember_roots_of(context, run)
    warn_of_other_claims(context, context.root, run)
    claimant = claimant_of(context, context.root, run, resolved=False)
    reread = partial(read_status, context)
    return claim_if_whole(context.root, claimant, reread, cancel=run.cancel, on_wait=run.waits_for_root)


def _repair(context: EntryContext, run: RunContext, status: Status) -> Manifest | None:
    """Repair visible files and records from bytes on this disk, without a request; None if bytes are missing."""
    if (found := find_repair(context, run, status)) is None:
        return None
    plan, blobs = found
    root = context.root
    remember_roots_of(context, run)
    # the lock moves a pin back; without one, a pin that moved meanwhile means that the source is to be listed
    pinned = RootState(root).pin_of(context.entry.request) if context.locked is not None else None
    with (
        contextlib.suppress(PinMoved, Vanished),  # then the source is listed, at the new pin
        reserved_space(context, run, root, plan.files, blobs),
    ):
        manifest = commit_entry(context, root, run, plan, blobs, pinned=pinned, resolved=False)
        report_moved(context, run, pinned.commit if pinned else "", manifest.revision)
        return manifest
    return None


def find_repair(
    context: EntryContext, run: RunContext, status: Status
) -> tuple[Plan, dict[ContentId, LocalBlob]] | None:
    """Return the plan of the manifest, and a blob of each of its files; None if the source has to be read."""
    assert status.manifest is not None
    root, plan = context.root, replay(context.entry.request, status.manifest)
    if context.is_replaced(plan, status.manifest, context.other_entries(root)):
        return None
    blobs = find_local_blobs(context.roots, plan.files, rehash=False, cancel=run.cancel, on_hashing=run.hashes)
    if any(planned.content_id not in blobs for planned in plan.files):
        return None
    return plan, blobs


def _fetch_online(context: EntryContext, run: RunContext, status: Status, *, force: bool) -> Outcome:
    """Fetch from the source; list it once more if an object was replaced after it was listed."""
    online = make_online_fetch(context, run, status, force=force)
    fetcher = online.fetcher  # one for both attempts: it counts all files
    try:
        return online.retry_if_pin_moved(resolve=force)
    except (SourceChanged, NotFound, IntegrityError) as exc:
        if context.locked is None and not isinstance(exc, SourceChanged):
            raise
        run.report(Relisting(cause=str(exc)))
        again = OnlineFetch(fetcher, status, rehash=False, prove=status.verdict.unproven, again=True)
        return again.retry_if_pin_moved(resolve=force)


def started(status: Status, context: EntryContext, *, force: bool) -> Started:
    """Return the event with which work on an entry begins."""
    if force:
        return Started(reasons=(), lists=False, forced=True)
    is_known = context.locked is not None and context.locked.is_complete
    lists = status.verdict.need is Need.FETCH and not is_known
    return Started(reasons=status.verdict.reasons, lists=lists, forced=False)


def _committed(context: EntryContext, outcome: Outcome) -> Committed:
    manifest = outcome.manifest
    return Committed(
        how=outcome.how,
        files=len(manifest.files),
        size=manifest.size,
        unverified=sum(not file.digest for file in manifest.files),
        fetched_files=outcome.files,
        fetched_size=outcome.size,
        path=str(context.root.path / manifest.folder),
    )
