"""cache-why and cache-verify, for doit's commands and the console script alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from truss_cache_tasks.fetch import Target, current_manifest, forecast
from truss_cache_tasks.plugin import display, signals
from truss_cache_tasks.plugin.workspace import Workspace
from truss_cache_tasks.store.verify import bad_files

Chosen = Iterable[tuple[str, Workspace, Target]]  # (the name people know it by, ...)


def why(chosen: Chosen, write: Callable[[str], object], *, check: bool) -> int:
    """Write one line an entry: fresh, or which input changed and what a run would fetch.

    Returns:
        1 with `check` if a run would ask a server for any entry, else 0.
    """
    signals.install()
    asking = False
    for label, workspace, target in chosen:
        verdict = workspace.judge(target)
        seen = forecast(target, verdict, hashing=check, stopped=signals.stopped)
        asking = asking or seen.asks
        line = f"{label}: {verdict}"
        if not verdict.fresh:
            line += f" -> {_would(seen.asks, seen.size)}"
        write(line + "\n")
    return int(check and asking)


def _would(asks: bool, size: int | None) -> str:
    if not asks:
        return "a run puts it right and asks no server"
    if size is None:
        return "a run lists it and fetches what is missing"
    return (
        f"a run fetches {display.in_bytes(size)}"
        if size
        else "a run hashes or asks, and fetches no bytes if all is well"
    )


def verify(chosen: Chosen, write: Callable[[str], object]) -> int:
    """Re-hash everything on disk against the manifests; name each bad file. Returns 1 if any is bad, else 0."""
    signals.install()
    bad = False
    for label, _, target in chosen:
        manifest = current_manifest(target)
        if manifest is None:
            write(f"{label}: not fetched\n")
            bad = True
            continue
        lines = bad_files(target.place, manifest, signals.stopped)
        bad = bad or bool(lines)
        unverified = sum(not file.digest for file in manifest.files)
        note = f", {unverified} of them unverified by their store" if unverified else ""
        state = f"{len(lines)} bad of " if lines else "good, "
        write(f"{label}: {state}{display.in_files(len(manifest.files))}, {display.in_bytes(manifest.size)}{note}\n")
        for line in lines:
            write(f"  {line}\n")
    if bad:
        display.say("hint: run `doit cache_weights` (or `truss-cache`): it fetches what is bad or missing.")
    return int(bad)
