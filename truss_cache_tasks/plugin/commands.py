"""`doit cache-why`, `cache-plan`, `cache-path`, `cache-lock`, `cache-verify`, `cache-du` and `cache-prune`.

The dash keeps their names apart from tasks of `task_*` functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from doit.cmd_base import DoitCmdBase, check_tasks_exist
from doit.cmdparse import CmdParseError
from doit.exceptions import InvalidCommand, InvalidTask

from truss_cache_tasks.app import output, reports
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.config.settings import parse_age, parse_size
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.plugin.actions import FetchAction
from truss_cache_tasks.plugin.tasks import workspace_of
from truss_cache_tasks.plugin.uptodate import GroupUptodate

T = TypeVar("T")


def _flag(name: str, what: str) -> dict[str, Any]:
    """Return an option of a command, as doit describes it."""
    return {"name": name, "long": name, "short": "", "type": bool, "default": False, "help": what}


@contextlib.contextmanager
def _config_errors() -> Iterator[None]:
    """Raise doit's InvalidTask, which exits with 3, for a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise InvalidTask(output.escaped(*output.format_error(error))) from None


class _OverEntries(DoitCmdBase):  # type: ignore[misc]  # doit is untyped
    """A command for the entries among the tasks: those that are named (a group: all its entries), else all."""

    doc_usage = "[TASK ...]"
    doc_description = None

    def _chosen(self, names: list[str], *, warns: bool = True) -> list[tuple[str, Workspace, Any]]:
        """Return (task name, workspace, context) of the entries; with `warns` write the warnings of their configs.

        Args:
            names: of tasks, or of entries, which are names of tasks without that of their group.
        """
        tasks = {task.name: task for task in self.task_list}
        names = [_task_name(name, tasks) for name in names]
        check_tasks_exist(tasks, names)
        wanted = {*names, *(sub for name in names for sub in tasks[name].task_dep)}
        for task in self.task_list:
            for uptodate, *_ in task.uptodate:
                if warns and isinstance(uptodate, GroupUptodate):
                    uptodate.workspace.warn()
        return [
            (task.name, workspace_of(task), action.context)
            for task in self.task_list
            for action in task.actions
            if isinstance(action, FetchAction) and (not names or task.name in wanted)
        ]

    def _workspaces(self) -> list[Workspace]:
        """Return the workspaces of all configs among the tasks."""
        found = (uptodate for task in self.task_list for uptodate, *_ in task.uptodate)
        return [uptodate.workspace for uptodate in found if isinstance(uptodate, GroupUptodate)]

    def _write(self, *lines: str) -> None:
        self.outstream.write(output.escaped(*lines) + "\n")


def _task_name(name: str, tasks: Mapping[str, Any]) -> str:
    """Return the name of the task of an entry; the name as it is where it is that of a task, or of no entry.

    Raises:
        InvalidCommand: several configs have such an entry.
    """
    found = [
        task.name
        for task in tasks.values()
        for action in task.actions
        if name not in tasks and isinstance(action, FetchAction) and action.context.name == name
    ]
    if len(found) > 1:
        raise InvalidCommand(f"{name}: found {' and '.join(found)}, expected the name of one task")
    return found[0] if found else name


class Why(_OverEntries):
    """Write whether each entry is fresh, and why not."""

    name = "cache-why"
    doc_purpose = "say which weights are fresh, or which input changed"
    cmd_options = (
        _flag("check", "exit 1 if a run would have to read a store"),
        _flag("remote", "ask the stores what has moved; with --check: exit 1 if anything has"),
    )

    def _execute(self, check: bool, remote: bool, pos_args: list[str]) -> int:
        with _config_errors():
            return reports.why(self._chosen(pos_args), self._write, check=check, remote=remote)


class Plan(_OverEntries):
    """Write what a run would fetch, and whether there is room for it."""

    name = "cache-plan"
    doc_purpose = "say which weights a run would fetch, and if there is room; write nothing"
    cmd_options = (_flag("always", "of a run that hashes and resolves everything again (`doit run -a`)"),)

    def _execute(self, always: bool, pos_args: list[str]) -> int:
        from truss_cache_tasks.app.preview import write_plan  # not needed by the other commands

        with _config_errors():
            return write_plan(self._chosen(pos_args), self._write, force=always)


