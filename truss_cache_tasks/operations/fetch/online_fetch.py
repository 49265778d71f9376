"""Fetch one entry from its source: list, plan, download, commit; again when other processes interfere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from truss_cache_tasks import transfer
from truss_cache_tasks.errors import (
    DiskError,
    PermanentError,
)
from truss_cache_tasks.events import How, Planned
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import Listing, Pins
from truss_cache_tasks.model.plan import Plan, PlannedFile, make_plan
from truss_cache_tasks.model.records import Manifest, Pin
from truss_cache_tasks.model.status import Status
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.fetch.download import ATTEMPTS, BlobFetcher, keeps_changing, reserved_space
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.operations.source import open_source, plan_listing
from truss_cache_tasks.store.blobs.local_blobs import find_local_blobs
from truss_cache_tasks.store.blobs.space import can_share_bytes
from truss_cache_tasks.store.entries.commit import PinMoved
from truss_cache_tasks.store.entries.conflicts import Conflicts, find_conflicts
from truss_cache_tasks.store.entries.visible_paths import check_paths, refuse_case_clashes
from truss_cache_tasks.store.files import disk
from truss_cache_tasks.store.files.locks import locked
from truss_cache_tasks.store.files.record_file import last_commit
from truss_cache_tasks.store.layouts.blob import LocalBlob, Vanished
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records import claims
from truss_cache_tasks.store.records.root_state import NestedStates, RootState, locked_states, read_states
from truss_cache_tasks.store.removal.clean import remove_empty_folders

if TYPE_CHECKING:
    from truss_cache_tasks.model.lockfile import Locked
from truss_cache_tasks.operations.fetch.entry_commit import commit_entry, report_moved
from truss_cache_tasks.operations.fetch.entry_roots import remember_roots_of, wait_for_other_process


@dataclass
class Outcome:
    """What a run did to one entry: its manifest now, and how many files and bytes were fetched."""

    manifest: Manifest
    files: int = 0
    size: int = 0
    how: How = "fetched"


def make_online_fetch(context: EntryContext, run: RunContext, status: Status, *, force: bool) -> OnlineFetch:
    """Return the online fetch of a stale or forced entry. It has sent no request. Raises PermanentError if offline."""
    if context.locked is None or not context.locked.is_complete or status.verdict.unproven:
        _refuse_if_offline(context, status)
    unproven = status.verdict.unproven
    fetcher = BlobFetcher(context, open_source(context, run, with_mirrors=not unproven), run)
    return OnlineFetch(fetcher, status, rehash=force or _is_cleaned(context), prove=unproven)


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
        from truss_cache_tasks.operations.fetch.locked_listing import list_locked  # not needed without a lock file

        return list_locked(self.source, self.context, locked, again=self.again)

    def _fetch_listed(self, listing: Listing) -> Outcome:
        """Plan, refuse what cannot be shown, and fetch the files; into the hub cache first, if `_fills_hub_first`."""
        root = self.context.root
        plan, conflicts, blobs = self.plan(listing)
        self.run.report(_planned(plan, blobs))
        remember_roots_of(self.context, self.run)
        hub_root = self.context.hub_root
        if hub_root is not None and self._fills_hub_first(hub_root, listing):
            self._check_paths(root, plan, blobs)
            with self.fetcher.room_for(root, plan.files, blobs):  # before the first byte comes into the hub cache
                pass
            self._fetch_into_hub(hub_root, listing)
            blobs = self._find_blobs(plan)
        manifest = self._retry_if_blobs_vanished(root, plan, blobs, conflicts)
        report_moved(self.context, self.run, self.moved_from, manifest.revision)
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
        with locked(hub_root.lock("root"), self.run.cancel, self.run.waits_for_root):
            can_share = can_share_bytes(hub_root.tree, self.context.root.tree)
        if not can_share:
            remove_empty_folders(hub_root)
        return can_share

    def _fetch_into_hub(self, hub_root: CacheRoot, listing: Listing) -> None:
        plan = make_plan(self.context.request_in(hub_root), listing)
        conflicts = find_conflicts(hub_root, plan, self.context.other_entries(hub_root))
        hub_root.layout.make_folders()
        with wait_for_other_process(self.context, hub_root, self.run):
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
                    manifest = commit_entry(self.context, root, self.run, plan, blobs, pinned=pinned, resolved=resolved)
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
        from truss_cache_tasks.operations.fetch.locked_listing import (
            refuse_other_bytes,  # not needed without a lock file
        )

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


def _is_cleaned(context: EntryContext) -> bool:
    """Whether this entry was cleaned after its last commit: then all its files are hashed again."""
    found = [claims.claims_of(root, context.project).entries for root in context.roots]
    return any(claim.cleaned for entries in found for name, claim in entries.items() if name in context.claims)


def _planned(plan: Plan, blobs: Mapping[ContentId, LocalBlob]) -> Planned:
    missing = {file.content_id: file.file.size for file in plan.files if file.content_id not in blobs}
    return Planned(
        files=len(plan.files),
        size=sum(file.file.size for file in plan.files),
        missing_files=len(missing),
        missing_size=sum(missing.values()),
    )
