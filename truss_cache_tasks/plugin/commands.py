"""`doit cache-why`, `cache-verify`, `cache-du` and `cache-prune`.

The dash keeps their names apart from tasks of `task_*` functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from doit.cmd_base import DoitCmdBase, check_tasks_exist
from doit.cmdparse import CmdParseError
from doit.exceptions import InvalidCommand

from truss_cache_tasks.app import output, reports
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.config.settings import parse_age, parse_size
from truss_cache_tasks.plugin.actions import FetchAction
from truss_cache_tasks.plugin.tasks import workspace_of
from truss_cache_tasks.plugin.uptodate import GroupUptodate

T = TypeVar("T")


class _OverEntries(DoitCmdBase):  # type: ignore[misc]  # doit is untyped
    """A command for the entries among the tasks: those that are named (a group: all its entries), else all."""

    doc_usage = "[TASK ...]"
    doc_description = None

    def _chosen(self, names: list[str]) -> list[tuple[str, Workspace, Any]]:
        """Return (task name, workspace, context) of the entries, and write the warnings of their configs."""
        tasks = {task.name: task for task in self.task_list}
        check_tasks_exist(tasks, names)
        wanted = {*names, *(sub for name in names for sub in tasks[name].task_dep)}
        for task in self.task_list:
            for uptodate, *_ in task.uptodate:
                if isinstance(uptodate, GroupUptodate):
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


class Why(_OverEntries):
    """Write whether each entry is fresh, and why not."""

    name = "cache-why"
    doc_purpose = "say which weights are fresh, or which input changed"
    cmd_options = (
        {
            "name": "check",
            "long": "check",
            "short": "",
            "type": bool,
            "default": False,
            "help": "exit 1 if a run would have to read a store",
        },
    )

    def _execute(self, check: bool, pos_args: list[str]) -> int:
        return reports.why(self._chosen(pos_args), self._write, check=check)


class Verify(_OverEntries):
    """Hash every file again, and compare it with the manifests."""

    name = "cache-verify"
    doc_purpose = "hash all cached weights again, and name each bad file"
    cmd_options = (
        {
            "name": "quick",
            "long": "quick",
            "short": "",
            "type": bool,
            "default": False,
            "help": "compare the sizes alone, and look at the headers of safetensors files",
        },
    )

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
        {"name": "yes", "long": "yes", "type": bool, "default": False, "help": "remove it; else only print it"},
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
