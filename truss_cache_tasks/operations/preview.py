"""Preview a run: list the sources as it would, and tell what it would fetch, whereto, and whether there is room.

It writes nothing: no lock, no note, no record, also not on a disk where it could. So another process may change, a
moment later, what it told. The steps are those of `operations/fetch/fetch.py`, and mostly its code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from truss_cache_tasks.errors import IntegrityError, NotFound, SourceChanged
from truss_cache_tasks.events import How
from truss_cache_tasks.model.keys import ContentId, request_key
from truss_cache_tasks.model.listing import Listing
from truss_cache_tasks.model.plan import Plan, PlannedFile, make_plan
from truss_cache_tasks.model.status import Need, Status
from truss_cache_tasks.operations.context import EntryContext, read_status
from truss_cache_tasks.operations.fetch.budget import BudgetNeed, budget_needs
from truss_cache_tasks.operations.fetch.download import prunable_bytes
from truss_cache_tasks.operations.fetch.fetch import find_repair, started
from truss_cache_tasks.operations.fetch.online_fetch import OnlineFetch, make_online_fetch
from truss_cache_tasks.operations.forecast import replay
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.store.blobs.demand import largest_demand_of
from truss_cache_tasks.store.blobs.space import Demand, Room, room_of
from truss_cache_tasks.store.entries.conflicts import find_conflicts
from truss_cache_tasks.store.files import disk
from truss_cache_tasks.store.layouts.blob import LocalBlob
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.root_state import RootState, read_states

Blobs = Mapping[ContentId, LocalBlob]


@dataclass(frozen=True, kw_only=True, slots=True)
class RootPlan:
    """What an entry is to have in one of its roots.

    Attributes:
        files: all of them.
        blobs: what is on this machine already, and need not be fetched into this root.
        linked: of these files, what another root of the entry gets, and this one as links.
    """

    root: CacheRoot
    files: tuple[PlannedFile, ...]
    blobs: Blobs
    linked: frozenset[ContentId] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a run would do to one entry.

    Attributes:
        how: as in `Committed`.
        reasons: why the entry is stale, one clause each.
        revision: the commit; "" for other stores.
        moved_from: the commit that its pin has now, if the run would move it; else "".
        files: 1..N, what the entry is to have.
        missing: of these, what would be fetched; equal bytes once.
        path: the folder to open.
        writable: whether this user may write there.
        roots: where files would be put; none if nothing would be fetched.
    """

    context: EntryContext
    how: How
    reasons: tuple[str, ...]
    revision: str
    moved_from: str = ""
    files: tuple[PlannedFile, ...]
    missing: tuple[PlannedFile, ...] = ()
    path: Path
    writable: bool = True
    roots: tuple[RootPlan, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """Bytes of the whole entry."""
        return sum(planned.file.size for planned in self.files)

    @property
    def missing_size(self) -> int:
        """Bytes that would be fetched."""
        return sum(planned.file.size for planned in self.missing)


def preview(context: EntryContext, run: RunContext, *, force: bool = False, commit: str = "") -> Preview:
    """Return what `fetch` would do to an entry. Lists the source where a run would, and hashes what it would.

    Args:
        force: as in `fetch`.
        commit: of the Hub, that another entry with this source and revision got in this preview.

    Raises:
        CacheTaskError: a run would fail with it, as far as that is known before the first byte.
    """
    run = run.for_entry(context.name)
    with (
        disk.disk_errors(f"cannot look at the cache {context.root.path}"),
        disk.import_errors(),
        contextlib.ExitStack() as opened,
    ):
        for root in context.roots:
            opened.enter_context(root.tree.kept_open())
        status = read_status(context)
        run.report(started(status, context, force=force))
        if not force and (found := _preview_offline(context, run, status)):
            return found
        return _preview_online(context, run, status, force=force, commit=commit)


def _preview_offline(context: EntryContext, run: RunContext, status: Status) -> Preview | None:
    """Return the preview of an entry whose run would send no request; else None."""
    how: dict[Need, How] = {Need.NOTHING: "fresh", Need.CLAIM: "claimed", Need.REPAIR: "repaired"}
    need = status.verdict.need
    if status.manifest is None or need not in how:
        return None
    plan = replay(context.entry.request, status.manifest)
    blobs: Blobs = {}
    if need is Need.REPAIR:
        if (found := find_repair(context, run, status)) is None:
            return None
        plan, blobs = found
    roots = (RootPlan(root=context.root, files=plan.files, blobs=blobs),) if need is Need.REPAIR else ()
    return _preview(context, status, plan, how[need], blobs=blobs, roots=roots, moved_from="")


def _preview_online(context: EntryContext, run: RunContext, status: Status, *, force: bool, commit: str) -> Preview:
    online = make_online_fetch(context, run, status, force=force)
    if not force and any(RootState(root).pin_of(context.entry.request) for root in context.roots):
        commit = ""
    try:
        listing = online.list_source(resolve=force, commit=commit)
    except (SourceChanged, NotFound, IntegrityError):
        if context.locked is None:
            raise
        online.again = True
        listing = online.list_source(resolve=force, commit=commit)
    online.resolved = online.resolved or bool(commit)  # by that entry
    plan, _, blobs = online.plan(listing)
    online.check_paths(context.root, plan, blobs, read_states(context.root, {file.path for file in plan.files}))
    roots = _root_plans(online, listing, plan, blobs)
    pins = [pin.commit for one in roots if (pin := online.pins[one.root.path]) is not None]
    moved_from = next((commit for commit in pins if commit != plan.revision), "")
    return _preview(context, status, plan, "fetched", blobs=blobs, roots=roots, moved_from=moved_from)


def _root_plans(online: OnlineFetch, listing: Listing, plan: Plan, blobs: Blobs) -> tuple[RootPlan, ...]:
    """Return where the files would be put: plain files of a Hub repo into the hub cache first, if that is possible."""
    context = online.context
    own = RootPlan(root=context.root, files=plan.files, blobs=blobs)
    hub_root = context.hub_root
    if hub_root is None or not online.may_fill_hub_first(hub_root, listing):
        return (own,)
    in_hub = make_plan(context.request_in(hub_root), listing)
    find_conflicts(hub_root, in_hub, context.other_entries(hub_root))
    linked = frozenset(planned.content_id for planned in plan.files if planned.content_id not in blobs)
    return RootPlan(root=hub_root, files=in_hub.files, blobs=blobs), replace(own, linked=linked)


def _preview(
    context: EntryContext,
    status: Status,
    plan: Plan,
    how: How,
    *,
    blobs: Blobs,
    roots: tuple[RootPlan, ...],
    moved_from: str,
) -> Preview:
    missing = {planned.content_id: planned for planned in plan.files if planned.content_id not in blobs}
    return Preview(
        context=context,
        how=how,
        reasons=status.verdict.reasons,
        revision=plan.revision,
        moved_from=moved_from,
        files=plan.files,
        missing=tuple(missing.values()) if how == "fetched" else (),
        path=context.root.path / plan.folder,
        writable=how == "fresh" or disk.is_writable(context.root.records),
        roots=roots,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskNeed:
    """What several entries together take on one disk.

    Attributes:
        demand: at the most: as if it had no reflinks.
        prunable: bytes that `prune` would free there; looked for only if there is not enough room.
    """

    room: Room
    demand: Demand
    prunable: int = 0

    @property
    def fits(self) -> bool:
        """Whether there is room now."""
        return self.room.has(self.demand)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What several entries together would fetch and take: on each disk, and of each budget.

    Attributes:
        files, size: that would be fetched, equal bytes for one root once; in bytes.
    """

    files: int
    size: int
    disks: tuple[DiskNeed, ...]
    budgets: tuple[BudgetNeed, ...]

    @property
    def fit(self) -> bool:
        """Whether there is room for all of them."""
        return all(one.fits for one in self.disks) and all(one.fits for one in self.budgets)


def needs_of(previews: Sequence[Preview]) -> Needs:
    """Return what the runs of these entries fetch and take together. Writes nothing.

    Raises:
        DiskError: a cache cannot be read.
    """
    plans = list(_each_once(previews))
    comings = [(context, plan.root, plan.files, plan.blobs) for context, plan in plans]
    demands: dict[int, tuple[EntryContext, CacheRoot, Demand]] = {}  # by device
    for context, plan in plans:
        root, files = plan.root, [planned for planned in plan.files if planned.content_id not in plan.linked]
        with disk.disk_errors(f"cannot look at {root.path}"):
            demand = largest_demand_of(root, request_key(context.request_in(root)), files, plan.blobs)
            device = disk.device_of(root.path)
        if demand.inodes:
            before = demands[device][2] if device in demands else Demand()
            demands[device] = (context, root, before.plus(demand))
    disks = []
    for context, root, demand in demands.values():
        need = DiskNeed(room=room_of(root.path), demand=demand)
        prunable = 0 if need.fits else prunable_bytes(context, root)
        disks.append(DiskNeed(room=need.room, demand=demand, prunable=prunable))
    limit = next((context.settings.max_bytes for context, _ in plans), None)
    budgets = budget_needs(comings, limit=limit) if limit is not None else []
    missing = {
        (one.roots[0].root.path, planned.content_id): planned.file.size for one in previews for planned in one.missing
    }
    return Needs(files=len(missing), size=sum(missing.values()), disks=tuple(disks), budgets=tuple(budgets))


def _each_once(previews: Iterable[Preview]) -> Iterator[tuple[EntryContext, RootPlan]]:
    """Yield what each entry is to have in each root, without the files that an entry before it brings there."""
    brought: dict[Path, set[ContentId]] = {}
    for one in previews:
        for plan in one.roots:
            known = brought.setdefault(plan.root.path, set())
            files = tuple(planned for planned in plan.files if planned.content_id not in known)
            known.update(planned.content_id for planned in files)
            yield one.context, replace(plan, files=files)
