"""Make room for a fetch within TRUSS_CACHE_MAX_BYTES: evict what nothing needs, or refuse the fetch.

There is one budget for a hub cache with all its repos, one for the model cache, and one for each mount. It counts the
files that we made, with partials, and not what the user or huggingface_hub put there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.events import Evicted
from truss_cache_tasks.model.keys import ContentId, request_key
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.model.usage import RootUsage, choose_units, sizes_of
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.roots import budget_roots
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.operations.usage import dead_rule
from truss_cache_tasks.store.blobs import partials
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.locks import locked
from truss_cache_tasks.store.layouts.blob import LocalBlob
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.dead_claims import DeadRule
from truss_cache_tasks.store.removal.prune import prune_root
from truss_cache_tasks.store.removal.removal import Cleaned
from truss_cache_tasks.store.removal.usage import coming_bytes, read_usage

RAISE_LIMIT = "Raise TRUSS_CACHE_MAX_BYTES, or clean what is not needed: `truss-cache du` shows who holds it."  # a hint
_ROUNDS = 10  # of evicting, while other processes claim what was to go


@contextlib.contextmanager
def room_for(
    context: EntryContext,
    run: RunContext,
    root: CacheRoot,
    files: Sequence[PlannedFile],
    blobs: Mapping[ContentId, LocalBlob],
    *,
    limit: int,
) -> Iterator[None]:
    """Make room for `files` in the budget of `root`, and hold its lock for the block, which notes what is to come.

    Args:
        blobs: what is on this disk already, by content id.
        limit: TRUSS_CACHE_MAX_BYTES.

    Raises:
        DiskError: the files do not fit, even without what nothing needs. Nothing was evicted.
    """
    with locked(root.layout.budget_lock, run.cancel, run.waits_for_root):
        with disk_errors(f"cannot make room in {root.path}"):
            _make_room(context, run, root, files, blobs, limit=limit)
        yield


def _make_room(
    context: EntryContext,
    run: RunContext,
    root: CacheRoot,
    files: Sequence[PlannedFile],
    blobs: Mapping[ContentId, LocalBlob],
    *,
    limit: int,
) -> None:
    rule, roots = dead_rule([context.project]), budget_roots(root)
    coming = coming_into(root, files, blobs)
    if coming <= 0:
        return
    needed = _needed(root, files, blobs)
    key = request_key(context.request_in(root))
    others = sum(coming_bytes(one, {key} if one is root else ()) for one in roots)
    for _ in range(_ROUNDS):
        usages = [read_usage(one, rule, needed=needed if one is root else ()) for one in roots]
        sizes = sizes_of(usages)
        allowed = limit - coming - others
        if sizes.ours <= allowed:
            return
        if sizes.ours - sizes.unclaimed > allowed:
            raise _does_not_fit(root, limit, usages, coming, others)
        _evict(roots, rule, needed, choose_units(usages, allowed), run)
    raise _does_not_fit(root, limit, usages, coming, others)


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetNeed:
    """What a budget has, and what is to come into it; sizes in bytes of ours.

    Attributes:
        path: the hub cache, the model cache, or the mount.
        limit: TRUSS_CACHE_MAX_BYTES.
        there, kept: what is there; of this, what is claimed or in use.
        coming: what is to come, with what fetches that run now have noted.
    """

    path: Path
    limit: int
    there: int
    kept: int
    coming: int

    @property
    def fits(self) -> bool:
        """Whether there is room, if need be by evicting what is not kept."""
        return self.kept + self.coming <= self.limit

    @property
    def evicted(self) -> int:
        """How many bytes have to be evicted."""
        return max(0, self.there + self.coming - self.limit) if self.fits else 0


Coming = tuple[EntryContext, CacheRoot, Sequence[PlannedFile], Mapping[ContentId, LocalBlob]]


def budget_needs(comings: Iterable[Coming], *, limit: int) -> list[BudgetNeed]:
    """Return what several entries together need of each budget, of those that get any bytes. Writes nothing.

    Args:
        comings: entry, root, files that it is to have there, and what is on this machine already.
        limit: TRUSS_CACHE_MAX_BYTES.

    Raises:
        DiskError: a root cannot be read.
    """
    groups: dict[Path, list[Coming]] = {}
    for one in comings:
        groups.setdefault(one[1].layout.hub or one[1].path, []).append(one)
    found = []
    for path, group in groups.items():
        coming = sum(coming_into(root, files, blobs) for _, root, files, blobs in group)
        if coming <= 0:
            continue
        needed: dict[Path, set[str]] = {}
        for _, root, files, blobs in group:
            needed.setdefault(root.path, set()).update(_needed(root, files, blobs))
        keys = {(root.path, request_key(context.request_in(root))) for context, root, _, _ in group}
        rule = dead_rule([context.project for context, *_ in group])
        with disk_errors(f"cannot look at {path}"):
            roots = {root.path: root for _, one, _, _ in group for root in budget_roots(one)}.values()
            sizes = sizes_of([read_usage(root, rule, needed=needed.get(root.path, ())) for root in roots])
            others = sum(coming_bytes(root, {key for at, key in keys if at == root.path}) for root in roots)
        kept = sizes.ours - sizes.unclaimed
        found.append(BudgetNeed(path=path, limit=limit, there=sizes.ours, kept=kept, coming=coming + others))
    return found


def _needed(root: CacheRoot, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]) -> set[str]:
    return {root.layout.blob_id(content_id) for content_id in (*blobs, *(planned.content_id for planned in files))}


def coming_into(root: CacheRoot, files: Sequence[PlannedFile], blobs: Mapping[ContentId, LocalBlob]) -> int:
    """Return the bytes that the files add to the root: those that are to be fetched, and those that lie elsewhere."""
    coming = {
        planned.content_id: planned
        for planned in files
        if planned.content_id not in blobs or not _is_in(root, planned, blobs[planned.content_id])
    }
    missing = [planned for content_id, planned in coming.items() if content_id not in blobs]
    there = partials.bytes_of_partials(root)
    left = sum(min(there[root.layout.blob_id(planned.content_id)], planned.file.size) for planned in missing)
    return sum(planned.file.size for planned in coming.values()) - left


def _is_in(root: CacheRoot, planned: PlannedFile, blob: LocalBlob) -> bool:
    """Whether `root` has these bytes itself; those that another root shows may be there too, under the blob's name."""
    if blob.tree.path in (root.path, root.layout.hub):
        return True
    stat = root.tree.lstat(root.layout.blob_path(planned.content_id, blob.xxh3, blob.digest))
    return stat is not None and stat.st_size == blob.size


def _evict(
    roots: Sequence[CacheRoot],
    rule: DeadRule,
    needed: Collection[str],
    chosen: Mapping[str, Collection[str]],
    run: RunContext,
) -> None:
    for one in roots:
        only = chosen.get(str(one.path))
        if only is None:
            continue
        kept, done = needed if one is roots[0] else (), Cleaned(run=run.id, did="evicted")
        pruned = prune_root(one, rule, done, only=only, needed=kept, cancel=run.cancel, dry=False)
        if pruned.files:
            run.report(Evicted(path=pruned.root, files=pruned.files, size=pruned.size))


def _does_not_fit(root: CacheRoot, limit: int, usages: Sequence[RootUsage], coming: int, others: int) -> DiskError:
    sizes = sizes_of(usages)
    of_others = f", {others:,} of other fetches that run now" if others else ""
    return DiskError(
        f"the budget of {root.layout.hub or root.path} (TRUSS_CACHE_MAX_BYTES): found {sizes.ours:,} bytes of ours, of "
        f"which {sizes.ours - sizes.unclaimed:,} are claimed or in use, and {coming:,} to come{of_others}, expected at "
        f"most {limit:,}",
        hint=RAISE_LIMIT,
    )
