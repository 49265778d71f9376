"""The one place that knows the order of the steps: judge, list, plan, take stock, move, commit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from truss_cache_tasks import transfer
from truss_cache_tasks.config.credentials import fingerprint
from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import CacheTaskError, Collision, IntegrityError, SourceChanged, StoreError, Unavailable
from truss_cache_tasks.planning.freshness import Need, Verdict, judge
from truss_cache_tasks.planning.keys import request_key
from truss_cache_tasks.planning.listing import Listing, RemoteFile
from truss_cache_tasks.planning.plan import Plan, PlannedFile, case_clashes, make_plan
from truss_cache_tasks.planning.records import Manifest, Pin, Project
from truss_cache_tasks.planning.request import Form, Kind, Request
from truss_cache_tasks.sources import Source, open_source
from truss_cache_tasks.store import blobs, claims, disk, partials
from truss_cache_tasks.store.blobs import Held
from truss_cache_tasks.store.commit import Author, Overtaken, claim_only, commit
from truss_cache_tasks.store.evidence import gather
from truss_cache_tasks.store.layout import Place, blob_id, hub_place, pin_name, place_of
from truss_cache_tasks.store.locks import locked, try_lock
from truss_cache_tasks.store.manifest import Unreadable, read_manifest
from truss_cache_tasks.store.neighbours import Neighbours, contested, neighbours, settle, superseded
from truss_cache_tasks.store.partials import Partial
from truss_cache_tasks.store.remove import forget_hollow

BEHIND = "+hub"  # suffix of the claim that an entry with plain files has on the hub cache behind them


@dataclass(frozen=True)
class Target:
    """One entry, and everything on this machine that it means.

    Args:
        place: where its files go.
        behind: the hub cache's folder for its repo, when `place` holds plain files of a Hub repo; else None.
    """

    entry: Entry
    project: Project
    settings: Settings
    place: Place
    behind: Place | None

    @property
    def name(self) -> str:
        """The entry's name, which its claim has too."""
        return self.entry.name

    @property
    def behind_claim(self) -> str:
        """The name of this entry's claim on `behind`."""
        return self.name + BEHIND

    @property
    def hub_request(self) -> Request:
        """What `behind` is asked for."""
        return replace(self.entry.request, form=Form.HUB, folder="")


@dataclass
class Run:
    """One invocation, shared by its entries.

    Args:
        id: of the invocation: entries of one run that resolve the same moving revision end on one commit.
        say: takes one line for people.
        report: takes the bytes that arrive.
        stopped: whether a signal told us to stop.
    """

    id: str
    say: Callable[[str], None] = lambda _line: None
    report: transfer.Report = transfer.silent
    stopped: Callable[[], bool] = lambda: False


@dataclass
class Outcome:
    """What a run did to one entry: the manifest that is now true, and the files and bytes that came for it."""

    manifest: Manifest
    files: int = 0
    size: int = 0


def make_target(entry: Entry, project: Project, settings: Settings, model_cache: Path) -> Target:
    """Resolve where `entry` lives on this machine."""
    request = entry.request
    hub = settings.hub_cache(entry.hub_env)
    place = place_of(request, hub, model_cache, settings.mount_root)
    plain = request.source.kind is Kind.HUGGINGFACE and place.form is not Form.HUB
    return Target(entry, project, settings, place, hub_place(request, hub) if plain else None)


def judge_target(target: Target) -> Verdict:
    """Judge one entry, offline and by stat alone."""
    prints = fingerprint(target.entry, target.settings)
    seen = gather(target.place, target.entry.request, target.project, target.name, prints)
    return judge(target.entry.request, seen)


def current_manifest(target: Target) -> Manifest | None:
    """Return the manifest of what this entry asks, None without a usable one."""
    try:
        return read_manifest(target.place, target.entry.key)
    except Unreadable:
        return None


