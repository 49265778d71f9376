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
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from truss_cache_tasks import transfer
from truss_cache_tasks.errors import (
    CacheTaskError,
    DiskError,
    IntegrityError,
    NotFound,
    PermanentError,
    SourceChanged,
    Stopped,
)
from truss_cache_tasks.events import Committed, Failed, How, Moved, Planned, Relisting, Started
from truss_cache_tasks.model.keys import ContentId, request_key
from truss_cache_tasks.model.listing import Listing, Pins
from truss_cache_tasks.model.plan import Plan, PlannedFile, make_plan
from truss_cache_tasks.model.records import Manifest, Pin
from truss_cache_tasks.model.status import Need, Status
from truss_cache_tasks.operations.context import EntryContext, read_status
from truss_cache_tasks.operations.download import ATTEMPTS, BlobFetcher, keeps_changing, reserved_space
from truss_cache_tasks.operations.forecast import replay
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.operations.source import open_source, plan_listing
from truss_cache_tasks.store import claims, disk, history
from truss_cache_tasks.store.blob import LocalBlob, Vanished
from truss_cache_tasks.store.clean import forget_empty_note, remove_empty_folders
from truss_cache_tasks.store.commit import Claimant, PinMoved, claim_if_whole, commit
from truss_cache_tasks.store.conflicts import Conflicts, find_conflicts
from truss_cache_tasks.store.known_roots import forget_empty_roots, remember_roots
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.local_blobs import find_local_blobs
from truss_cache_tasks.store.locks import locked
from truss_cache_tasks.store.manifest import last_commit
from truss_cache_tasks.store.root_state import NestedStates, RootState, locked_states, read_states
from truss_cache_tasks.store.space import can_share_bytes
from truss_cache_tasks.store.visible_paths import check_paths, refuse_case_clashes

if TYPE_CHECKING:
    from truss_cache_tasks.model.lockfile import Locked


@dataclass
class Outcome:
    """What a run did to one entry: its manifest now, and how many files and bytes were fetched."""

    manifest: Manifest
    files: int = 0
    size: int = 0
    how: How = "fetched"


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
        _opened_roots(context, run),
        _wait_for_other_process(context, context.root, run),
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


@contextlib.contextmanager
def _opened_roots(context: EntryContext, run: RunContext) -> Iterator[None]:
    """Make the folders of the entry's root, and keep its roots open for the block.

    If the block fails, remove the folders that stayed empty.
    """
    if not disk.is_writable(context.root.records):
        raise DiskError(
            f"the cache folder {context.root.path} is not writable",
            hint="Make it writable, or choose another: HF_HOME, TRUSS_MODEL_CACHE_DIR, TRUSS_MOUNT_ROOT.",
        )
    with contextlib.ExitStack() as opened:
        for root in context.roots:
            opened.enter_context(root.tree.kept_open())
        context.root.layout.make_folders()
        try:
            yield
        except CacheTaskError:
            with contextlib.suppress(OSError, DiskError, Stopped):  # the error of the block counts
                for root in context.roots:
                    remove_empty_folders(root)
                forget_empty_roots(context.settings, context.project, cancel=run.cancel, on_wait=run.waits_for_root)
            raise


@contextlib.contextmanager
def _wait_for_other_process(context: EntryContext, root: CacheRoot, run: RunContext) -> Iterator[None]:
    """Wait for another process that fetches this entry, and hold the entry's lock in `root` for the block.

    If the block fails, and nothing is left of what the note of its fetch lists, remove the note.
    """
    key = request_key(context.request_in(root))
    with (
        locked(root.entry_lock(key), run.cancel, run.waits_for_entry) as held,
        run.record.holding(root, held),
    ):
        try:
            yield
        except CacheTaskError:
            with contextlib.suppress(OSError, DiskError):  # the error of the block counts
                forget_empty_note(root, key, (context.project.id, context.claim_in(root)))
            raise


def _claim(context: EntryContext, run: RunContext) -> Status:
    """Claim an entry that is whole, if it still is under the root's lock: another project may clean it before that."""
    _remember_roots(context, run)
    _warn_of_other_claims(context, context.root, run)
    claimant = _claimant(context, context.root, run, resolved=False)
    reread = partial(read_status, context)
    return claim_if_whole(context.root, claimant, reread, cancel=run.cancel, on_wait=run.waits_for_root)


def _repair(context: EntryContext, run: RunContext, status: Status) -> Manifest | None:
    """Repair visible files and records from bytes on this disk, without a request; None if bytes are missing."""
    if (found := find_repair(context, run, status)) is None:
        return None
    plan, blobs = found
    root = context.root
    _remember_roots(context, run)
    # the lock moves a pin back; without one, a pin that moved meanwhile means that the source is to be listed
    pinned = RootState(root).pin_of(context.entry.request) if context.locked is not None else None
    with (
        contextlib.suppress(PinMoved, Vanished),  # then the source is listed, at the new pin
        reserved_space(context, run, root, plan.files, blobs),
    ):
        manifest = _commit(context, root, run, plan, blobs, pinned=pinned, resolved=False)
        _report_moved(context, run, pinned.commit if pinned else "", manifest.revision)
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


