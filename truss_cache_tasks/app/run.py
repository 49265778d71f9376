"""Fetching one entry with a display, for a task's action and for the console script alike."""

from __future__ import annotations

from truss_cache_tasks.app import signals
from truss_cache_tasks.app.display import EntryDisplay
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.fetch import Outcome, fetch
from truss_cache_tasks.operations.run import RunContext


def fetch_with_display(target: EntryContext, run_id: str, label: str, *, force: bool) -> Outcome:
    """Make one entry fresh, telling stderr. Raises CacheTaskError, after the display has ended."""
    signals.install()
    display = EntryDisplay(label)
    try:
        return fetch(target, RunContext(id=run_id, reporter=display, cancel=signals.CANCEL), force=force)
    finally:
        display.close()
