"""The one place that knows the order of the steps: judge, list, plan, take stock, move, commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from truss_cache_tasks import transfer
from truss_cache_tasks.errors import CacheTaskError, Collision, DiskError, SourceChanged, TransientError
from truss_cache_tasks.model.keys import request_key
from truss_cache_tasks.model.listing import Listing
from truss_cache_tasks.model.plan import Plan, PlannedFile, case_clashes, make_plan
from truss_cache_tasks.model.records import Manifest, Pin
from truss_cache_tasks.model.request import StoreKind
from truss_cache_tasks.model.status import Need, Verdict
from truss_cache_tasks.network.retry import StopPoll
from truss_cache_tasks.operations.context import EntryContext, current_manifest, judge_target, read_status
from truss_cache_tasks.operations.download import Mover, Run
from truss_cache_tasks.operations.forecast import replay
from truss_cache_tasks.sources import Source, open_source
from truss_cache_tasks.store import claims, disk, partials
from truss_cache_tasks.store.blob import LocalBlob, Vanished
from truss_cache_tasks.store.clean import forget_empty_note, remove_empty_folders
from truss_cache_tasks.store.commit import Claimant, PinMoved, claim_if_whole, commit
from truss_cache_tasks.store.conflicts import find_conflicts, is_another_version_shown, resolve_conflicts
from truss_cache_tasks.store.fetch_notes import note_fetch
from truss_cache_tasks.store.known_roots import forget_empty_roots, remember_roots
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.local_blobs import find_local_blobs
from truss_cache_tasks.store.locks import locked
from truss_cache_tasks.store.manifest import last_commit
from truss_cache_tasks.store.names import pin_name
from truss_cache_tasks.store.root_state import read_states
from truss_cache_tasks.store.visible_paths import check_paths

_LOOKS = 100  # at a disk on which other processes remove what was found, before it is an error


@dataclass
class Outcome:
    """What a run did to one entry: the manifest that is now true, and the files and bytes that came for it."""

    manifest: Manifest
    files: int = 0
    size: int = 0


def fetch(target: EntryContext, run: Run, *, force: bool = False) -> Outcome:
    """Make the entry fresh: do the least that its verdict asks for, or with `force` re-hash and resolve everything.

    Raises:
        CacheTaskError: one cause and one remedy; what was good before is still in place.
    """
    if not force and judge_target(target).fresh and (manifest := current_manifest(target)) is not None:
        return Outcome(manifest)  # without a lock: nothing may be writable
    with (
        contextlib.ExitStack() as opened,
        disk.disk_errors(f"cannot use the cache {target.place.path}"),
        disk.import_errors(),
    ):
        _check_writable(target)
        for place in target.places:
            opened.enter_context(place.tree.kept_open())
        target.place.layout.make_folders()
        try:
            with locked(target.place.lock(f"entry-{target.entry.key}"), run.stopped):
                try:
                    return _fetch_locked(target, run, force=force)
                except CacheTaskError:
                    for place in target.places:
                        owner = _author(target, place, run).owner
                        forget_empty_note(place, _request_key(target, place), owner)
                    raise
        except CacheTaskError:
            for place in target.places:
                remove_empty_folders(place)
            with contextlib.suppress(DiskError):
                forget_empty_roots(target.settings, target.project)
            raise


def _fetch_locked(target: EntryContext, run: Run, *, force: bool) -> Outcome:
    verdict = judge_target(target)
    manifest = current_manifest(target)
    if manifest is not None and not force:
        if verdict.fresh:
            return Outcome(manifest)
        if verdict.need is Need.CLAIM and (claimed := _claim(target, run)):
            run.say("whole already: claimed, nothing fetched")
            return Outcome(claimed)
        if verdict.need is Need.REPAIR and (repaired := _repair(target, manifest, run)):
            run.say("whole already: records put right, nothing fetched")
            return Outcome(repaired)
    return _fetch_online(target, run, judge_target(target), force=force)


def _claim(target: EntryContext, run: Run) -> Manifest | None:
    """Claim what is whole, if it still is once the root's lock is held: another project's clean may come before."""
    _remember(target, run)

    status = claim_if_whole(target.place, _author(target, target.place, run), lambda: read_status(target))
    return status.manifest if status.verdict.need <= Need.CLAIM else None


def _fetch_online(target: EntryContext, run: Run, verdict: Verdict, *, force: bool) -> Outcome:
    if target.settings.offline and target.entry.request.source.kind is StoreKind.HUGGINGFACE:
        raise TransientError(f"HF_HUB_OFFLINE is set, and the entry is stale: {verdict}", hint="Unset HF_HUB_OFFLINE.")
    source = open_source(target.entry, target.settings, StopPoll(run.stopped))
    cleaned = _is_cleaned(target)
    try:
        return _Fetch(target, source, run, rehash=force or cleaned).bring(verdict, resolve=force)
    except SourceChanged:
        run.say("the source changed meanwhile: listing it again")
        return _Fetch(target, source, run, rehash=False).bring(verdict, resolve=force)


def _repair(target: EntryContext, manifest: Manifest, run: Run) -> Manifest | None:
    """Put visible files and records right from bytes that are here, asking nobody; None if bytes are missing."""
    plan = replay(target.entry.request, manifest)
    if is_another_version_shown(target.place, plan, target.other_entries()) or target.is_replaced(manifest):
        return None
    held = find_local_blobs(target.places, plan.files, rehash=False, stopped=run.stopped)
    if any(planned.identity not in held for planned in plan.files):
        return None
    _check_space(target.place, _copied(target.place, held.values()))
    _remember(target, run)
    with contextlib.suppress(PinMoved, Vanished):  # then the run lists, at the new pin
        held = _adopted(target.place, plan, held, run)
        return commit(target.place, plan, held, _author(target, target.place, run), pinned=None, stopped=run.stopped)
    return None


class _Fetch:
    """One online fetch of one entry."""

    def __init__(self, target: EntryContext, source: Source, run: Run, *, rehash: bool) -> None:
        self.target = target
        self.source = source
        self.run = run
        self.rehash = rehash
        self.files = 0
        self.size = 0
        self.pins: dict[Path, Pin | None] = {}  # by root, as they were when the revision was listed
        self.resolved = False  # this fetch asked what the revision stands for

    def bring(self, verdict: Verdict, *, resolve: bool) -> Outcome:
        """List, plan, move what is missing, commit; once more, at its commit, if another run pinned one meanwhile."""
        overtaken: str | None = None
        while True:
            self.pins = {place.path: self._pin_in(place) for place in self.target.places}
            pinned = overtaken or self._pinned(resolve=resolve)
            self.resolved = pinned is None
            listing = self.source.listing(pinned)
            try:
                return self._carry_out(listing, verdict)
            except PinMoved as exc:
                overtaken = exc.commit

    def _carry_out(self, listing: Listing, verdict: Verdict) -> Outcome:
        target = self.target
        plan = make_plan(target.entry.request, listing)
        _refuse_case_clashes(plan, target.place)
        for warning in plan.warnings:
            self.run.say(f"warning: {warning}")
        others = target.other_entries()
        unsure = find_conflicts(target.place, plan, others)
        if target.behind is not None and self._goes_through(target.behind, listing):
            self._look(target.place, plan, self._stock(plan))  # before bytes come for the hub cache
            self._fill_hub(target.behind, listing)
        for _ in range(_LOOKS):
            held = self._stock(plan)
            self._look(target.place, plan, held)
            self._move(target.place, unsure, held)
            resolve_conflicts(target.place, plan, unsure, others, held)
            self._move(target.place, plan.files, held)
            if verdict.unproven and not self.files:
                self._prove(plan)
            manifest = self._commit(target.place, plan, held)
            if manifest is not None:
                return Outcome(manifest, self.files, self.size)
        raise _keeps_changing(target.place)

    def _pinned(self, *, resolve: bool) -> str | None:
        """Return the commit that the revision stands for; with `resolve` only what this very run resolved it to."""
        pins = [pin for pin in self.pins.values() if pin and (not resolve or pin.run == self.run.id)]
        return pins[0].commit if pins else None

    def _pin_in(self, place: CacheRoot) -> Pin | None:
        name = pin_name(self.target.entry.request)
        return claims.read_pins(place).get(name) if name else None

    def _goes_through(self, behind: CacheRoot, listing: Listing) -> bool:
        """Whether the hub cache gets the files first: where it can be linked from, and means this commit too."""
        pin = self.pins[behind.path]
        agreed = pin is None or self.resolved or pin.commit == listing.revision
        one_disk = disk.device_of(behind.path) == disk.device_of(self.target.place.path)
        return agreed and one_disk and disk.is_writable(behind.path)

    def _commit(self, place: CacheRoot, plan: Plan, held: Mapping[str, LocalBlob]) -> Manifest | None:
        """Commit; None if a held file vanished meanwhile: then no stat is believed any more."""
        _remember(self.target, self.run)
        author = _author(self.target, place, self.run, resolved=self.resolved)
        manifest = None
        with contextlib.suppress(Vanished):
            held = _adopted(place, plan, held, self.run)
            manifest = commit(place, plan, held, author, pinned=self.pins[place.path], stopped=self.run.stopped)
        self.rehash = self.rehash or manifest is None
        return manifest

    def _look(self, place: CacheRoot, plan: Plan, held: Mapping[str, LocalBlob]) -> None:
        """Refuse, before a byte comes, what `commit` would refuse: files that are not ours at our paths."""
        owned = read_states(place, (file.path for file in plan.files)).own_paths()
        replace = self.target.settings.replace
        leaving = owned - {file.path for file in plan.files}  # as far as the commit needs them to
        check_paths(place, plan, held, owned, leaving=leaving, replace=replace, stopped=self.run.stopped)

    def _fill_hub(self, behind: CacheRoot, listing: Listing) -> None:
        """Bring a repo with plain files into the hub cache first, which the plain files are then linked to."""
        plan = make_plan(self.target.hub_request, listing)
        behind.layout.make_folders()
        with locked(behind.lock(f"entry-{_request_key(self.target, behind)}"), self.run.stopped):
            self._fill_hub_locked(behind, plan)

    def _fill_hub_locked(self, behind: CacheRoot, plan: Plan) -> None:
        for _ in range(_LOOKS):
            held = self._stock(plan)
            self._look(behind, plan, held)
            self._move(behind, plan.files, held)
            if self._commit(behind, plan, held) is not None:
                return
        raise _keeps_changing(behind)

    def _stock(self, plan: Plan) -> dict[str, LocalBlob]:
        places = self.target.places
        return find_local_blobs(places, plan.files, rehash=self.rehash, stopped=self.run.stopped)

    def _move(self, place: CacheRoot, files: Sequence[PlannedFile], held: dict[str, LocalBlob]) -> None:
        """Fetch those of `files` that are not held, each under its blob's lock, and add them to `held`."""
        missing = list({f.identity: f for f in files if f.identity not in held}.values())
        coming = sum(planned.file.size for planned in missing) - partials.left_bytes(place, missing)
        _check_space(place, coming + _copied(place, held.values()))
        if missing:
            self._note(place, missing)
        since = last_commit(place.tree)
        for _ in range(_LOOKS):
            if not missing:
                return
            came = partial(self._came, place, held, since)
            mover = Mover(self.source, self.target.settings, place, self.run, came)
            try:
                mover.pull(missing)
            finally:
                held.update(mover.fetched)
                self.files += len(mover.fetched)
                self.size += sum(one.size for one in mover.fetched.values())
            if mover.busy:  # another process fetches these: wait for one, holding nothing, then look again
                with locked(place.layout.blob_lock(place.layout.blob_id(mover.busy[0].identity)), self.run.stopped):
                    pass
            missing = [planned for planned in mover.busy + mover.lost if not came(planned)]
        raise _keeps_changing(place)

    def _note(self, place: CacheRoot, missing: Iterable[PlannedFile]) -> None:
        """Note whose the blobs and partials are that are about to come: nothing of ours is without an owner."""
        _remember(self.target, self.run)
        owner = _author(self.target, place, self.run).owner
        ids = {place.layout.blob_id(planned.identity) for planned in missing}
        with locked(place.lock("root"), self.run.stopped):
            note_fetch(place, _request_key(self.target, place), owner, blobs=ids)

    def _came(self, place: CacheRoot, held: dict[str, LocalBlob], since: int, planned: PlannedFile) -> bool:
        """Judge again what a lock was taken for."""
        if not place.layout.may_have_arrived(place.layout.blob_id(planned.identity), since):
            return False
        held.update(find_local_blobs([place], [planned], rehash=self.rehash, stopped=self.run.stopped))
        return planned.identity in held

    def _prove(self, plan: Plan) -> None:
        file = min((f.file for f in plan.files), key=lambda f: (f.size == 0, f.size))
        network = transfer.Network.from_env(self.target.settings.env)
        transfer.probe(file, partial(self.source.locate, file), self.source.explain, network=network)


