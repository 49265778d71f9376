"""Write the reports of `why`, `verify` and `clean`, for doit's commands and the console script."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.facts import Facts, facts_of_manifest
from truss_cache_tasks.app.output import Write, format_bytes, format_count
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.model.records import LOCK_NAME
from truss_cache_tasks.model.status import Need, Status
from truss_cache_tasks.operations.context import EntryContext

if TYPE_CHECKING:
    from truss_cache_tasks.app.lockfile import Remote
    from truss_cache_tasks.operations.forecast import Forecast
    from truss_cache_tasks.operations.verify import Verification

Chosen = Iterable[tuple[str, Workspace, EntryContext]]  # (the label in the lines, ...)


def why(chosen: Chosen, write: Write, facts: Facts, *, check: bool, remote: bool = False) -> int:
    """Write whether each entry is fresh, and its commit; for a stale one also each reason, and what a run would do.

    Args:
        remote: ask the stores what has moved since each entry was locked, or fetched.

    Returns:
        1 with `check` if a run would have to read the store of any entry, or with `remote` too if something moved;
        1 with `remote` if a store could not be asked; else 0.

    Raises:
        ConfigError: the lock file cannot be used; with `check` also if a run would fetch nothing because of it.
    """
    signals.install()
    reads_store = False
    asked: Remote | None = None
    if remote:
        from truss_cache_tasks.app.lockfile import Remote  # not needed without --remote

        asked = Remote(facts)
    for label, workspace, context in chosen:
        facts.config(workspace)
        if check:
            workspace.require_lock()
        workspace.require_readable_lock()
        status = workspace.read_status(context)
        write(f"{label}: {'fresh' if status.verdict.fresh else 'stale'}")
        lines = list(status.verdict.reasons)
        forecast = None
        if not status.verdict.fresh:
            forecast = workspace.forecast(context, status, hashing=check, cancel=signals.CANCEL)
            reads_store = reads_store or forecast.reads_store
            lines.append(f"-> {_format_forecast(forecast)}")
        facts.entry(
            label,
            context,
            fresh=status.verdict.fresh,
            reasons=status.verdict.reasons,
            reads_store=forecast.reads_store if forecast else False,
            fetch_size=forecast.size if forecast else 0,
            commit=_commit(context, status) or None,
        )
        lines += _pinned(context, status)
        for line in lines:
            write(*wrapped(line))
        if asked is not None and (line := _format_remote(asked, workspace, context, label, status)):
            write(*wrapped(line))
    if asked is None:
        return int(check and reads_store)
    for hint in sorted(asked.hints):
        output.notify(f"hint: {hint}")
    return int(asked.has_failed or (check and (reads_store or asked.has_moved)))


def _commit(context: EntryContext, status: Status) -> str:
    """Return the commit that a run would take; "" where there is none, or none is known."""
    locked, manifest, pin = context.locked, status.manifest, status.evidence.pin
    if locked is not None and locked.commit:
        return locked.commit
    return pin[0] if pin is not None else manifest.revision if manifest is not None else ""


def _pinned(context: EntryContext, status: Status) -> list[str]:
    """Return the line about the commit that a run would take; none where there is no commit, or none is known."""
    commit, revision = _commit(context, status), context.entry.request.revision
    if not commit:
        return []
    if context.locked is not None and context.locked.commit:
        return [f"{revision}: {LOCK_NAME} names {commit}"]
    return [f"config.yaml names {commit}" if commit == revision else f"{revision}: pinned at {commit}"]


def _format_remote(asked: Remote, workspace: Workspace, context: EntryContext, label: str, status: Status) -> str:
    from truss_cache_tasks.operations.lockfile import as_locked

    if context.locked is not None and context.locked.is_complete:
        before = context.locked
    elif status.manifest is not None:
        before = as_locked(context, status.manifest)
    else:
        return "in the store: not asked, as nothing of it is locked or fetched"
    line = asked.ask(workspace, context, label, before)
    return f"in the store: {line}" if line else ""


def _format_forecast(forecast: Forecast) -> str:
    if not forecast.reads_store:
        return "a run puts it right and asks no server"
    if forecast.size is None:
        return "a run lists it and fetches what is missing"
    if not forecast.size:
        return "a run hashes or asks, and fetches no bytes if all is well"
    return f"a run fetches {format_bytes(forecast.size)}"


def write_paths(chosen: Chosen, write: Write, facts: Facts) -> int:
    """Write the folder to open of each entry that is whole, a line each; to stderr why the others are not.

    Returns:
        1 if an entry is not whole, else 0.

    Raises:
        ConfigError: the lock file cannot be used.
    """
    missing = False
    for label, workspace, context in chosen:
        workspace.require_readable_lock()
        status = workspace.read_status(context)
        if status.manifest is not None and status.verdict.need <= Need.CLAIM:
            path = context.root.path / status.manifest.folder
            facts.entry(label, context, path=path)
            write(str(path))
        else:
            facts.entry(label, context, path=None)
            missing = True
            output.notify(f"{label}: {status.verdict}")
    if missing:
        output.notify("hint: Fetch it: `truss-cache run` or `doit cache_weights`.")
    return int(missing)


def wrapped(line: str) -> list[str]:
    """Return a line, indented; wrapped only on a terminal, so that a pipe gets each reason on one line."""
    width = max(os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else sys.maxsize, 40)
    wrapper = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return wrapper.wrap(output.escaped(line))  # escaped first, since wrapping turns a newline into a space


def verify(
    chosen: Chosen, write: Write, facts: Facts, *, quick: bool, quiet: bool = False, verbose: bool = False
) -> int:
    """Compare all files with their manifests; write whether each entry is good, and each bad file and record.

    Args:
        quick: compare the sizes alone, and look at the headers of safetensors files.
        quiet: write nothing about an entry that is good.
        verbose: write a line for each file that is good.

    Returns:
        1 if any file or record is bad or any entry was not fetched, else 0.
    """
    from truss_cache_tasks.app.display.display import shared_display  # imported here: `why` shows no progress
    from truss_cache_tasks.operations.verify import verify as verify_entries

    signals.install()
    chosen = list(chosen)
    for _, workspace, _ in chosen if not quiet else ():
        workspace.warn()
    label = chosen[0][0] if len(chosen) == 1 else format_count(len(chosen), "entry", "entries")
    with shared_display(quiet=quiet).showing(label) as reporter:
        found = verify_entries([context for _, _, context in chosen], signals.CANCEL, reporter, quick=quick)
    for (label, workspace, context), one in zip(chosen, found, strict=True):
        facts.config(workspace)
        facts.entry(label, context, **_facts_of_verification(context, one))
        if one.is_good and quiet:
            continue
        write(f"{label}: {_format_verification(one, quick=quick)}")
        for line in (*one.bad_records, *one.bad_files):
            write(*wrapped(line))
        if verbose and one.manifest is not None and not one.bad_files:
            for file in one.manifest.files:
                write(f"  {file.path}: {format_bytes(file.size)}, {file.digest or 'unverified by the store'}")
    is_bad = not all(one.is_good for one in found)
    if is_bad:
        output.notify("hint: Run `doit run -a cache_weights` or `truss-cache -a`: it fetches what is bad or missing.")
    return int(is_bad)


def _facts_of_verification(context: EntryContext, found: Verification) -> dict[str, Any]:
    there = facts_of_manifest(context, found.manifest) if found.manifest is not None else {}
    return {
        "good": found.is_good,
        "fetched": found.manifest is not None,
        **there,
        "bad_files": found.bad_files,
        "bad_records": found.bad_records,
    }


def _format_verification(found: Verification, *, quick: bool) -> str:
    if found.manifest is None:
        return "its records cannot be used" if found.bad_records else "not fetched"
    files = found.manifest.files
    unverified = sum(not file.digest for file in files)
    note = f", {unverified:,} unverified by the store" if unverified else ""
    good = "bad records, the files are good: " if found.bad_records else "good by size, " if quick else "good, "
    state = f"{len(found.bad_files):,} bad of " if found.bad_files else good
    return f"{state}{format_count(len(files), 'file')}, {format_bytes(found.manifest.size)}{note}"


def format_cleaned(files: int, size: int, kept: Iterable[str], *, dry: bool) -> list[str]:
    """Return the lines about what a clean removed, or with `dry` would remove, and what it kept and why."""
    verb = "would remove" if dry else "removed"
    first = f"{verb} {format_count(files, 'path')}, {size:,} bytes" if files else "nothing to remove"
    return [first, *(f"kept {line}" for line in kept)]


def format_left(left: Iterable[str]) -> list[str]:
    """Return the lines about what a clean could not remove, and the hint."""
    lines = (f"  {line}" for line in left)
    return ["the clean is incomplete, could not remove:", *lines, "hint: Remove the cause, then clean again."]
