"""`doit cache-why` and `doit cache-verify`. The dash keeps their names apart from tasks of `task_*` functions."""

from __future__ import annotations

from typing import Any

from doit.cmd_base import DoitCmdBase, check_tasks_exist

from truss_cache_tasks.app import output, reports
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.plugin.actions import FetchAction
from truss_cache_tasks.plugin.tasks import workspace_of
from truss_cache_tasks.plugin.uptodate import GroupUptodate


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