def _remember(target: EntryContext, run: Run) -> None:
    """Note which roots this project uses, before anything of it is written there."""
    remember_roots(target.settings, target.project, run.say)


def _request_key(target: EntryContext, place: CacheRoot) -> str:
    return request_key(target.entry.request if place is target.place else target.hub_request)


def _author(target: EntryContext, place: CacheRoot, run: Run, *, resolved: bool = False) -> Claimant:
    claim = target.name if place == target.place else target.behind_claim
    replace = target.settings.replace
    return Claimant(target.project, claim, target.name, target.fingerprint, run.id, resolved, replace)


def _is_cleaned(target: EntryContext) -> bool:
    """Whether a clean took this entry's bytes, or would have if no other claim had held them: no stat is believed."""
    found = [claims.claims_of(place, target.project).entries for place in target.places]
    names = (target.name, target.behind_claim)
    return any(claim.cleaned for entries in found for name, claim in entries.items() if name in names)


def _adopted(place: CacheRoot, plan: Plan, held: Mapping[str, LocalBlob], run: Run) -> dict[str, LocalBlob]:
    """Return the blobs of the plan where its paths can show them. Raises Vanished."""
    return {
        planned.identity: place.layout.adopt_blob(planned, held[planned.identity], run.stopped)
        for planned in plan.files
    }