def hub_manifest(target: Target) -> Manifest | None:
    """Return what lies in the hub cache behind plain files of a Hub repo and is not the same file; None for nothing.

    What is missing there is no fault: the plain files stand for themselves (docs/adr/0003).
    """
    if target.behind is None:
        return None
    try:
        manifest = read_manifest(target.behind, request_key(target.hub_request))
    except Unreadable:
        return None
    shown = current_manifest(target)
    linked = {_inode(target.place.root / record.path) for record in (shown.files if shown else ())}
    files = manifest.files if manifest else ()
    apart = tuple(r for r in files if _inode(target.behind.root / r.path) not in {None, *linked})
    return replace(manifest, files=apart) if manifest and apart else None


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def fetch(target: Target, run: Run, *, force: bool = False) -> Outcome:
    """Make the entry fresh: do the least that its verdict asks for, or with `force` re-hash and resolve everything.

    Raises:
        CacheTaskError: one cause and one remedy; what was good before is still in place.
    """
    if not force and judge_target(target).fresh and (manifest := current_manifest(target)) is not None:
        return Outcome(manifest)  # without a lock: nothing may be writable
    _check_writable(target)
    _open_root(target.place)
    try:
        with locked(target.place.lock(f"entry-{target.entry.key}"), run.stopped):
            return _fetch_locked(target, run, force=force)
    except CacheTaskError:
        for place in _places(target):
            forget_hollow(place)
        raise


def _fetch_locked(target: Target, run: Run, *, force: bool) -> Outcome:
    verdict = judge_target(target)
    manifest = current_manifest(target)
    if manifest is not None and not force:
        if verdict.fresh:
            return Outcome(manifest)
        if verdict.need is Need.CLAIM:
            claim_only(target.place, manifest, _author(target, target.place, run))
            run.say("whole already: claimed, nothing fetched")
            return Outcome(manifest)
        if verdict.need is Need.REPAIR and (repaired := _repair(target, manifest, run)):
            run.say("whole already: records put right, nothing fetched")
            return Outcome(repaired)
    return _fetch_online(target, run, verdict, force=force)


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


def forecast(target: Target, verdict: Verdict, *, hashing: bool, stopped: Callable[[], bool]) -> Forecast:
    """Say what a run would do, asking no network and writing nothing.

    Args:
        hashing: re-hash what was touched, to know for sure; else it counts as something to ask about.
    """
    if verdict.need <= Need.CLAIM:
        return Forecast(verdict, False, 0)
    manifest = current_manifest(target)
    if manifest is None or verdict.need is Need.FETCH:
        return Forecast(verdict, True, None)
    plan = _replay(target.entry.request, manifest)
    try:
        contested(target.place, plan, _neighbours(target))
        overtaken = superseded(target.place, plan, _neighbours(target))
    except Collision:  # the run says which, and fails
        overtaken = True
    if overtaken:
        return Forecast(verdict, True, None)
    if not hashing and verdict.need is Need.REPAIR:
        present = {record.identity for record in manifest.files if (target.place.root / record.path).is_file()}
        missing = sum(planned.file.size for planned in plan.files if planned.identity not in present)
        return Forecast(verdict, True, missing)
    held = blobs.take_stock(_places(target), plan.files, rehash=False, stopped=stopped)
    missing = sum({f.identity: f.file.size for f in plan.files if f.identity not in held}.values())
    return Forecast(verdict, verdict.need > Need.REPAIR or missing > 0, missing)


def _fetch_online(target: Target, run: Run, verdict: Verdict, *, force: bool) -> Outcome:
    if target.settings.offline and target.entry.request.source.kind is Kind.HUGGINGFACE:
        raise Unavailable(f"HF_HUB_OFFLINE is set, and the entry is stale: {verdict}", hint="Unset HF_HUB_OFFLINE.")
    source = open_source(target.entry, target.settings)
    cleaned = _is_cleaned(target)
    try:
        return _Fetch(target, source, run, rehash=force or cleaned).bring(verdict, resolve=force)
    except SourceChanged:
        run.say("the source changed meanwhile: listing it again")
        return _Fetch(target, source, run, rehash=False).bring(verdict, resolve=force)


