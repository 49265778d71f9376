"""Make doit tasks of entries: a group, and for each entry a sub-task with its own uptodate, action and clean."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from doit import get_initial_workdir
from doit.exceptions import InvalidTask

from truss_cache_tasks.app import output
from truss_cache_tasks.app.workspace import Workspace, open_workspace
from truss_cache_tasks.errors import ConfigError, MissingPackage
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.plugin.actions import CleanAction, FailAction, FetchAction
from truss_cache_tasks.plugin.uptodate import META, EntryUptodate, GroupUptodate

Creator = Callable[[], Iterator[dict[str, Any]]]


def cache_tasks(
    path: str | Path | None = None,
    *,
    basename: str = "cache_weights",
    model_cache_dir: str | Path | None = None,
    clean: bool = True,
    defer_errors: bool = False,
    replace: bool = False,
    accept_unverified: bool = False,
    follow_links: bool = False,
    strict_patterns: bool = False,
    digests: Mapping[str, str] | None = None,
) -> Creator:
    """Return a task creator for one Truss: `task_weights = cache_tasks("sd/config.yaml", basename="weights_sd")`.

    Args:
        path: config.yaml or its folder, relative to the file that calls this; None: TRUSS_CONFIG, else the folder that
            doit runs in.
        basename: the group's name; each entry is its sub-task.
        model_cache_dir: in place of /app/model_cache, relative to the file that calls this; TRUSS_MODEL_CACHE_DIR
            takes precedence.
        clean: False: `doit clean` leaves these weights alone (`truss-cache clean` does it).
        defer_errors: an invalid config becomes a task that fails, so that the other tasks still run (monorepos).
        replace: False: a foreign file (one that this package did not make) at a path of an entry is kept and fails the
            entry; True: it is replaced. TRUSS_CACHE_REPLACE=1 does the same.
        accept_unverified: True: a file whose ETag looks like an MD5 but is not the MD5 of its bytes is accepted as
            unverified, if two fetches gave equal bytes. TRUSS_CACHE_ACCEPT_UNVERIFIED=1 does the same.
        follow_links: True: a link inside a `file://` source may lead out of it. TRUSS_CACHE_FOLLOW_LINKS=1 does the
            same. config.yaml cannot set `replace`, `accept_unverified` or `follow_links`.
        strict_patterns: a pattern that matches no file, beside others that do, fails the entry when its source is
            listed; False: it is a warning.
        digests: URL -> `sha256:hex` of https:// files, `{"https://host/w.bin": "sha256:9f86d0..."}`. The bytes are
            compared with it, and it is a part of the request: with another digest the entry is stale.
            TRUSS_CACHE_DIGESTS does the same for `truss-cache` too.
    """
    beside = Path(sys._getframe(1).f_globals.get("__file__") or "dodo.py").absolute().parent
    config = None if path is None else beside / path
    cache = None if model_cache_dir is None else beside / model_cache_dir

    def task_cache_weights() -> Iterator[dict[str, Any]]:
        """Fetch the weights of every model_cache entry into its standard cache path."""
        try:
            workspace = open_workspace(
                config,
                cache,
                get_initial_workdir(),
                replace=replace,
                accept_unverified=accept_unverified,
                follow_links=follow_links,
                strict_patterns=strict_patterns,
                digests=digests,
            )
            if defer_errors:
                workspace.require_lock()
        except (ConfigError, MissingPackage) as error:
            output.annotate("error", str(error))
            if not defer_errors:
                raise InvalidTask(output.escaped(*output.format_error(error))) from error
            yield {"basename": basename, "actions": [FailAction(error)], "doc": output.escaped(f"broken: {error}")}
            return
        yield _group(basename, workspace, clean=clean)
        for context in workspace.contexts:
            yield _as_task(basename, context, workspace, clean=clean)

    return task_cache_weights


def task_cache_weights() -> Iterator[dict[str, Any]]:
    """Fetch the weights of every model_cache entry into its standard cache path."""
    yield from cache_tasks()()


def _group(basename: str, workspace: Workspace, *, clean: bool) -> dict[str, Any]:
    return {
        "basename": basename,
        "name": None,
        "doc": output.escaped(f"Fetch the weights of {os.path.relpath(workspace.path)} into the standard cache paths"),
        "uptodate": [GroupUptodate(workspace)],
        "clean": [CleanAction(workspace, None)] if clean else [],
    }


def _as_task(basename: str, context: EntryContext, workspace: Workspace, *, clean: bool) -> dict[str, Any]:
    revision = f"@{context.entry.revision}" if context.entry.revision else ""
    return {
        "basename": basename,
        "name": context.name,
        "doc": output.escaped(f"{context.entry.request.source}{revision}"),
        "actions": [FetchAction(context)],
        "uptodate": [EntryUptodate(context, workspace)],
        "clean": [CleanAction(workspace, context.name)] if clean else [],
        "verbosity": 2,  # with less, doit shows the empty output of an action that failed
        "io": {"capture": False},
        "meta": {META: {"config": str(workspace.path), "run": workspace.run_id}},
    }


def workspace_of(task: Any) -> Workspace:
    """Return the workspace of one of our sub-tasks."""
    return next(item[0].workspace for item in task.uptodate if isinstance(item[0], EntryUptodate))
