"""Open the source of an entry, with its credential and the network of a run."""

from __future__ import annotations

from dataclasses import replace

from truss_cache_tasks.config.credentials import find_credential
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.sources.base import Source


def open_source(context: EntryContext, run: RunContext) -> Source:
    """Return the source of an entry; it sends no request before it is asked. Raises ConfigError, CredentialError."""
    from truss_cache_tasks.sources import registry  # imported here: a run of a fresh entry opens no source

    settings, entry = context.settings, context.entry
    network = replace(settings.network, base=entry.config.parent, cancel=run.cancel, reporter=run.reporter)
    return registry.open_source(entry.request, find_credential(entry, settings), network)