def make_online_fetch(context: EntryContext, run: RunContext, status: Status, *, force: bool) -> OnlineFetch:
    """Return the online fetch of a stale or forced entry. It has sent no request. Raises PermanentError if offline."""
    if context.locked is None or not context.locked.is_complete or status.verdict.unproven:
        _refuse_if_offline(context, status)
    unproven = status.verdict.unproven
    fetcher = BlobFetcher(context, open_source(context, run, with_mirrors=not unproven), run)
    return OnlineFetch(fetcher, status, rehash=force or _is_cleaned(context), prove=unproven)


def _remember_roots(context: EntryContext, run: RunContext) -> None:
    """Note the roots of the config outside them, before the first write below one that stays."""
    remember_roots(context.settings, context.project, run.warn, cancel=run.cancel, on_wait=run.waits_for_root)


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


def _refuse_if_offline(context: EntryContext, status: Status) -> None:
    """Raise PermanentError for an entry of the Hub if HF_HUB_OFFLINE is set."""
    if context.settings.offline and context.entry.request.source.store.is_hub:
        raise PermanentError(
            f"HF_HUB_OFFLINE is set, and the entry is stale: {status.verdict}", hint="Unset HF_HUB_OFFLINE."
        )


class OnlineFetch:
    """One online fetch of one entry.

    Attributes:
        status: of the entry, before the fetch.
        rehash: hash every file, also one whose stat is as recorded.
        prove: prove that the credential file gives access to these bytes; a fetched file proves it.
        pins: the pin in each root when the revision was listed, by the root's path.
        resolved: this fetch asked the source what the revision stands for.
        searched: `last_commit` of each root when it was last searched for blobs, by the root's path.
        again: the second fetch, after an object was not there as it was listed or locked.
        moved_from: the commit that a pin had until this fetch moved it; "" if none was moved.
    """

    def __init__(self, fetcher: BlobFetcher, status: Status, *, rehash: bool, prove: bool, again: bool = False) -> None:
        self.context = fetcher.context
        self.source = fetcher.source
        self.run = fetcher.run
        self.status = status
        self.rehash = rehash
        self.prove = prove
        self.fetcher = fetcher
        self.pins: dict[Path, Pin | None] = {}
        self.resolved = False
        self.searched: dict[Path, int] = {}
        self.again = again
        self.moved_from = ""

    def retry_if_pin_moved(self, *, resolve: bool) -> Outcome:
        """List and fetch; if another run moves the pin meanwhile, do it again at the new commit.

        Args:
            resolve: ask what the revision stands for, unless this very run did already. A commit of the lock counts
                before all others.
        """
        moved_to = ""
        while True:
            try:
                return self._fetch_listed(self.list_source(resolve=resolve, commit=moved_to))
            except PinMoved as exc:
                moved_to = exc.commit

    def list_source(self, *, resolve: bool, commit: str = "") -> Listing:
        """Return the listing to fetch: at the pinned commit, or that of the lock file.

        Args:
            resolve: as in `retry_if_pin_moved`.
            commit: that of the Hub, where it is known already.
        """
        context, locked = self.context, self.context.locked
        self.pins = {root.path: RootState(root).pin_of(context.entry.request) for root in context.roots}
        pins = [pin for pin in self.pins.values() if pin and (not resolve or pin.run == self.run.id)]
        pinned = commit or (pins[0].commit if pins else "")
        self.resolved = not pinned and locked is None
        return self.source.listing(Pins(revision=pinned)) if locked is None else self._list_locked(locked)

    def _list_locked(self, locked: Locked) -> Listing:
        from truss_cache_tasks.operations.lockfile import list_locked  # not needed without a lock file

        return list_locked(self.source, self.context, locked, again=self.again)

    def _fetch_listed(self, listing: Listing) -> Outcome:
        """Plan, refuse what cannot be shown, and fetch the files; into the hub cache first, if `_fills_hub_first`."""
        root = self.context.root
        plan, conflicts, blobs = self.plan(listing)
        self.run.report(_planned(plan, blobs))
        _remember_roots(self.context, self.run)
        hub_root = self.context.hub_root
        if hub_root is not None and self._fills_hub_first(hub_root, listing):
            self._check_paths(root, plan, blobs)
            with self.fetcher.room_for(root, plan.files, blobs):  # before the first byte comes into the hub cache
                pass
            self._fetch_into_hub(hub_root, listing)
            blobs = self._find_blobs(plan)
        manifest = self._retry_if_blobs_vanished(root, plan, blobs, conflicts)
        _report_moved(self.context, self.run, self.moved_from, manifest.revision)
        return Outcome(manifest, self.fetcher.files, self.fetcher.size)

    def plan(self, listing: Listing) -> tuple[Plan, Conflicts, dict[ContentId, LocalBlob]]:
        """Return the plan, the files of other entries at its paths, and what is on this machine. Writes nothing.

        Raises:
            CacheTaskError: the plan cannot be shown, or may not be fetched.
        """
        root, locked = self.context.root, self.context.locked
        plan = plan_listing(self.context, self.run, listing, of_lock=locked is not None and locked.is_complete)
        refuse_case_clashes(root, plan)
        conflicts = find_conflicts(root, plan, self.context.other_entries(root))
        blobs = self._find_blobs(plan)
        if any(planned.content_id not in blobs for planned in plan.files):
            _refuse_if_offline(self.context, self.status)
        return plan, conflicts, blobs

    def may_fill_hub_first(self, hub_root: CacheRoot, listing: Listing) -> bool:
        """Whether the hub cache gets the files first if it can share bytes, which only a try tells. Writes nothing."""
        pin = self.pins[hub_root.path]
        agreed = pin is None or self.resolved or self.context.locked is not None or pin.commit == listing.revision
        one_disk = disk.device_of(hub_root.path) == disk.device_of(self.context.root.path)
        return agreed and one_disk and disk.is_writable(hub_root.path)

    def _fills_hub_first(self, hub_root: CacheRoot, listing: Listing) -> bool:
        """Whether the hub cache gets the files first: if it can share bytes, is writable, and its pin agrees."""
        if not self.may_fill_hub_first(hub_root, listing):
            return False
        if can_share_bytes(hub_root.tree, self.context.root.tree):
            return True
        remove_empty_folders(hub_root)
        return False

    def _fetch_into_hub(self, hub_root: CacheRoot, listing: Listing) -> None:
        plan = make_plan(self.context.request_in(hub_root), listing)
        conflicts = find_conflicts(hub_root, plan, self.context.other_entries(hub_root))
        hub_root.layout.make_folders()
        with _wait_for_other_process(self.context, hub_root, self.run):
            self._retry_if_blobs_vanished(hub_root, plan, self._find_blobs(plan), conflicts)

    def _retry_if_blobs_vanished(
        self, root: CacheRoot, plan: Plan, blobs: dict[ContentId, LocalBlob], conflicts: Conflicts
    ) -> Manifest:
        """Look at the paths, fetch what is missing, and commit; do it again if a blob vanished meanwhile.

        Args:
            blobs: what is on this disk already, by content id.
        """
        for _ in range(ATTEMPTS):
            self._check_paths(root, plan, blobs)
            try:
                self.fetcher.prepare_fetch(root, plan.files, blobs)
                with reserved_space(self.context, self.run, root, plan.files, blobs) as demand:
                    self._fetch_missing(root, conflicts.undecided, blobs, demand.elsewhere)
                    conflicts.resolve(blobs)
                    self._fetch_missing(root, plan.files, blobs, demand.elsewhere)
                    self._prove_access(plan)
                    if self.context.locked is not None:
                        self._refuse_other_bytes(plan, blobs)
                    pinned, resolved = self.pins[root.path], self.resolved
                    manifest = _commit(self.context, root, self.run, plan, blobs, pinned=pinned, resolved=resolved)
                    if pinned is not None and pinned.commit != plan.revision:
                        self.moved_from = pinned.commit
                    return manifest
            except Vanished:
                self.rehash = True
                blobs = self._find_blobs(plan)
        raise keeps_changing(root)

    def _fetch_missing(
        self,
        root: CacheRoot,
        files: Sequence[PlannedFile],
        blobs: dict[ContentId, LocalBlob],
        elsewhere: Mapping[str, Collection[str]],
    ) -> None:
        since_ns = self.searched[root.path]
        self.fetcher.fetch_missing(root, files, blobs, elsewhere=elsewhere, since_ns=since_ns, rehash=self.rehash)

    def _refuse_other_bytes(self, plan: Plan, blobs: Mapping[ContentId, LocalBlob]) -> None:
        from truss_cache_tasks.operations.lockfile import refuse_other_bytes  # not needed without a lock file

        refuse_other_bytes(self.context, plan, blobs)

    def _find_blobs(self, plan: Plan) -> dict[ContentId, LocalBlob]:
        run = self.run
        self.searched = {root.path: last_commit(root.tree) for root in self.context.roots}  # before the search
        return find_local_blobs(
            self.context.roots, plan.files, rehash=self.rehash, cancel=run.cancel, on_hashing=run.hashes
        )

    def _check_paths(self, root: CacheRoot, plan: Plan, blobs: Mapping[ContentId, LocalBlob]) -> None:
        """Refuse, before a byte is fetched, what `commit` would refuse: foreign files at our paths.

        What is refused is looked at again under the lock: another process may have shown and recorded a file after the
        records were read here.
        """
        paths = {file.path for file in plan.files}
        try:
            self.check_paths(root, plan, blobs, read_states(root, paths))
        except DiskError:
            with locked_states(root, lambda _state: paths, self.run.cancel, self.run.waits_for_root) as states:
                self.check_paths(root, plan, blobs, states)

    def check_paths(
        self, root: CacheRoot, plan: Plan, blobs: Mapping[ContentId, LocalBlob], states: NestedStates
    ) -> None:
        """Refuse foreign files at our paths, by these states of the roots. Writes nothing."""
        owned = states.own_paths()
        leaving = owned - {file.path for file in plan.files}  # the commit hides those that are in the way
        replace, cancel = self.context.settings.replace, self.run.cancel
        check_paths(root, plan, blobs, owned, leaving=leaving, replace=replace, cancel=cancel)

    def _prove_access(self, plan: Plan) -> None:
        """Request the first byte of a file, if access must be proved and no file was fetched."""
        if not self.prove or self.fetcher.files:
            return
        file = min((planned.file for planned in plan.files), key=lambda file: (file.size == 0, file.size))
        locate, network = partial(self.source.locate, file), self.context.settings.network
        transfer.probe(file, locate, self.source.explain, reporter=self.run.reporter, network=network)
        self.prove = False


