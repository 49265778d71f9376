"""Write the reports of `du` and `prune`, for doit's commands and the console script."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.app.output import Write, format_bytes, format_count
from truss_cache_tasks.app.workspace import Workspace, machine_settings
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.model.records import ClaimId, Maker, Project
from truss_cache_tasks.model.usage import DeadClaim, EntryUsage, RootUsage, Sizes
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.roots import (
    forget_gone_projects,
    roots_of_machine,
    roots_of_project,
    with_roots_of_gone_projects,
)
from truss_cache_tasks.operations.usage import PruneResult, dead_rule, prune, read_cache_usage
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.removal.prune import Pruned

FAILED, INCOMPLETE = 1, 3
NOT_RENEWED = "A run with nothing to do writes nothing, so it does not renew a claim."


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What a report is about.

    Attributes:
        projects: of the configs that were read.
        settings: of the environment.
        roots: the cache roots, each once.
        entries: label -> claims, of the entries to tell of.
    """

    projects: tuple[Project, ...]
    settings: Settings
    roots: tuple[CacheRoot, ...]
    entries: Mapping[str, frozenset[ClaimId]]


def scope_of(workspaces: Iterable[Workspace], chosen: Iterable[tuple[str, EntryContext]] = ()) -> Scope:
    """Return the scope of these configs: every root that they may use, and those of configs that are gone.

    Args:
        chosen: (label, entry) of the entries to tell of.
    """
    workspaces = list({id(workspace): workspace for workspace in workspaces}.values())
    found: list[CacheRoot] = []
    for workspace in workspaces:
        workspace.warn()
        settings, cache = workspace.settings, workspace.model_cache
        found += roots_of_project(workspace.contexts, workspace.project, settings, cache)
    settings, _ = machine_settings()
    projects = tuple(one.project for one in workspaces)
    roots = with_roots_of_gone_projects(found, settings, dead_rule(projects))
    entries = {label: frozenset((context.project.id, claim) for claim in context.claims) for label, context in chosen}
    return Scope(projects=projects, settings=settings, roots=_each_once(roots), entries=entries)


def scope_of_machine() -> Scope:
    """Return the scope without a config: the caches that the environment names, and the roots known on this machine."""
    settings, cache = machine_settings()
    return Scope(projects=(), settings=settings, roots=_each_once(roots_of_machine(settings, cache)), entries={})


def _each_once(roots: Iterable[CacheRoot]) -> tuple[CacheRoot, ...]:
    return tuple({os.path.realpath(root.path): root for root in roots}.values())


def write_usage(scope: Scope, write: Write, facts: Facts) -> int:
    """Write what the cache roots hold, by entry, project and root.

    Returns:
        1 if a root could not be read, else 0.
    """
    signals.install()
    found = read_cache_usage(scope.roots, dead_rule(scope.projects), scope.entries)
    facts.put(
        entries=[{"name": entry.name, **_facts_of_entry(entry)} for entry in found.entries],
        projects=[
            {"project": project, **_facts_of_maker(maker), **_facts_of_entry(entry)}
            for project, (maker, entry) in found.others.items()
        ],
        roots=[
            {
                "path": usage.root,
                **_facts_of_sizes(sizes),
                "foreign_files": usage.foreign_files,
                "foreign_size": usage.foreign_size,
                "protected": usage.protected or None,
            }
            for usage, sizes in found.roots
        ],
        total=_facts_of_sizes(found.sizes),
        unreadable=found.unreadable,
    )
    if found.entries or found.others:
        write(f"{'size':>9} {'shared':>9} {'unique':>9}  last used   entry, or project")
    for entry in found.entries:
        write(_format_entry(entry, entry.name))
    for project, (maker, entry) in found.others.items():
        write(_format_entry(entry, project), f"    {_format_maker(maker)}")
    for usage, sizes in found.roots:
        write("", usage.root, *(f"  {line}" for line in _format_root(usage, sizes)))
    sizes = found.sizes
    write("", f"total: {format_bytes(sizes.ours)} of ours, {format_bytes(sizes.unclaimed)} that no living claim lists")
    write("Last used is the last fetch or claim.", NOT_RENEWED)
    if found.unreadable:
        output.notify("could not be read:", *(f"  {line}" for line in found.unreadable))
    return FAILED if found.unreadable else 0


def _facts_of_entry(entry: EntryUsage) -> dict[str, Any]:
    return {"size": entry.size, "unique": entry.unique, "shared": entry.shared, "last_used": entry.last_used}


def _facts_of_maker(maker: Maker | None) -> dict[str, Any]:
    return {"config": maker.config if maker else None, "host": maker.host if maker else None}


def _facts_of_sizes(sizes: Sizes) -> dict[str, int]:
    return {
        "claimed": sizes.claimed,
        "unclaimed": sizes.unclaimed,
        "staged": sizes.staged,
        "partial": sizes.partial,
    }


