"""Decide by the claim and the manifest on disk whether a task is up to date. doit's database is only corrected."""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
from collections.abc import Iterator
from typing import Any

from doit.dependency import UptodateCalculator
from doit.exceptions import InvalidDodoFile

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.records import Manifest
from truss_cache_tasks.operations.context import EntryContext

META = "truss_cache"  # the key of our part of a task's meta, which doit carries to its child processes


def values_of(context: EntryContext, manifest: Manifest) -> dict[str, str]:
    """Return the values of an entry's task, for `getargs` of others: `path`, `revision`, `snapshot_key`."""
    path = context.root.path / manifest.folder
    return {"path": str(path), "revision": manifest.revision, "snapshot_key": manifest.snapshot}


def result_of(snapshot: str) -> dict[str, str]:
    """Return the result of an entry's task, for `result_dep`.

    A dict, because doit saves a str as its MD5 after a run, and `_correct_database` would save it as it is.
    """
    return {"snapshot_key": snapshot}


def task_facts(context: EntryContext, manifest: Manifest | None, **values: Any) -> str:
    """Return the facts of an entry's task as JSON, in a line: what `doit -r json` shows as the task's `out`."""
    from truss_cache_tasks.app.facts import VERSION, facts_of_manifest, to_json  # not needed by `doit`

    there = facts_of_manifest(context, manifest) if manifest is not None else {}
    head = {"schema": "truss-cache.task", "version": VERSION, "name": context.name, "config": context.entry.config}
    return to_json({**head, **there, "fetched_files": 0, "fetched_size": 0, "error": None, **values})


def is_output_held_back() -> bool:
    """Return whether doit's reporter keeps what tasks write, as that of `-r json` does."""
    return isinstance(sys.stderr, io.StringIO)


def _require_may_fetch(workspace: Workspace) -> None:
    """Raise InvalidDodoFile if nothing may be fetched because of the lock file, or the events cannot be logged."""
    with _as_broken_dodo():
        workspace.require_lock()
        workspace.require_event_log(is_running=False)


@contextlib.contextmanager
def _as_broken_dodo() -> Iterator[None]:
    """Raise a ConfigError of the block as InvalidDodoFile."""
    try:
        yield
    except ConfigError as error:
        raise InvalidDodoFile(output.escaped(*output.format_error(error))) from error


class EntryUptodate(UptodateCalculator):  # type: ignore[misc]  # doit is untyped
    """The `uptodate` of an entry's task: whether the entry is fresh."""

    # doit asks `inspect.signature`; with this attribute that takes a tenth of the time
    __signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("task", "values")]
    )

    def __init__(self, context: EntryContext, workspace: Workspace) -> None:
        super().__init__()
        self.context = context
        self.workspace = workspace
        self._manager: Any = None

    def setup(self, dep_manager: Any, tasks_dict: Any) -> None:
        """Keep doit's database, which doit passes before each call."""
        super().setup(dep_manager, tasks_dict)
        self._manager = dep_manager

    def __call__(self, task: Any, values: dict[str, Any]) -> bool:
        """Return whether the entry is fresh. doit calls this in its main process, whenever it needs a status.

        Raises:
            InvalidDodoFile: nothing may be fetched (`_require_may_fetch`): doit exits with 3. It makes a 2 of an
                InvalidTask that is raised here.
        """
        signals.install()
        _require_may_fetch(self.workspace)
        status = self.workspace.read_status(self.context)
        if not status.verdict.fresh:
            with _as_broken_dodo():
                self.workspace.require_server(self.context)
        task.meta[META]["force"] = status.verdict.fresh or self.workspace.is_forced(self.context)
        if is_output_held_back():
            task.meta[META]["json"] = True
            if status.fresh_manifest is not None:
                task.actions[0].out = task_facts(self.context, status.fresh_manifest, status="fresh")
        if status.fresh_manifest is not None:
            self._correct_database(task, values, status.fresh_manifest)
        return status.verdict.fresh

    def _correct_database(self, task: Any, values: dict[str, Any], manifest: Manifest) -> None:
        """Save the task's values and result where doit's database has others: getargs and result_dep read it."""
        if self._manager is None:
            return
        truth = values_of(self.context, manifest)
        result = result_of(truth["snapshot_key"])
        if values != truth or self._manager.get_result(task.name) != result:
            task.values = truth
            self._manager.save_success(task, result_hash=result)

    def __repr__(self) -> str:
        verdict = self.workspace.verdicts.get(self.context.name)
        return output.escaped(f"weights: {verdict if verdict is not None else 'not read yet'}")


class GroupUptodate:
    """The `uptodate` of the group: whether all entries are fresh."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def __call__(self) -> bool:
        """Return whether every entry is fresh; a status that this process has read is not read again.

        Raises:
            InvalidDodoFile: as EntryUptodate.
        """
        self.workspace.warn()
        _require_may_fetch(self.workspace)
        verdicts = [
            self.workspace.is_fresh(context) for context in self.workspace.contexts
        ]  # a list, so that the status of every entry is read, also after a stale one
        return all(verdicts)

    def __repr__(self) -> str:
        stale = [context.name for context in self.workspace.contexts if not self.workspace.is_fresh(context)]
        return output.escaped(f"weights: {', '.join(stale)} not fresh" if stale else "weights: fresh")
