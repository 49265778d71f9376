"""The one place that knows the order of the steps: judge, list, plan, take stock, move, commit."""

from __future__ import annotations

from truss_cache_tasks.fetch.fetching import Outcome, fetch
from truss_cache_tasks.fetch.forecasting import Forecast, forecast
from truss_cache_tasks.fetch.moving import Run
from truss_cache_tasks.fetch.target import (
    BEHIND,
    Target,
    current_manifest,
    hub_manifest,
    judge_target,
    make_target,
    project_entries,
)

__all__ = [
    "BEHIND",
    "Forecast",
    "Outcome",
    "Run",
    "Target",
    "current_manifest",
    "fetch",
    "forecast",
    "hub_manifest",
    "judge_target",
    "make_target",
    "project_entries",
]
