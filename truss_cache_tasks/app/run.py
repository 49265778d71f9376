"""Fetching one entry with a display, for a task's action and for the console script alike."""

from __future__ import annotations

from truss_cache_tasks.app import signals
from truss_cache_tasks.app.display import EntryDisplay
from truss_cache_tasks.model.status import Need, Verdict
from truss_cache_tasks.operations import EntryContext, Outcome, Run, fetch, judge_target


def fetch_with_display(target: EntryContext, run_id: str, label: str, *, force: bool) -> Outcome:
    """Make one entry fresh, telling stderr. Raises CacheTaskError, after the display has ended."""
    signals.install()
    shown = EntryDisplay(label)
    run = Run(run_id, shown.say, shown.report, signals.stopped)
    shown.start(*("checking", "forced: everything is hashed again") if force else _why(judge_target(target)))
    outcome: Outcome | None = None
    try:
        outcome = fetch(target, run, force=force)
    finally:
        shown.end(outcome)
    return outcome


def _why(verdict: Verdict) -> tuple[str, str]:
    return ("fetching" if verdict.need is Need.FETCH else "checking"), str(verdict)
