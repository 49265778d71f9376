"""Truss `model_cache` entries as content-addressed doit tasks. Importing this package reads and opens nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truss_cache_tasks.config.entries import Config, Entry
    from truss_cache_tasks.config.reading import load_config
    from truss_cache_tasks.plugin.tasks import cache_tasks, task_cache_weights

__all__ = ["Config", "Entry", "cache_tasks", "load_config", "task_cache_weights"]

_HOMES = {
    "Config": "config.entries",
    "Entry": "config.entries",
    "cache_tasks": "plugin.tasks",
    "load_config": "config.reading",
    "task_cache_weights": "plugin.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