def _repair(target: Target, manifest: Manifest, run: Run) -> Manifest | None:
    """Put visible files and records right from bytes that are here, asking nobody; None if bytes are missing."""
    plan = _replay(target.entry.request, manifest)
    if superseded(target.place, plan, _neighbours(target)):
        return None
    held = blobs.take_stock(_places(target), plan.files, rehash=False, stopped=run.stopped)
    if any(planned.identity not in held for planned in plan.files):
        return None
    held = {planned.identity: held[planned.identity] for planned in plan.files}
    _check_space(target.place, _copied(target.place, held.values()))
    with contextlib.suppress(Overtaken):  # then the run lists at the new pin
        return commit(target.place, plan, held, _author(target, target.place, run), pinned=None, stopped=run.stopped)
    return None


def _replay(request: Request, manifest: Manifest) -> Plan:
    """Return the plan that this manifest carried out."""
    files = tuple(
        PlannedFile(
            RemoteFile(record.path, record.size, "", "", blobs.as_digest(record.digest)),
            record.path,
            record.identity,
            record.origin,
        )
        for record in manifest.files
    )
    return Plan(request, manifest.revision, files, manifest.folder)


class _Fetch:
    """One online fetch of one entry."""

    def __init__(self, target: Target, source: Source, run: Run, *, rehash: bool) -> None:
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
            self.pins = {place.root: self._pin_in(place) for place in _places(self.target)}
            pinned = overtaken or self._pinned(resolve=resolve)
            self.resolved = pinned is None
            listing = self.source.listing(pinned)
            try:
                return self._carry_out(listing, verdict)
            except Overtaken as exc:
                overtaken = exc.commit

    def _carry_out(self, listing: Listing, verdict: Verdict) -> Outcome:
        target = self.target
        plan = make_plan(target.entry.request, listing)
        _refuse_case_clashes(plan, target.place)
        for warning in plan.warnings:
            self.run.say(f"warning: {warning}")
        others = _neighbours(target)
        unsure = contested(target.place, plan, others)
        if target.behind is not None and self._goes_through(target.behind, listing):
            self._fill_hub(target.behind, listing)
        manifest = None
        while manifest is None:  # a held file may vanish under another project's clean
            held = self._stock(plan)
            self._move(target.place, unsure, held)
            settle(target.place, plan, unsure, others, held)
            self._move(target.place, plan.files, held)
            if verdict.unproven and not self.files:
                self._prove(plan)
            manifest = self._commit(target.place, plan, held)
        return Outcome(manifest, self.files, self.size)

    def _pinned(self, *, resolve: bool) -> str | None:
        """Return the commit that the revision stands for; with `resolve` only what this very run resolved it to."""
        pins = [pin for pin in self.pins.values() if pin and (not resolve or pin.run == self.run.id)]
        return pins[0].commit if pins else None

    def _pin_in(self, place: Place) -> Pin | None:
        name = pin_name(self.target.entry.request)
        return claims.read_pins(place).get(name) if name else None

    def _goes_through(self, behind: Place, listing: Listing) -> bool:
        """Whether the hub cache gets the files first: where it can be linked from, and means this commit too."""
        pin = self.pins[behind.root]
        agreed = pin is None or self.resolved or pin.commit == listing.revision
        return agreed and disk.is_writable(behind.root) and disk.can_link(behind.root, self.target.place.root)

    def _commit(self, place: Place, plan: Plan, held: dict[str, Held]) -> Manifest | None:
        author = _author(self.target, place, self.run, resolved=self.resolved)
        held = {planned.identity: held[planned.identity] for planned in plan.files}
        return commit(place, plan, held, author, pinned=self.pins[place.root], stopped=self.run.stopped)

    def _fill_hub(self, behind: Place, listing: Listing) -> None:
        """Bring a repo with plain files into the hub cache first, which the plain files are then linked to."""
        plan = make_plan(self.target.hub_request, listing)
        _open_root(behind)
        manifest = None
        while manifest is None:
            stock = self._stock(plan)
            held = {
                f.identity: blobs.bring_home(behind, f, stock[f.identity], self.run.stopped)
                for f in plan.files
                if f.identity in stock
            }
            self._move(behind, plan.files, held)
            manifest = self._commit(behind, plan, held)

    def _stock(self, plan: Plan) -> dict[str, Held]:
        places = _places(self.target)
        return blobs.take_stock(places, plan.files, rehash=self.rehash, stopped=self.run.stopped)

    def _move(self, place: Place, files: Sequence[PlannedFile], held: dict[str, Held]) -> None:
        """Fetch those of `files` that are not held, each under its blob's lock, and add them to `held`."""
        missing = list({f.identity: f for f in files if f.identity not in held}.values())
        coming = sum(planned.file.size - partials.left_bytes(place, planned) for planned in missing)
        _check_space(place, coming + _copied(place, held.values()))
        since = blobs.last_commit(place)
        while missing:
            mover = _Mover(self, place, held, since)
            mover.pull(missing)
            if mover.busy:  # somebody else fetches these: wait for one, holding nothing, then look again
                with locked(place.blob_lock(blob_id(mover.busy[0].identity, place.form)), self.run.stopped):
                    pass
            missing = [planned for planned in mover.busy if not self._came(place, planned, held, since)]

    def _came(self, place: Place, planned: PlannedFile, held: dict[str, Held], since: int) -> bool:
        """Judge again what a lock was taken for."""
        if not blobs.arrived(place, planned, since):
            return False
        held.update(blobs.take_stock([place], [planned], rehash=self.rehash, stopped=self.run.stopped))
        return planned.identity in held

    def _prove(self, plan: Plan) -> None:
        file = min((f.file for f in plan.files), key=lambda f: (f.size == 0, f.size))
        network = transfer.Network.from_env(self.target.settings.env)
        transfer.probe(file, partial(self.source.locate, file), self.source.explain, network=network)


