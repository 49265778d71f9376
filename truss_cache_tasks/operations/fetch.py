"""The one place that knows the order of the steps: judge, list, plan, take stock, move, commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from truss_cache_tasks import transfer
from truss_cache_tasks.config.credentials import find_credential
from truss_cache_tasks.errors import CacheTaskError, Collision, DiskError, PermanentError, SourceChanged
from truss_cache_tasks.events import Committed, Failed, How, Planned, Relisting, Started
from truss_cache_tasks.model.keys import request_key
from truss_cache_tasks.model.listing import Listing, Pins
from truss_cache_tasks.model.plan import Plan, PlannedFile, case_clashes, make_plan
from truss_cache_tasks.model.records import Manifest, Pin
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.model.status import Need, Verdict
from truss_cache_tasks.operations.context import EntryContext, current_manifest, judge_target
from truss_cache_tasks.operations.download import Mover
from truss_cache_tasks.operations.forecast import replay
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.sources.base import Source
from truss_cache_tasks.store import blobs, claims, disk, partials, stock
from truss_cache_tasks.store.commit import Author, Overtaken, claim_only, commit
from truss_cache_tasks.store.held import LocalBlob, Vanished
from truss_cache_tasks.store.known_roots import forget_empty_roots, remember_roots
from truss_cache_tasks.store.layout import CacheRoot, blob_id, pin_name
from truss_cache_tasks.store.locks import locked
from truss_cache_tasks.store.neighbours import contested, settle, superseded
from truss_cache_tasks.store.ownership import own_paths, roots_around
from truss_cache_tasks.store.remove import forget_hollow
from truss_cache_tasks.store.sight import look
from truss_cache_tasks.store.sweep import forget_empty_note
from truss_cache_tasks.store.unfinished import note_unfinished

_LOOKS = 100  # at a disk on which other processes remove what was found, before it is an error


@dataclass
class Outcome:
    """What a run did to one entry: the manifest that is now true, and the files and bytes that came for it."""

    manifest: Manifest
    files: int = 0
    size: int = 0
    how: How = "fetched"


def fetch(target: EntryContext, run: RunContext, *, force: bool = False) -> Outcome:
    """Make the entry fresh: do the least that its verdict asks for, or with `force` re-hash and resolve everything.

    Raises:
        CacheTaskError: one cause and one remedy; what was good before is still in place.
    """
    run = run.for_entry(target.name)
    verdict = judge_target(target)
    lists = verdict.need is Need.FETCH
    run.report(Started(reasons=() if force else verdict.reasons, lists=lists and not force, forced=force))
    try:
        outcome = _make_fresh(target, run, verdict, force=force)
    except CacheTaskError as error:
        run.report(Failed(error=error))
        raise
    run.report(_committed(outcome))
    return outcome


def _committed(outcome: Outcome) -> Committed:
    manifest = outcome.manifest
    return Committed(
        how=outcome.how,
        files=len(manifest.files),
        size=manifest.size,
        unverified=sum(not file.digest for file in manifest.files),
        fetched_files=outcome.files,
        fetched_size=outcome.size,
    )


def _make_fresh(target: EntryContext, run: RunContext, verdict: Verdict, *, force: bool) -> Outcome:
    if not force and verdict.fresh and (manifest := current_manifest(target)) is not None:
        return Outcome(manifest, how="fresh")  # without a lock: nothing may be writable
    with (
        contextlib.ExitStack() as opened,
        disk.disk_errors(f"cannot use the cache {target.place.root}"),
        disk.import_errors(),
    ):
        _check_writable(target)
        for place in target.places:
            opened.enter_context(place.tree.kept_open())
        _open_root(target.place)
        try:
            waits = run.waits_for("entry", str(target.place.root))
            with locked(target.place.lock(f"entry-{target.entry.key}"), run.stopped, waits):
                try:
                    return _fetch_locked(target, run, force=force)
                except CacheTaskError:
                    for place in target.places:
                        owner = _author(target, place, run).owner
                        forget_empty_note(place, _request_key(target, place), owner)
                    raise
        except CacheTaskError:
            for place in target.places:
                forget_hollow(place)
            with contextlib.suppress(DiskError):
                forget_empty_roots(target.settings, target.project)
            raise


def _fetch_locked(target: EntryContext, run: RunContext, *, force: bool) -> Outcome:
    verdict = judge_target(target)
    manifest = current_manifest(target)
    if manifest is not None and not force:
        if verdict.fresh:
            return Outcome(manifest, how="fresh")
        if verdict.need is Need.CLAIM and _claim(target, manifest, run):
            return Outcome(manifest, how="claimed")
        if verdict.need is Need.REPAIR and (repaired := _repair(target, manifest, run)):
            return Outcome(repaired, how="repaired")
    return _fetch_online(target, run, judge_target(target), force=force)


def _claim(target: EntryContext, manifest: Manifest, run: RunContext) -> bool:
    """Claim what is whole, if it still is once the root's lock is held: another project's clean may come before."""
    _remember(target, run)

    def is_whole() -> bool:
        return judge_target(target).need <= Need.CLAIM and current_manifest(target) == manifest

    return claim_only(target.place, manifest, _author(target, target.place, run), is_whole, run.waits_for_root)


def _fetch_online(target: EntryContext, run: RunContext, verdict: Verdict, *, force: bool) -> Outcome:
    if target.settings.offline and target.entry.request.source.store.is_hub:
        raise PermanentError(f"HF_HUB_OFFLINE is set, and the entry is stale: {verdict}", hint="Unset HF_HUB_OFFLINE.")
    source = _open_source(target, run)
    cleaned = _is_cleaned(target)
    try:
        return _Fetch(target, source, run, rehash=force or cleaned).bring(verdict, resolve=force)
    except SourceChanged as exc:
        run.report(Relisting(cause=str(exc)))
        return _Fetch(target, source, run, rehash=False).bring(verdict, resolve=force)


def _open_source(target: EntryContext, run: RunContext) -> Source:
    from truss_cache_tasks.sources.registry import open_source  # a no-op opens none

    settings, entry = target.settings, target.entry
    network = replace(settings.network, base=entry.config.parent, cancel=run.cancel, reporter=run.reporter)
    return open_source(entry.request, find_credential(entry, settings), network)


def _repair(target: EntryContext, manifest: Manifest, run: RunContext) -> Manifest | None:
    """Put visible files and records right from bytes that are here, asking nobody; None if bytes are missing."""
    plan = replay(target.entry.request, manifest)
    if superseded(target.place, plan, target.neighbours()) or target.is_replaced(manifest):
        return None
    held = stock.take_stock(target.places, plan.files, rehash=False, stopped=run.stopped)
    if any(planned.identity not in held for planned in plan.files):
        return None
    held = {planned.identity: held[planned.identity] for planned in plan.files}
    with contextlib.suppress(Vanished):
        held = _linkable(target.place, plan, held, run)
    _check_space(target.place, _copied(target.place, held.values()))
    _remember(target, run)
    with contextlib.suppress(Overtaken):  # then the run lists at the new pin
        author = _author(target, target.place, run)
        on_wait = run.waits_for_root
        return commit(target.place, plan, held, author, pinned=None, stopped=run.stopped, on_wait=on_wait)
    return None


class _Fetch:
    """One online fetch of one entry."""

    def __init__(self, target: EntryContext, source: Source, run: RunContext, *, rehash: bool) -> None:
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
            self.pins = {place.root: self._pin_in(place) for place in self.target.places}
            pinned = overtaken or self._pinned(resolve=resolve)
            self.resolved = pinned is None
            listing = self.source.listing(Pins(revision=pinned or ""))
            try:
                return self._carry_out(listing, verdict)
            except Overtaken as exc:
                overtaken = exc.commit

    def _carry_out(self, listing: Listing, verdict: Verdict) -> Outcome:
        target = self.target
        plan = make_plan(target.entry.request, listing)
        _refuse_case_clashes(plan, target.place)
        for warning in plan.warnings:
            self.run.warn(warning)
        others = target.neighbours()
        unsure = contested(target.place, plan, others)
        held = self._stock(plan)
        self.run.report(_planned(plan, held))
        if target.behind is not None and self._goes_through(target.behind, listing):
            self._look(target.place, plan, held)  # before bytes come for the hub cache
            self._fill_hub(target.behind, listing)
            held = self._stock(plan)
        for _ in range(_LOOKS):
            self._look(target.place, plan, held)
            self._move(target.place, unsure, held)
            settle(target.place, plan, unsure, others, held)
            self._move(target.place, plan.files, held)
            if verdict.unproven and not self.files:
                self._prove(plan)
            manifest = self._commit(target.place, plan, held)
            if manifest is not None:
                return Outcome(manifest, self.files, self.size)
            held = self._stock(plan)
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
        pin = self.pins[behind.root]
        agreed = pin is None or self.resolved or pin.commit == listing.revision
        one_disk = disk.device_of(behind.root) == disk.device_of(self.target.place.root)
        return agreed and one_disk and disk.is_writable(behind.root)

    def _commit(self, place: CacheRoot, plan: Plan, held: Mapping[str, LocalBlob]) -> Manifest | None:
        """Commit; None if a held file vanished meanwhile: then no stat is believed any more."""
        _remember(self.target, self.run)
        author = _author(self.target, place, self.run, resolved=self.resolved)
        held = {planned.identity: held[planned.identity] for planned in plan.files}
        manifest = None
        with contextlib.suppress(Vanished):
            held = _linkable(place, plan, held, self.run)
            pinned, on_wait = self.pins[place.root], self.run.waits_for_root
            manifest = commit(place, plan, held, author, pinned=pinned, stopped=self.run.stopped, on_wait=on_wait)
        self.rehash = self.rehash or manifest is None
        return manifest

    def _look(self, place: CacheRoot, plan: Plan, held: Mapping[str, LocalBlob]) -> None:
        """Refuse, before a byte comes, what `commit` would refuse: files that are not ours at our paths."""
        around = roots_around(place, (file.path for file in plan.files))
        owned, replace = own_paths(place, around), self.target.settings.replace
        leaving = owned - {file.path for file in plan.files}  # as far as the commit needs them to
        look(place, plan, held, owned, leaving=leaving, replace=replace, stopped=self.run.stopped)

    def _fill_hub(self, behind: CacheRoot, listing: Listing) -> None:
        """Bring a repo with plain files into the hub cache first, which the plain files are then linked to."""
        plan = make_plan(self.target.hub_request, listing)
        _open_root(behind)
        waits = self.run.waits_for("entry", str(behind.root))
        with locked(behind.lock(f"entry-{_request_key(self.target, behind)}"), self.run.stopped, waits):
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
        return stock.take_stock(places, plan.files, rehash=self.rehash, stopped=self.run.stopped)

    def _move(self, place: CacheRoot, files: Sequence[PlannedFile], held: dict[str, LocalBlob]) -> None:
        """Fetch those of `files` that are not held, each under its blob's lock, and add them to `held`."""
        missing = list({f.identity: f for f in files if f.identity not in held}.values())
        coming = sum(planned.file.size for planned in missing) - partials.left_bytes(place, missing)
        _check_space(place, coming + _copied(place, held.values()))
        if missing:
            self._note(place, missing)
        since = stock.last_commit(place)
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
                lock = place.blob_lock(blob_id(mover.busy[0].identity, place.layout))
                with locked(lock, self.run.stopped, self.run.waits_for("file", mover.busy[0].file.path)):
                    pass
            missing = [planned for planned in mover.busy + mover.lost if not came(planned)]
        raise _keeps_changing(place)

    def _note(self, place: CacheRoot, missing: Iterable[PlannedFile]) -> None:
        """Note whose the blobs and partials are that are about to come: nothing of ours is without an owner."""
        _remember(self.target, self.run)
        owner = _author(self.target, place, self.run).owner
        ids = {blob_id(planned.identity, place.layout) for planned in missing}
        with locked(place.lock("root"), self.run.stopped, self.run.waits_for_root):
            note_unfinished(place, _request_key(self.target, place), owner, blobs=ids)

    def _came(self, place: CacheRoot, held: dict[str, LocalBlob], since: int, planned: PlannedFile) -> bool:
        """Judge again what a lock was taken for."""
        if not stock.arrived(place, planned, since):
            return False
        held.update(stock.take_stock([place], [planned], rehash=self.rehash, stopped=self.run.stopped))
        return planned.identity in held

    def _prove(self, plan: Plan) -> None:
        file = min((f.file for f in plan.files), key=lambda f: (f.size == 0, f.size))
        network = self.target.settings.network
        locate = partial(self.source.locate, file)
        transfer.probe(file, locate, self.source.explain, reporter=self.run.reporter, network=network)


