"""The exit statuses of `truss-cache`, and the error that ends a whole command."""

from __future__ import annotations

from truss_cache_tasks.app import output
from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.errors import CacheTaskError, ConfigError

DONE, FAILED, INTERNAL, MISUSED = 0, 1, 2, 3


def report_error(error: CacheTaskError, facts: Facts) -> int:
    """Write the error of a whole command; return the exit status."""
    output.notify(*output.format_error(error))
    facts.error(error)
    if not isinstance(error, ConfigError):
        return FAILED
    output.annotate("error", str(error))
    return MISUSED