class _Mover:
    """One pull: takes locks and opens partials as `transfer` asks for jobs, publishes what is done."""

    def __init__(self, fetch: _Fetch, place: Place, held: dict[str, Held], since: int) -> None:
        self.fetch = fetch
        self.place = place
        self.held = held
        self.since = since
        self.busy: list[PlannedFile] = []
        self.error: CacheTaskError | None = None
        self._open: dict[str, tuple[PlannedFile, Partial, Callable[[], None]]] = {}

    def pull(self, missing: Sequence[PlannedFile]) -> None:
        """Bring `missing`, save what others hold the lock of (`busy`). Raises the first failure, after all ended."""
        settings = self.fetch.target.settings
        limits = transfer.Limits(connections=settings.connections or 32, max_rate=settings.max_rate)
        network = transfer.Network.from_env(settings.env)
        pulled = transfer.pull(self._jobs(missing), self.fetch.run.report, limits=limits, network=network)
        try:
            for outcome in pulled:
                self._land(outcome)
        finally:
            with contextlib.suppress(AttributeError):
                pulled.close()  # type: ignore[attr-defined]  # a generator: cancels what still runs
            for _, temporary, release in self._open.values():
                temporary.leave()
                release()
            self._open.clear()
        if self.error is not None:
            raise self.error

    def _jobs(self, missing: Sequence[PlannedFile]) -> Iterator[transfer.Job]:
        source = self.fetch.source
        for planned in sorted(missing, key=lambda planned: -planned.file.size):  # a large one last would run alone
            if self.error is not None:
                return
            release = try_lock(self.place.blob_lock(blob_id(planned.identity, self.place.form)))
            if release is None:
                self.busy.append(planned)
                continue
            try:
                if self.fetch._came(self.place, planned, self.held, self.since):
                    release()
                    continue
                temporary = partials.open_partial(self.place, planned)
            except BaseException:
                release()
                raise
            self._open[planned.identity] = (planned, temporary, release)
            job_file = planned.file
            locate, say = partial(source.locate, job_file), self.fetch.run.say
            yield _Job(job_file, locate, temporary, source.explain, say, planned.identity)

    def _land(self, outcome: transfer.Done | transfer.Failed) -> None:
        assert isinstance(outcome.job, _Job)
        planned, temporary, release = self._open.pop(outcome.job.identity)
        try:
            if isinstance(outcome, transfer.Failed):
                if isinstance(outcome.error, IntegrityError | SourceChanged):
                    temporary.discard()
                temporary.leave()
                self.error = self.error or outcome.error
                return
            held = blobs.publish(self.place, planned, temporary, outcome.digest, outcome.xxh3)
            self.held[planned.identity] = held
            self.fetch.files += 1
            self.fetch.size += held.size
        finally:
            temporary.close()
            release()