def _planned(plan: Plan, held: Mapping[str, LocalBlob]) -> Planned:
    missing = {file.identity: file.file.size for file in plan.files if file.identity not in held}
    return Planned(
        files=len(plan.files),
        size=sum(file.file.size for file in plan.files),
        missing_files=len(missing),
        missing_size=sum(missing.values()),
    )


def _remember(target: EntryContext, run: RunContext) -> None:
    """Note which roots this project uses, before anything of it is written there."""
    remember_roots(target.settings, target.project, run.warn)


def _request_key(target: EntryContext, place: CacheRoot) -> str:
    return request_key(target.entry.request if place is target.place else target.hub_request)


def _author(target: EntryContext, place: CacheRoot, run: RunContext, *, resolved: bool = False) -> Author:
    claim = target.name if place == target.place else target.behind_claim
    replace = target.settings.replace
    return Author(target.project, claim, target.name, target.fingerprint, run.id, resolved, replace)


def _is_cleaned(target: EntryContext) -> bool:
    """Whether a clean took this entry's bytes, or would have if no other claim had held them: no stat is believed."""
    found = [claims.claims_of(place, target.project).entries for place in target.places]
    names = (target.name, target.behind_claim)
    return any(claim.cleaned for entries in found for name, claim in entries.items() if name in names)


