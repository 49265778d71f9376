"""Open the source of an entry, with its credential and the network of a run; plan what it listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from truss_cache_tasks.config.credentials import find_credential
from truss_cache_tasks.config.plugins import refuse_clashes
from truss_cache_tasks.errors import NothingSelected
from truss_cache_tasks.model.listing import FilePin, Listing, Pins, RemoteFile
from truss_cache_tasks.model.plan import FIX_PATTERNS, Plan, find_unmatched, make_plan
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.sources.base import Source


def open_source(context: EntryContext, run: RunContext, *, with_mirrors: bool = True) -> Source:
    """Return the source of an entry; it sends no request before it is asked.

    Args:
        with_mirrors: whether mirrors may be asked. They get no token, so they prove no access.

    Raises:
        ConfigError, CredentialError, BrokenStore: it cannot be opened.
    """
    from truss_cache_tasks.sources import registry  # imported here: a run of a fresh entry opens no source

    refuse_clashes()
    settings, entry = context.settings, context.entry
    network = replace(settings.network, base=entry.config.parent, cancel=run.cancel, reporter=run.reporter)
    network = network if with_mirrors else replace(network, hub_mirrors=())
    return registry.open_source(entry.request, find_credential(entry, settings), network)


def plan_listing(context: EntryContext, run: RunContext, listing: Listing, *, of_lock: bool) -> Plan:
    """Return the plan of an entry for a listing of its source, and report its warnings.

    Args:
        of_lock: the lock file gave the listing. It holds selected files alone, and `cache-lock` gave the warnings.

    Raises:
        CacheTaskError: as `make_plan`.
        NothingSelected: with `Settings.strict_patterns`, if a pattern of several matches nothing.
    """
    plan = make_plan(context.entry.request, listing)
    if of_lock:
        return plan
    for warning in plan.warnings:
        run.warn(warning)
    unmatched = find_unmatched(plan, listing)
    if unmatched and context.settings.strict_patterns:
        raise NothingSelected("; ".join(unmatched), hint=FIX_PATTERNS)
    for warning in unmatched:
        run.warn(warning)
    return plan


def list_in_detail(source: Source, files: Sequence[RemoteFile]) -> dict[str, RemoteFile]:
    """Return the files by path, each with its digest, which only a look at the file gives at some stores."""
    found = {file.path: file for file in files}
    asked = [file for file in files if file.digest is None and not file.is_unversioned]
    pins = tuple(FilePin(file.key, file.version) for file in asked)
    if pins:
        found |= {file.path: file for file in source.listing(Pins(files=pins, in_detail=True)).files}
    return found