@dataclass(frozen=True)
class _Job(transfer.Job):
    identity: str = ""


def _author(target: Target, place: Place, run: Run, *, resolved: bool = False) -> Author:
    claim = target.name if place == target.place else target.behind_claim
    return Author(target.project, claim, target.name, _fingerprint(target), run.id, resolved)


def _neighbours(target: Target) -> Neighbours:
    if target.place.form is Form.HUB:
        return {}
    return neighbours(target.place, target.project, (target.name, target.behind_claim))


def _places(target: Target) -> list[Place]:
    return [target.place] if target.behind is None else [target.place, target.behind]


def _fingerprint(target: Target) -> str | None:
    return fingerprint(target.entry, target.settings)


def _is_cleaned(target: Target) -> bool:
    mine = claims.aligned(claims.read_claims(target.place, target.project.id), target.project)
    claim = mine.entries.get(target.name)
    return claim is not None and claim.cleaned


def _open_root(place: Place) -> None:
    if place.form is Form.HUB:  # before our records: scan_cache_dir() warns of a repo that has no snapshots
        disk.make_folder(place.root / "snapshots")


def _check_writable(target: Target) -> None:
    folder = target.place.records
    if not disk.is_writable(folder):
        raise StoreError(
            f"the cache folder {target.place.root} is not writable",
            hint="Make it writable, or choose another: HF_HOME, TRUSS_MODEL_CACHE_DIR, TRUSS_MOUNT_ROOT.",
        )


def _copied(place: Place, held: Iterable[Held]) -> int:
    """Bytes that must be copied to this disk from another one."""
    return sum(one.size for one in held if not disk.can_link(one.path, place.root))


def _check_space(place: Place, needed: int) -> None:
    free = disk.free_bytes(place.root)
    if needed > free:
        raise StoreError(
            f"not enough space for {place.root}: {needed:,} bytes are to come, {free:,} are free",
            hint="Free some space, or put the cache on another disk (HF_HOME, TRUSS_MODEL_CACHE_DIR).",
        )


def _refuse_case_clashes(plan: Plan, place: Place) -> None:
    clash = case_clashes(plan.files)
    if clash and place.records.exists() and place.records.with_name(place.records.name.upper()).exists():
        raise Collision(
            f"{plan.request.source}: {clash[0]!r} and {clash[1]!r} are one file on this disk, which is blind to case",
            hint="Drop one of them with ignore_patterns, or use a case-sensitive disk.",
        )


def project_entries(entries: Sequence[Entry]) -> dict[str, str]:
    """Return claim name -> request key for a whole config, the claims behind plain files included."""
    keys: dict[str, str] = {}
    for entry in entries:
        keys[entry.name] = entry.key
        if entry.request.source.kind is Kind.HUGGINGFACE and entry.request.form is not Form.HUB:
            keys[entry.name + BEHIND] = request_key(replace(entry.request, form=Form.HUB, folder=""))
    return keys
