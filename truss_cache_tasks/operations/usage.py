"""Add up what the cache roots hold, and remove what nothing needs: for `du` and `prune`.

What goes is decided twice: by what is read without a lock, over all roots, and again for each root under its lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import ClaimId, Maker, Project
from truss_cache_tasks.model.usage import EntryUsage, RootUsage, Sizes, choose_units, sizes_of, usage_of
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.dead_claims import DeadRule
from truss_cache_tasks.store.removal.prune import Pruned, prune_root
from truss_cache_tasks.store.removal.removal import Cleaned
from truss_cache_tasks.store.removal.usage import read_usage


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheUsage:
    """What the cache roots of a config, or of this machine, hold.

    Attributes:
        entries: those that were asked for.
        others: what the living claims of other projects hold, by project id, with who made the last of these claims.
        roots: of each root that holds files of ours, or files at all.
        sizes: of all roots; a file with names in several is counted once.
        unreadable: roots that could not be read, a line each.
    """

    entries: tuple[EntryUsage, ...]
    others: Mapping[str, tuple[Maker | None, EntryUsage]]
    roots: tuple[tuple[RootUsage, Sizes], ...]
    sizes: Sizes
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneResult:
    """What a prune removed, or would remove.

    Attributes:
        roots: of every root.
        sizes: of all roots, before.
        left: what could not be read or removed, a line each.
    """

    roots: tuple[Pruned, ...]
    sizes: Sizes
    left: tuple[str, ...]


def dead_rule(projects: Iterable[Project], older_than_s: float | None = None) -> DeadRule:
    """Return the rule by which claims are dead now, on this host.

    Args:
        projects: of the configs that were read.
        older_than_s: claims of other hosts that were last renewed longer ago are dead too; None: none are.
    """
    return DeadRule(tuple(projects), os.uname().nodename, time.time(), older_than_s)


def unclaimed_bytes(roots: Iterable[CacheRoot], rule: DeadRule) -> int:
    """Return how many bytes a prune would remove from these roots, as far as they can be read."""
    usages, _ = _read(roots, rule)
    return sizes_of(usages).unclaimed


def read_cache_usage(
    roots: Iterable[CacheRoot], rule: DeadRule, entries: Mapping[str, frozenset[ClaimId]]
) -> CacheUsage:
    """Return what these roots hold. Takes no lock and writes nothing.

    Args:
        entries: name for people -> the claims of the entry.
    """
    usages, unreadable = _read(roots, rule, foreign=True)
    read = {project.id for project in rule.projects}
    living = {claim for usage in usages for unit in usage.units.values() for claim in unit.claims}
    others: dict[str, set[ClaimId]] = {}
    for claim in living:
        if claim[0] not in read:
            others.setdefault(claim[0], set()).add(claim)
    makers = {project: maker for usage in usages for project, maker in usage.makers.items()}
    return CacheUsage(
        entries=tuple(usage_of(name, claims, usages) for name, claims in entries.items()),
        others={
            project: (makers.get(project), usage_of(project, frozenset(claims), usages))
            for project, claims in sorted(others.items())
        },
        roots=tuple((usage, sizes_of([usage])) for usage in usages if usage.files or usage.foreign_files),
        sizes=sizes_of(usages),
        unreadable=tuple(unreadable),
    )


def prune(roots: Sequence[CacheRoot], rule: DeadRule, *, keep_bytes: int | None = None, dry: bool) -> PruneResult:
    """Remove what no living claim, no running job and no other tool needs.

    Args:
        keep_bytes: remove the least recently used first, and only until our bytes in these roots together are at most
            this many; None: remove everything that nothing needs.
        dry: remove nothing, but return what would be removed.
    """
    done, pruned = Cleaned(run=os.urandom(16).hex(), did="pruned"), []
    usages, left = _read(roots, rule)
    chosen = None if keep_bytes is None else choose_units(usages, keep_bytes)
    readable = {usage.root for usage in usages}
    for root in roots:
        path = str(root.path)
        if path not in readable:
            continue
        try:
            only = None if chosen is None else chosen.get(path, frozenset())
            pruned.append(prune_root(root, rule, done, only=only, dry=dry))
        except DiskError as error:
            left.append(str(error))
    return PruneResult(roots=tuple(pruned), sizes=sizes_of(usages), left=(*left, *done.left))


def _read(roots: Iterable[CacheRoot], rule: DeadRule, *, foreign: bool = False) -> tuple[list[RootUsage], list[str]]:
    """Return what each root holds, and a line about each that could not be read."""
    usages, unreadable = [], []
    for root in roots:
        try:
            with disk_errors(f"cannot look at {root.path}"):
                usages.append(read_usage(root, rule, foreign=foreign))
        except DiskError as error:
            unreadable.append(str(error))
    return usages, unreadable