def _commit(
    context: EntryContext,
    root: CacheRoot,
    run: RunContext,
    plan: Plan,
    blobs: Mapping[ContentId, LocalBlob],
    *,
    pinned: Pin | None,
    resolved: bool,
) -> Manifest:
    """Put the blobs where paths of `root` can show them, and commit. Raises Vanished and PinMoved."""
    _warn_of_other_claims(context, root, run)
    adopted = {planned.content_id: blobs[planned.content_id] for planned in plan.files}
    for planned in plan.files:
        on_wait = run.waits_for_file(root, planned, request_key(plan.request))
        blob = root.layout.adopt_blob(planned, adopted[planned.content_id], run.cancel, on_wait)
        adopted[planned.content_id] = blob
    claimant = _claimant(context, root, run, resolved=resolved)
    return commit(root, plan, adopted, claimant, pinned=pinned, cancel=run.cancel, on_wait=run.waits_for_root)


def _warn_of_other_claims(context: EntryContext, root: CacheRoot, run: RunContext) -> None:
    """Warn of claims under this project's id that another host or config made: this run may take them over."""
    others = claims.claims_of_others(claims.read_claims(root, context.project.id), context.project)
    if not others:
        return
    name, other = min(others.items(), key=lambda item: (item[0] != context.claim_in(root), item[0]))
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    run.warn(
        f"{root.path}: found the claim {name!r}{more} of {other.config} on {other.host!r} under this project's id "
        f"{context.project.id}, expected none but of {context.project.config} on {context.project.host!r}: set another "
        "TRUSS_CACHE_PROJECT for each project, or the same one for both if they are one"
    )


