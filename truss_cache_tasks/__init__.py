"""Truss `model_cache` entries as content-addressed doit tasks. Importing this package reads and opens nothing.

For a dodo.py: `cache_tasks`, `task_cache_weights`. For Python programs: `load_config` with `Config` and `Entry`,
`fetch` with `Result` and `EntryResult`, and the modules `errors` and `events`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truss_cache_tasks import errors, events
    from truss_cache_tasks.app.api import EntryResult, Result, fetch
    from truss_cache_tasks.config.entries import Config, Entry
    from truss_cache_tasks.config.loader import load_config
    from truss_cache_tasks.plugin.tasks import cache_tasks, task_cache_weights
    from truss_cache_tasks.version import __version__

__all__ = [
    "Config",
    "Entry",
    "EntryResult",
    "Result",
    "__version__",
    "cache_tasks",
    "errors",
    "events",
    "fetch",
    "load_config",
    "task_cache_weights",
]

_MODULES = {  # of each public name; None for what is a module itself
    "Config": "config.entries",
    "Entry": "config.entries",
    "EntryResult": "app.api",
    "Result": "app.api",
    "__version__": "version",
    "cache_tasks": "plugin.tasks",
    "errors": None,
    "events": None,
    "fetch": "app.api",
    "load_config": "config.loader",
    "task_cache_weights": "plugin.tasks",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Raises:
        MissingPackage: it needs a package that is not installed, such as doit.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = _MODULES[name]
    if module is None:
        return import_module(f"{__name__}.{name}")
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as exc:
        from truss_cache_tasks.errors import missing_package

        if (missing := missing_package(exc)) is None:
            raise
        missing.add_note(f"hint: {missing.hint}")  # Python prints it below the message
        raise missing from None


def __dir__() -> list[str]:
    return sorted(__all__)