def _open_root(place: CacheRoot) -> None:
    if place.layout is Layout.HUB:  # before our records: scan_cache_dir() warns of a repo that has no snapshots
        place.tree.make_folder("snapshots")


def _linkable(place: CacheRoot, plan: Plan, held: Mapping[str, LocalBlob], run: RunContext) -> dict[str, LocalBlob]:
    """Return `held` with the bytes of a hub repo where its snapshots can link to them: in its blobs.

    A file that is in the snapshot itself, as huggingface_hub puts it where there are no links, stays there.
    """
    found = dict(held)
    if place.layout is Layout.HUB:
        for planned in plan.files:
            one = found[planned.identity]
            if one.root is not place.tree or one.at != planned.path:
                waits = run.waits_for("file", planned.file.path)
                found[planned.identity] = blobs.bring_home(place, planned, one, run.stopped, waits)
    return found


def _keeps_changing(place: CacheRoot) -> DiskError:
    return DiskError(
        f"{place.root}: other processes keep removing what was found or fetched",
        hint="Find what cleans this cache, and run the command again.",
    )


def _check_writable(target: EntryContext) -> None:
    folder = target.place.records
    if not disk.is_writable(folder):
        raise DiskError(
            f"the cache folder {target.place.root} is not writable",
            hint="Make it writable, or choose another: HF_HOME, TRUSS_MODEL_CACHE_DIR, TRUSS_MOUNT_ROOT.",
        )


def _copied(place: CacheRoot, held: Iterable[LocalBlob]) -> int:
    """Bytes that must be copied to this disk from another one."""
    here = disk.device_of(place.root)
    return sum(one.size for one in held if one.device != here)


def _check_space(place: CacheRoot, needed: int) -> None:
    free = disk.free_bytes(place.root)
    if needed > free:
        raise DiskError(
            f"not enough space for {place.root}: {needed:,} bytes are to come, {free:,} are free",
            hint="Free some space, or put the cache on another disk (HF_HOME, TRUSS_MODEL_CACHE_DIR).",
        )


def _refuse_case_clashes(plan: Plan, place: CacheRoot) -> None:
    clash = case_clashes(plan.files)
    if clash and place.records.exists() and place.records.with_name(place.records.name.upper()).exists():
        raise Collision(
            f"{plan.request.source}: {clash[0]!r} and {clash[1]!r} are one file on this disk, which is blind to case",
            hint="Drop one of them with ignore_patterns, or use a case-sensitive disk.",
        )