class Path(_OverEntries):
    """Write the folder to open of each entry."""

    name = "cache-path"
    doc_purpose = "print the folder to open of each entry"
    cmd_options = ()

    def _execute(self, pos_args: list[str]) -> int:
        with _config_errors():
            return reports.write_paths(self._chosen(pos_args), self._write)


class Lock(_OverEntries):
    """Write, move or check the lock files of the configs."""

    name = "cache-lock"
    doc_purpose = "write, move or check model_cache.lock, which pins weights"
    cmd_options = (
        _flag("upgrade", "lock what the stores have now, for all or the named entries"),
        _flag("check", "write nothing; exit 1 if the file is missing or outdated"),
        _flag("remote", "with --check: ask the stores; exit 1 if something has moved"),
    )

    def _execute(self, upgrade: bool, check: bool, remote: bool, pos_args: list[str]) -> int:
        from truss_cache_tasks.app.lockfile import lock  # not needed by the other commands

        chosen: dict[int, list[Any]] = {}  # by the workspace's id
        workspaces: dict[int, Workspace] = {}
        for _, workspace, context in self._chosen(pos_args, warns=False):
            workspaces[id(workspace)] = workspace
            chosen.setdefault(id(workspace), []).append(context)
        status = 0
        with _config_errors():
            for at, workspace in workspaces.items():
                named = chosen[at] if pos_args else None
                status |= lock(workspace, named, self._write, upgrade=upgrade, check=check, remote=remote)
        return status


class Verify(_OverEntries):
    """Hash every file again, and compare it with the manifests."""

    name = "cache-verify"
    doc_purpose = "hash all cached weights again, and name each bad file"
    cmd_options = (_flag("quick", "compare the sizes alone, and look at the headers of safetensors files"),)

    def _execute(self, quick: bool, pos_args: list[str]) -> int:
        return reports.verify(self._chosen(pos_args), self._write, quick=quick)


class Du(_OverEntries):
    """Write what the cache holds: by entry, project and root."""

    name = "cache-du"
    doc_purpose = "say what the weights cache holds, shares, and no claim lists"
    cmd_options = ()

    def _execute(self, pos_args: list[str]) -> int:
        from truss_cache_tasks.app import usage

        chosen = [(label, context) for label, _, context in self._chosen(pos_args)]
        return usage.write_usage(usage.scope_of(self._workspaces(), chosen), self._write)


class Prune(_OverEntries):
    """Remove what no living claim lists, in all roots that the configs among the tasks may use."""

    name = "cache-prune"
    doc_purpose = "remove cached weights that no living claim lists (dry without --yes)"
    doc_usage = ""
    cmd_options = (
        _flag("yes", "remove it; else only print it"),
        {
            "name": "older_than",
            "long": "older-than",
            "type": str,
            "default": "",
            "help": "drop claims of other hosts that were not renewed for so long: 30d, 12h, 8w",
        },
        {
            "name": "keep_bytes",
            "long": "keep-bytes",
            "type": str,
            "default": "",
            "help": "remove the least recently used first, until so many bytes are left: 500G",
        },
    )

    def _execute(self, yes: bool, older_than: str, keep_bytes: str, pos_args: list[str]) -> int:
        from truss_cache_tasks.app import usage

        if pos_args:
            raise InvalidCommand(f"{self.name}: got {pos_args[0]!r}, expected no task: it looks at whole cache roots")
        age, size = _parsed("--older-than", older_than, parse_age), _parsed("--keep-bytes", keep_bytes, parse_size)
        scope = usage.scope_of(self._workspaces())
        return usage.write_prune(scope, self._write, older_than_s=age, keep_bytes=size, yes=yes)


def _parsed(option: str, text: str, rule: Callable[[str], T]) -> T | None:
    """Return the value of an option, None where it was not given. Raises CmdParseError."""
    try:
        return rule(text) if text else None
    except ValueError as want:
        raise CmdParseError(f"{option}: got {text!r}, expected {want}") from None
