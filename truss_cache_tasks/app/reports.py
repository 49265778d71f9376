"""cache-why and cache-verify, for doit's commands and the console script alike."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterable

from truss_cache_tasks.app import display, signals
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.operations.context import EntryContext, current_manifest, hub_manifest
from truss_cache_tasks.operations.forecast import Forecast
from truss_cache_tasks.store.local_blobs import find_bad_files

Chosen = Iterable[tuple[str, Workspace, EntryContext]]  # (the name people know it by, ...)
Write = Callable[..., object]  # of lines, as display.write


def why(chosen: Chosen, write: Write, *, check: bool) -> int:
    """Write of each entry that it is fresh; or that it is stale, a line for each reason, and what a run would do.

    Returns:
        1 with `check` if a run would ask a server for any entry, else 0.
    """
    signals.install()
    asking = False
    for label, workspace, target in chosen:
        verdict = workspace.judge(target)
        if verdict.fresh:
            write(f"{label}: fresh")
            continue
        seen = workspace.forecast(target, verdict, hashing=check, stopped=signals.stopped)
        asking = asking or seen.asks
        write(f"{label}: stale")
        for line in (*verdict.reasons, f"-> {_would(seen)}"):
            write(*_wrapped(line))
    return int(check and asking)


def _would(seen: Forecast) -> str:
    if not seen.asks:
        return "a run puts it right and asks no server"
    if seen.size is None:
        return "a run lists it and fetches what is missing"
    if not seen.size:
        return "a run hashes or asks, and fetches no bytes if all is well"
    return f"a run fetches {display.in_bytes(seen.size)}"


def _wrapped(line: str) -> list[str]:
    """Indent a line; wrapped on a terminal alone, so that a pipe gets each reason on one line."""
    width = max(os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else sys.maxsize, 40)
    wrapper = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return wrapper.wrap(display.escaped(line))  # before it is wrapped, which makes a space of a newline


def verify(chosen: Chosen, write: Write) -> int:
    """Re-hash everything on disk against the manifests; name each bad file. Returns 1 if any is bad, else 0."""
    signals.install()
    bad = False
    for label, workspace, target in chosen:
        workspace.warn()
        manifest = current_manifest(target)
        if manifest is None:
            write(f"{label}: not fetched")
            bad = True
            continue
        lines = find_bad_files(target.place, manifest, signals.stopped)
        if target.behind is not None and (behind := hub_manifest(target)) is not None:
            hub = os.path.basename(target.behind.path)
            lines += [f"{hub}/{line}" for line in find_bad_files(target.behind, behind, signals.stopped)]
        bad = bad or bool(lines)
        unverified = sum(not file.digest for file in manifest.files)
        note = f", {unverified:,} unverified by the store" if unverified else ""
        state = f"{len(lines):,} bad of " if lines else "good, "
        write(f"{label}: {state}{display.in_files(len(manifest.files))}, {display.in_bytes(manifest.size)}{note}")
        for line in lines:
            write(*_wrapped(line))
    if bad:
        display.say(
            "hint: Run `doit run -a cache_weights` (or `truss-cache -a`), which fetches what is bad or missing."
        )
    return int(bad)
