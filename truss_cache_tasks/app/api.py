"""`truss_cache_tasks.fetch`: fetch the entries of a config from a Python program, as `truss-cache` does."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from truss_cache_tasks.app.fetch import fetch_side_by_side, with_event_log
from truss_cache_tasks.app.workspace import open_workspace
from truss_cache_tasks.config.entries import Config
from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.events import Reporter, Warned, ignore_events
from truss_cache_tasks.network.cancel import StopPoll
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.fetch.fetch import fetch as fetch_entry
from truss_cache_tasks.operations.fetch.online_fetch import Outcome
from truss_cache_tasks.operations.run import RunContext

Status = Literal["fetched", "claimed", "repaired", "fresh", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryResult:
    """What a run did to one entry.

    Attributes:
        name: the entry's name, as `Entry.name`.
        status: `fresh`: nothing was to be done; `claimed`: the files were whole, another project had fetched them;
            `repaired`: put right from bytes that were on this machine, without asking a server; `fetched`: listed, and
            what was missing was fetched (which may be nothing); `failed`: see `error`, and what was good before is
            still in place.
        path: the folder to open; None if the entry failed.
        revision: the commit of a Hub repo; "" for other stores, and if the entry failed.
        snapshot_key: hex; equal for equal files of an equal revision; "" if the entry failed.
        files: how many files the entry has; 0 if it failed.
        bytes_fetched: what this run received for it; 0 if it failed.
        error: why it failed; else None.
    """

    name: str
    status: Status
    path: Path | None = None
    revision: str = ""
    snapshot_key: str = ""
    files: int = 0
    bytes_fetched: int = 0
    error: CacheTaskError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a run did.

    Attributes:
        entries: one EntryResult for each entry that was asked for, by name, in the order of the config.
    """

    entries: Mapping[str, EntryResult]

    @property
    def ok(self) -> bool:
        """Whether no entry failed."""
        return all(entry.error is None for entry in self.entries.values())


def fetch(
    config: Config | Path | str | None = None,
    names: Iterable[str] | str | None = None,
    reporter: Reporter | None = None,
    *,
    model_cache_dir: Path | str | None = None,
    digests: Mapping[str, str] | None = None,
) -> Result:
    """Make the entries of a config fresh, as the command `truss-cache` does.

    Up to 4 entries are worked on at a time, each with only the work that it needs. May be called from several threads
    at once. Prints nothing and installs no signal handler: Ctrl-C raises KeyboardInterrupt in the main thread, as in
    any program, and ends the run; what is complete is kept. With TRUSS_CACHE_EVENTS, the events
    are appended to that file too.

    >>> from truss_cache_tasks import fetch
    >>> result = fetch("examples/config.yaml", ["org/one"])      # doctest: +SKIP
    >>> result.ok, result.entries["org/one"].path                # doctest: +SKIP
    (True, PosixPath('/root/.cache/huggingface/hub/models--org--one/snapshots/3c0e...'))

    Args:
        config: what `load_config` returned, or the config.yaml or its folder; None: TRUSS_CONFIG, else the current
            folder.
        names: which entries, by name: one name or several; None: all.
        reporter: called with every event of `truss_cache_tasks.events`, from several threads; those about one entry
            have its name. An exception that it raises ends the run of that entry, and is raised here after the other
            entries ended. It must not fetch that entry itself: it would wait for its own lock.
        model_cache_dir: in place of /app/model_cache; TRUSS_MODEL_CACHE_DIR takes precedence.
        digests: as in `cache_tasks`.

    Returns:
        What was done to each entry. An entry that fails is in it, and the others are fetched all the same.

    Raises:
        ConfigError: the config, the lock file or a variable is wrong, no entry has one of `names`, or the events cannot
            be appended. Nothing was fetched.
        KeyboardInterrupt: Ctrl-C.
    """
    workspace = open_workspace(config, model_cache_dir, digests=digests)
    contexts = workspace.choose(names)
    workspace.require_lock()
    workspace.require_event_log(is_running=True)
    reporter = reporter or ignore_events
    for warning in workspace.all_warnings:
        reporter(Warned(message=warning))
    cancelled = threading.Event()
    stop = StopPoll(cancelled.is_set)

    def log_ended(error: OSError) -> None:
        reporter(Warned(message=f"the events are not logged any more: {error.strerror}"))

    def fetch_one(name: str, context: EntryContext) -> Outcome:
        logged = with_event_log(reporter, context, workspace.run_id, log_ended)
        return fetch_entry(context, RunContext(id=workspace.run_id, reporter=logged, cancel=stop))

    ended = fetch_side_by_side([(context.name, context) for context in contexts], fetch_one, cancelled.set)
    chosen = [context for context in workspace.contexts if context.name in ended]
    return Result(entries={context.name: _result(context, ended[context.name]) for context in chosen})


def _result(context: EntryContext, end: Outcome | BaseException) -> EntryResult:
    if isinstance(end, CacheTaskError):
        return EntryResult(name=context.name, status="failed", error=end)
    if isinstance(end, BaseException):
        raise end
    manifest = end.manifest
    return EntryResult(
        name=context.name,
        status=end.how,
        path=context.root.path / manifest.folder,
        revision=manifest.revision,
        snapshot_key=manifest.snapshot,
        files=len(manifest.files),
        bytes_fetched=end.size,
    )