def _claimant(context: EntryContext, root: CacheRoot, run: RunContext, *, resolved: bool) -> Claimant:
    return Claimant(
        project=context.project,
        claim=context.claim_in(root),
        entry=context.name,
        fingerprint=context.fingerprint,
        run=run.id,
        resolved=resolved,
        replace=context.settings.replace,
    )


def _is_cleaned(context: EntryContext) -> bool:
    """Whether this entry was cleaned after its last commit: then all its files are hashed again."""
    found = [claims.claims_of(root, context.project).entries for root in context.roots]
    return any(claim.cleaned for entries in found for name, claim in entries.items() if name in context.claims)


def _report_moved(context: EntryContext, run: RunContext, before: str, after: str) -> None:
    """Report that the pin of the entry's revision was moved by its run, if it was."""
    if before and before != after:
        run.report(Moved(revision=context.entry.request.revision, before=before, after=after))


def started(status: Status, context: EntryContext, *, force: bool) -> Started:
    """Return the event with which work on an entry begins."""
    if force:
        return Started(reasons=(), lists=False, forced=True)
    is_known = context.locked is not None and context.locked.is_complete
    lists = status.verdict.need is Need.FETCH and not is_known
    return Started(reasons=status.verdict.reasons, lists=lists, forced=False)


def _planned(plan: Plan, blobs: Mapping[ContentId, LocalBlob]) -> Planned:
    missing = {file.content_id: file.file.size for file in plan.files if file.content_id not in blobs}
    return Planned(
        files=len(plan.files),
        size=sum(file.file.size for file in plan.files),
        missing_files=len(missing),
        missing_size=sum(missing.values()),
    )


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