def _keeps_changing(place: CacheRoot) -> DiskError:
    return DiskError(
        f"{place.path}: other processes keep removing what was found or fetched",
        hint="Find what cleans this cache, and run the command again.",
    )


def _check_writable(target: EntryContext) -> None:
    folder = target.place.records
    if not disk.is_writable(folder):
        raise DiskError(
            f"the cache folder {target.place.path} is not writable",
            hint="Make it writable, or choose another: HF_HOME, TRUSS_MODEL_CACHE_DIR, TRUSS_MOUNT_ROOT.",
        )


def _copied(place: CacheRoot, held: Iterable[LocalBlob]) -> int:
    """Bytes that must be copied to this disk from another one."""
    here = disk.device_of(place.path)
    return sum(one.size for one in held if one.device != here)


def _check_space(place: CacheRoot, needed: int) -> None:
    free = disk.free_bytes(place.path)
    if needed > free:
        raise DiskError(
            f"not enough space for {place.path}: {needed:,} bytes are to come, {free:,} are free",
            hint="Free some space, or put the cache on another disk (HF_HOME, TRUSS_MODEL_CACHE_DIR).",
        )


def _refuse_case_clashes(plan: Plan, place: CacheRoot) -> None:
    clash = case_clashes(plan.files)
    if clash and place.records.exists() and place.records.with_name(place.records.name.upper()).exists():
        raise Collision(
            f"{plan.request.source}: {clash[0]!r} and {clash[1]!r} are one file on this disk, which is blind to case",
            hint="Drop one of them with ignore_patterns, or use a case-sensitive disk.",
        )
