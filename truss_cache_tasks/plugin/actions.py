"""The actions of our tasks: fetch an entry, fail with the config's error, clean."""

from __future__ import annotations

import sys
from typing import Any

from doit.action import BaseAction, PythonAction
from doit.exceptions import BaseFail, InvalidTask, TaskError, TaskFailed

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.errors import CacheTaskError, missing_package
from truss_cache_tasks.model.stores import find_store
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.plugin.uptodate import META, result_of, task_facts, values_of


def _failure(kind: type[BaseFail], *lines: str) -> Any:
    """Write the lines to stderr, and return doit's error with the same text.

    `report=False`: doit's reporters for people would frame it in lines of their own (`TaskFailed - taskid:`). Those for
    programs (`-r json`) have the text in any case.
    """
    output.notify(*lines)
    return kind(output.escaped(*lines), report=False)


class FetchAction(BaseAction):  # type: ignore[misc]  # doit is untyped
    """Fetches an entry. Not a PythonAction, which replaces sys.stdout; picklable, for `-P process` under spawn."""

    def __init__(self, context: EntryContext) -> None:
        self.context = context
        self.task: Any = None
        self.out: str | None = None  # JSON, for `doit -r json`
        self.err = None
        self.result: dict[str, str] | None = None
        self.values: dict[str, str] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        signals.install()  # in a spawned child, before its first action
        if find_store(scheme := self.context.entry.request.source.scheme) is None:  # the child has loaded no config
            from truss_cache_tasks.config.plugins import find_or_load_store  # of few configs

            find_or_load_store(scheme)

    def execute(self, out: Any = None, err: Any = None) -> TaskFailed | TaskError | None:
        """Make the entry fresh, and return doit's error if that fails. `doit run -a` forces it (`EntryUptodate`)."""
        from truss_cache_tasks.app.fetch import fetch_with_display  # not needed if all are fresh

        meta, name = self.task.meta[META], self.task.name
        force, quiet = meta.get("force", False), self.task.verbosity == 0  # `doit -v0`
        try:
            outcome = fetch_with_display(self.context, meta["run"], name, force=force, quiet=quiet)
        except CacheTaskError as error:
            return self._failed(error)
        except Exception as exc:
            if (missing := missing_package(exc)) is not None:
                return self._failed(missing)
            return _failure(TaskError, f"{self.context.name}: {output.format_internal_error(exc)}")
        self.out = task_facts(
            self.context,
            outcome.manifest,
            status=outcome.how,
            fetched_files=outcome.files,
            fetched_size=outcome.size,
        )
        self.values = values_of(self.context, outcome.manifest)
        self.result = result_of(self.values["snapshot_key"])
        return None

    def _failed(self, error: CacheTaskError) -> TaskFailed:
        if self.task.meta[META].get("json"):  # doit's other reporters print the `out` of a task that failed
            from truss_cache_tasks.app.facts import facts_of_error  # not needed by other reporters

            self.out = task_facts(self.context, None, status="failed", error=facts_of_error(error))
        return _failure(TaskFailed, *output.format_error(error, self.context.name))

    def __str__(self) -> str:
        return output.escaped(f"fetch {self.context.entry.request.source}")

    def __repr__(self) -> str:
        return f"<FetchAction {self}>"


class FailAction(BaseAction):  # type: ignore[misc]  # doit is untyped
    """Fails with the error of a config that could not be read (`defer_errors=True`)."""

    def __init__(self, error: CacheTaskError) -> None:
        self.error = error
        self.task = self.out = self.err = self.result = None
        self.values: dict[str, str] = {}

    def execute(self, out: Any = None, err: Any = None) -> TaskFailed:
        """Return the config's error as doit's."""
        return _failure(TaskFailed, *output.format_error(self.error))

    def __str__(self) -> str:
        return "read the config"


class CleanAction(PythonAction):  # type: ignore[misc]  # doit is untyped
    """Cleans one entry, or as the group's action the whole config. A PythonAction, so that doit passes `dryrun`."""

    def __init__(self, workspace: Workspace, name: str | None) -> None:
        super().__init__(self._clean)
        self.workspace = workspace
        self.name = name

    def _clean(self, dryrun: bool) -> None:
        """Do nothing: doit passes `dryrun` only to an action whose function has this parameter. See `execute`."""

    def execute(self, out: Any = None, err: Any = None) -> None:
        """Clean, and write what was removed.

        Raises:
            InvalidTask: something could not be removed: the one error of a clean action that doit does not ignore.
        """
        from truss_cache_tasks.app.reports import format_cleaned, format_left  # not needed by `doit run`

        signals.install()
        done = self.workspace.cleaned  # of all clean actions so far; the lines are about this one
        size, files, kept = done.size, done.files, len(done.kept)
        dry = bool(self.kwargs.get("dryrun"))
        try:
            self.workspace.clean(None if self.name is None else [self.name], dry=dry)
        except CacheTaskError as error:
            raise InvalidTask(output.escaped(*output.format_error(error))) from None
        except Exception as exc:
            raise InvalidTask(output.format_internal_error(exc)) from None
        lines = format_cleaned(done.files - files, done.size - size, done.kept[kept:], dry=dry)
        if done.files > files or self.name is None:
            (out or sys.stdout).write(output.escaped(*(f"  {line}" for line in lines)) + "\n")
        if done.left:
            left, done.left = done.left, []
            raise InvalidTask(output.escaped(*format_left(left)))

    def __str__(self) -> str:
        return output.escaped(f"invalidate {self.name or 'the weights of the whole config'}")
