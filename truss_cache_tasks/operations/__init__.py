"""The one place that knows the order of the steps: judge, list, plan, take stock, move, commit."""

from __future__ import annotations

from truss_cache_tasks.operations.context import (
    BEHIND,
    EntryContext,
    current_manifest,
    hub_manifest,
    judge_target,
    make_target,
    project_entries,
)
from truss_cache_tasks.operations.download import Run
from truss_cache_tasks.operations.fetch import Outcome, fetch
from truss_cache_tasks.operations.forecast import Forecast, forecast

__all__ = [
    "BEHIND",
    "EntryContext",
    "Forecast",
    "Outcome",
    "Run",
    "current_manifest",
    "fetch",
    "forecast",
    "hub_manifest",
    "judge_target",
    "make_target",
    "project_entries",
]
