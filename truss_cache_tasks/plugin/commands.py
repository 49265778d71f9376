"""`doit cache-why` and `doit cache-verify`. With a dash no `task_*` function can have their names."""

from __future__ import annotations

from typing import Any

from doit.cmd_base import DoitCmdBase, check_tasks_exist

from truss_cache_tasks.app import output, reports
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.plugin.actions import FetchAction
from truss_cache_tasks.plugin.tasks import workspace_of
from truss_cache_tasks.plugin.uptodate import GroupUptodate


class _OverEntries(DoitCmdBase):  # type: ignore[misc]  # doit is untyped
    """A command over the entries among the tasks: those named (a group means all of its own), else all."""

    doc_usage = "[TASK ...]"
    doc_description = None

    def _chosen(self, names: list[str]) -> list[tuple[str, Workspace, Any]]:
        tasks = {task.name: task for task in self.task_list}
        check_tasks_exist(tasks, names)
        wanted = {name for name in names} | {sub for name in names for sub in tasks[name].task_dep}
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
    """Print why each entry would, or would not, be fetched."""

    name = "cache-why"
    doc_purpose = "say which weights are fresh, or which input changed"
    cmd_options = (
        {
            "name": "check",
            "long": "check",
            "short": "",
            "type": bool,
            "default": False,
            "help": "exit with 1 unless a run would ask no server",
        },
    )

    def _execute(self, check: bool, pos_args: list[str]) -> int:
        return reports.why(self._chosen(pos_args), self._write, check=check)


class Verify(_OverEntries):
    """Hash every file again and compare it with what the manifests say."""

    name = "cache-verify"
    doc_purpose = "hash all cached weights again, and name each bad file"
    cmd_options = ()

    def _execute(self, pos_args: list[str]) -> int:
        return reports.verify(self._chosen(pos_args), self._write)
