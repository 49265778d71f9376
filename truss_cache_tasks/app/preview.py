"""Write what a run would fetch, for `plan` and `run --dry-run` of both front ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.app.output import Write, format_bytes, format_count
from truss_cache_tasks.app.reports import wrapped
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.errors import CacheTaskError, Stopped
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.fetch.budget import RAISE_LIMIT, BudgetNeed
from truss_cache_tasks.operations.preview import DiskNeed, Needs, Preview, needs_of, preview
from truss_cache_tasks.store.files.disk import FREE_INODES, FREE_SPACE

Chosen = tuple[str, Workspace, EntryContext]  # of an entry: its label in the lines, workspace, context

_MOST_FILES = 10  # that are named, the largest


def write_plan(
    chosen: Iterable[Chosen],
    write: Write,
    facts: Facts,
    *,
    force: bool,
    quiet: bool = False,
) -> int:
    """Write for each entry what a run would fetch, why, and whereto; and whether the disks have room for all of it.

    The sources are listed where a run would list them. Nothing is written to a disk.

    Args:
        force: of a run that resolves and hashes everything again.
        quiet: write only failures.

    Returns:
        1 if a run would fail, as far as that is known before the first byte: an entry, or for want of room; else 0.

    Raises:
        ConfigError: a run would fetch nothing because of the lock file.
    """
    signals.install()
    chosen = list(chosen)
    for _, workspace, context in chosen:
        workspace.require_lock()
        workspace.require_server(context)
    write = _ignore if quiet else write
    previews = _write_previews(chosen, write, facts, force=force, quiet=quiet)
    needs = needs_of(previews)
    facts.put(**_facts_of_needs(needs))
    for disk in needs.disks:
        _write_need(write, _format_disk(disk), fits=disk.fits)
    for budget in needs.budgets:
        _write_need(write, _format_budget(budget), fits=budget.fits)
    if len(previews) > 1:
        write(f"{format_count(len(previews), 'entry', 'entries')}: {_format_total(previews, needs)}")
    failed = len(chosen) - len(previews)
    if failed and len(chosen) > 1:  # the names are in the lines of the errors
        output.notify(f"{format_count(failed, 'entry', 'entries')} of {len(chosen)} failed")
    for hint in _hints(needs):
        output.notify(f"hint: {hint}")
    return int(bool(failed) or not needs.fit)


def _write_previews(chosen: Sequence[Chosen], write: Write, facts: Facts, *, force: bool, quiet: bool) -> list[Preview]:
    """Preview each entry, and write its lines or its error; return the previews of those that did not fail."""
    previews: list[Preview] = []
    commits: dict[tuple[object, ...], str] = {}  # what a revision of a source stands for: asked once, as in a run
    for label, workspace, context in chosen:
        request = context.entry.request
        about = (workspace.path, request.source, request.revision)
        try:
            with workspace.showing_run(context, quiet=quiet) as run:
                found = preview(context, run, force=force, commit=commits.get(about, ""))
        except Stopped:  # the handler of the signal wrote the message
            raise
        except CacheTaskError as error:
            output.notify(*output.format_error(error, label))
            facts.error(error, label)
            facts.entry(label, context, status="failed")
            continue
        if found.how == "fetched":
            commits.setdefault(about, found.revision)
        previews.append(found)
        facts.entry(label, context, **_facts_of_preview(found))
        write(f"{label}: {_format_work(found)}")
        for line in _about(found):
            write(*wrapped(line))
        write(*_places(found))  # not wrapped: a path is to be copied
    return previews


def _facts_of_preview(found: Preview) -> dict[str, Any]:
    return {
        "status": found.how,
        "reasons": found.reasons,
        "path": found.path,
        "revision": found.revision,
        "moved_from": found.moved_from or None,
        "files": len(found.files),
        "size": found.size,
        "missing_size": found.missing_size,
        "missing": [{"path": planned.file.path, "size": planned.file.size} for planned in found.missing],
        "writable": found.writable,
    }


def _facts_of_needs(needs: Needs) -> dict[str, Any]:
    return {
        "files": needs.files,
        "size": needs.size,
        "disks": [
            {"mount": one.room.mount, "needed": one.demand.needed, "free": one.room.size, "fits": one.fits}
            for one in needs.disks
        ],
        "budgets": [
            {
                "path": one.path,
                "limit": one.limit,
                "coming": one.coming,
                "there": one.there,
                "evicted": one.evicted,
                "fits": one.fits,
            }
            for one in needs.budgets
        ],
    }


def _ignore(*_lines: str) -> None:
    """Write nothing."""


def _format_work(found: Preview) -> str:
    whole = f"{format_count(len(found.files), 'file')}, {format_bytes(found.size)}"
    match found.how:
        case "fresh":
            return f"fresh: {whole}"
        case "claimed":
            return f"would be claimed, asks no server: {whole}, whole already"
        case "repaired":
            return f"would be put right from this disk, asks no server: {whole}"
        case "fetched":
            return _format_fetch(len(found.missing), found.missing_size, len(found.files), found.size)
        case _:
            assert_never(found.how)


def _format_fetch(missing: int, missing_size: int, files: int, size: int) -> str:
    here = f"{format_count(files - missing, 'file')}, {format_bytes(size - missing_size)} here already"
    coming = f"would fetch {format_count(missing, 'file')}, {format_bytes(missing_size)}" if missing else ""
    return "; ".join(filter(None, (coming or "would fetch nothing", here if files > missing else "")))


def _about(found: Preview) -> list[str]:
    revision = found.context.entry.request.revision
    lines = list(found.reasons)
    if found.moved_from:
        lines.append(f"{revision} would move: {found.moved_from[:12]} -> {found.revision[:12]}")
    elif found.revision:
        lines.append(f"{revision} is {found.revision}" if revision != found.revision else f"revision {revision}")
    return lines


def _places(found: Preview) -> list[str]:
    """Return the lines about the folder, and the largest files that would come there."""
    lines = [f"  in {found.path}" if found.how == "fresh" else f"  into {found.path}"]
    if len(found.roots) > 1:
        lines.append(f"    as links of files in {found.roots[0].root.path}")
    if not found.writable:
        lines.append(f"  a run of this user fails: the cache folder {found.context.root.path} is not writable")
    largest = sorted(found.missing, key=lambda planned: (-planned.file.size, planned.file.path))
    shown, rest = largest[:_MOST_FILES], largest[_MOST_FILES:]
    sizes = [format_bytes(planned.file.size) for planned in shown]
    lines += [f"  {size:>10}  {planned.file.path}" for size, planned in zip(sizes, shown, strict=True)]
    if rest:
        size = format_bytes(sum(planned.file.size for planned in rest))
        lines.append(f"  {size:>10}  in {format_count(len(rest), 'more file')}")
    return lines


def _format_disk(need: DiskNeed) -> str:
    demand, room = need.demand, need.room
    needed, free = (format_bytes(demand.needed), format_bytes(room.size))
    if not need.fits:  # rounded, they might be equal
        needed, free = f"{demand.needed:,} bytes", f"{room.size:,}"
    line = f"disk at {room.mount}: needs {needed}, {free} free"
    if room.inodes is not None and demand.inodes > room.inodes:
        line += f"; needs {demand.inodes:,} inodes, {room.inodes:,} free"
    return line


def _format_budget(need: BudgetNeed) -> str:
    line = (
        f"budget of {need.path}: {need.coming:,} bytes to come, {need.there:,} there, of which {need.kept:,} are "
        f"claimed or in use; TRUSS_CACHE_MAX_BYTES is {need.limit:,}"
    )
    return f"{line}; would evict {need.evicted:,}" if need.evicted else line


def _write_need(write: Write, line: str, *, fits: bool) -> None:
    if fits:
        write(f"{line}: enough")
    else:
        output.notify(f"{line}: not enough")


def _format_total(previews: Sequence[Preview], needs: Needs) -> str:
    files, size = sum(len(one.files) for one in previews), sum(one.size for one in previews)
    line = _format_fetch(needs.files, needs.size, files, size)
    shared = sum(len(one.missing) for one in previews) - needs.files
    return f"{line}, or fetched for another entry" if shared else line


def _hints(needs: Needs) -> list[str]:
    hints = []
    for disk in needs.disks:
        if not disk.fits:
            free = FREE_SPACE if disk.demand.needed > disk.room.size else FREE_INODES
            prune = f"Run `truss-cache prune --yes`, which frees {disk.prunable:,} bytes. Or: " if disk.prunable else ""
            hints.append(prune + free)
    if not all(budget.fits for budget in needs.budgets):
        hints.append(RAISE_LIMIT)
    return hints