def _format_entry(entry: EntryUsage, name: str) -> str:
    sizes = (format_bytes(size) for size in (entry.size, entry.shared, entry.unique))
    used = "-" if entry.last_used is None else _format_date(entry.last_used)
    return " ".join(f"{size:>9}" for size in sizes) + f"  {used:<10}  {name}"


def _format_root(usage: RootUsage, sizes: Sizes) -> list[str]:
    parts = [
        f"{format_bytes(size)} {what}"
        for size, what in (
            (sizes.claimed, "claimed"),
            (sizes.unclaimed, "unclaimed"),
            (sizes.staged, "staged"),
            (sizes.partial, "partial"),
        )
        if size
    ]
    lines = [", ".join(parts)] if parts else []
    if usage.foreign_files:
        count = format_count(usage.foreign_files, "file")
        lines.append(f"{format_bytes(usage.foreign_size)} in {count} of the user or other tools")
    return lines + ([f"nothing is taken for unclaimed: {usage.protected}"] if usage.protected else [])


def _format_maker(maker: Maker | None) -> str:
    return "unknown" if maker is None else f"{maker.config} on {maker.host}"


def _format_date(when: float) -> str:
    """Return a time as a date, UTC.

    >>> _format_date(1795529779.1)
    '2026-11-24'
    """
    try:
        return time.strftime("%Y-%m-%d", time.gmtime(when))
    except (OverflowError, ValueError, OSError):  # a damaged record
        return "unknown"


def write_prune(
    scope: Scope, write: Write, facts: Facts, *, older_than_s: float | None, keep_bytes: int | None, yes: bool
) -> int:
    """Prune the cache roots, or with `yes` false only write what that would remove.

    Args:
        older_than_s: claims of other hosts that were not renewed for so long are dropped; None: none are.
        keep_bytes: see `operations.usage.prune`.

    Returns:
        3 if something could not be read or removed, else 0.
    """
    signals.install()
    rule = dead_rule(scope.projects, older_than_s)
    result = prune(scope.roots, rule, keep_bytes=keep_bytes, dry=not yes)
    if yes:
        forget_gone_projects(scope.settings, rule)
    for line in _format_dropped(result, "dropped" if yes else "would drop"):
        write(line)
    verb = "removed" if yes else "would remove"
    for root in result.roots:
        if root.files:
            write(root.root, f"  {verb} {format_count(root.files, 'path')}, {root.size:,} bytes")
        elif root.protected:
            write(root.root, f"  nothing is removed: {root.protected}")
    files, size = sum(root.files for root in result.roots), sum(root.size for root in result.roots)
    facts.put(
        dry=not yes,
        files=files,
        size=size,
        total=_facts_of_sizes(result.sizes),
        roots=[_facts_of_pruned(root) for root in result.roots],
        left=result.left,
    )
    left = f"of {result.sizes.ours:,} of ours in {format_count(len(result.roots), 'cache root')}"
    write(f"{verb} {format_count(files, 'path')}, {size:,} bytes {left}" if files else f"nothing to remove {left}")
    if result.left:
        output.notify("the prune is incomplete:", *(f"  {line}" for line in result.left))
        output.notify("hint: Remove the cause, then prune again.")
    elif not yes and (files or any(root.dropped for root in result.roots)):
        output.notify("hint: Nothing was removed. Add --yes to remove it.")
    return INCOMPLETE if result.left else 0


def _facts_of_pruned(root: Pruned) -> dict[str, Any]:
    dropped = [
        {
            "project": dead.claim[0],
            "claim": dead.claim[1],
            **_facts_of_maker(dead.maker),
            "last_renewed": dead.maker.when,
            "why": dead.why,
        }
        for dead in root.dropped
    ]
    return {
        "path": root.root,
        "files": root.files,
        "size": root.size,
        "protected": root.protected or None,
        "dropped": dropped,
    }


def _format_dropped(result: PruneResult, verb: str) -> list[str]:
    """Return the lines about the claims that are dropped: for each project, config and host."""
    found: dict[tuple[str, str, str, str], list[DeadClaim]] = {}
    for root in result.roots:
        for dead in root.dropped:
            found.setdefault((dead.claim[0], dead.maker.config, dead.maker.host, dead.why), []).append(dead)
    lines = []
    for (project, config, host, why), claims in sorted(found.items()):
        names = ", ".join(sorted({dead.claim[1] for dead in claims}))
        last = _format_date(max(dead.maker.when for dead in claims))
        lines.append(f"{verb} claims of project {project}: {why}")
        lines.append(f"  {config} on {host}, last renewed {last}: {names}")
    if any(why.startswith("of another host") for _, _, _, why in found):
        lines.append(NOT_RENEWED)
    return lines
