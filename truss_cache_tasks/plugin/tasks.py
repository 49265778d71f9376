"""Entries as doit tasks: a group, and for each entry a sub-task with its own judgement, action and clean."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from doit import get_initial_workdir
from doit.action import BaseAction, PythonAction
from doit.dependency import UptodateCalculator
from doit.exceptions import InvalidTask, TaskError, TaskFailed

from truss_cache_tasks.errors import CacheTaskError, ConfigError
from truss_cache_tasks.fetch import Target, current_manifest
from truss_cache_tasks.planning.records import Manifest
from truss_cache_tasks.plugin import display, signals
from truss_cache_tasks.plugin.work import fetch_with_display
from truss_cache_tasks.plugin.workspace import Workspace, open_workspace

META = "truss_cache"  # the key of our part of a task's meta, which doit carries to its child processes
Creator = Callable[[], Iterator[dict[str, Any]]]


def cache_tasks(
    path: str | Path | None = None,
    *,
    basename: str = "cache_weights",
    model_cache_dir: str | Path | None = None,
    clean: bool = True,
    defer_errors: bool = False,
) -> Creator:
    """Return a task creator for one Truss: `task_weights = cache_tasks("sd/config.yaml", basename="weights_sd")`.

    Args:
        path: config.yaml or its folder, relative to the file that calls this; None: TRUSS_CONFIG, else the folder that
            doit runs in.
        basename: the group's name; each entry is its sub-task.
        model_cache_dir: in place of /app/model_cache, relative to the file that calls this; TRUSS_MODEL_CACHE_DIR is
            above it.
        clean: False: `doit clean` leaves these weights alone (`truss-cache clean` does it).
        defer_errors: a broken config becomes a task that fails, so that other tasks work on (monorepos).
    """
    beside = Path(sys._getframe(1).f_globals.get("__file__") or "dodo.py").absolute().parent
    config = None if path is None else beside / path
    cache = None if model_cache_dir is None else beside / model_cache_dir

    def task_cache_weights() -> Iterator[dict[str, Any]]:
        """Fetch the weights of every model_cache entry into its standard cache path."""
        try:
            workspace = open_workspace(config, cache, get_initial_workdir())
        except ConfigError as error:
            if not defer_errors:
                raise InvalidTask(display.worded(error)) from None
            yield {"basename": basename, "actions": [_Fail(error)], "doc": "the config is broken", "uptodate": [False]}
            return
        yield _group(basename, workspace, clean=clean)
        for target in workspace.targets:
            yield _as_task(basename, target, workspace, clean=clean)

    return task_cache_weights


def task_cache_weights() -> Iterator[dict[str, Any]]:
    """Fetch the weights of every model_cache entry into its standard cache path."""
    yield from cache_tasks()()


def _group(basename: str, workspace: Workspace, *, clean: bool) -> dict[str, Any]:
    return {
        "basename": basename,
        "name": None,
        "doc": f"Fetch the weights of {os.path.relpath(workspace.path)} into the standard cache paths",
        "uptodate": [_GroupJudgement(workspace)],
        "clean": [_Clean(workspace, None)] if clean else [],
    }


def _as_task(basename: str, target: Target, workspace: Workspace, *, clean: bool) -> dict[str, Any]:
    revision = f"@{target.entry.revision}" if target.entry.revision else ""
    return {
        "basename": basename,
        "name": target.name,
        "doc": f"{target.entry.request.source}{revision}",
        "actions": [FetchAction(target)],
        "uptodate": [_Judgement(target, workspace)],
        "clean": [_Clean(workspace, target.name)] if clean else [],
        "verbosity": 1,
        "io": {"capture": False},
        "meta": {META: {"config": str(workspace.path), "run": workspace.run}},
    }


def values_of(target: Target, manifest: Manifest) -> dict[str, str]:
    """Return what other tasks get from an entry: `path`, `revision`, `snapshot_key`."""
    path = target.place.root / manifest.folder
    return {"path": str(path), "revision": manifest.revision, "snapshot_key": manifest.snapshot}


class _Judgement(UptodateCalculator):  # type: ignore[misc]  # doit is untyped
    """An entry's `uptodate`: claim and manifest on disk say it, doit's database is only put right."""

    # what doit would find by inspect, at a tenth of the cost
    __signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("task", "values")]
    )

    def __init__(self, target: Target, workspace: Workspace) -> None:
        super().__init__()
        self.target = target
        self.workspace = workspace
        self._manager: Any = None

    def setup(self, dep_manager: Any, tasks_dict: Any) -> None:
        super().setup(dep_manager, tasks_dict)
        self._manager = dep_manager

    def __call__(self, task: Any, values: dict[str, Any]) -> bool:
        signals.install()
        verdict = self.workspace.judge(self.target)
        task.meta[META]["fresh"] = verdict.fresh
        if verdict.fresh:
            self._heal(task, values)
        return verdict.fresh

    def _heal(self, task: Any, values: dict[str, Any]) -> None:
        """Replace what a deleted or foreign .doit.db says, so that getargs and result_dep are right."""
        manifest = current_manifest(self.target)
        if manifest is None or self._manager is None:
            return
        truth = values_of(self.target, manifest)
        result = {"snapshot_key": manifest.snapshot}
        if values != truth or self._manager.get_result(task.name) != result:
            task.values = truth
            self._manager.save_success(task, result_hash=result)

    def __repr__(self) -> str:
        verdict = self.workspace.verdicts.get(self.target.name)
        return f"weights: {verdict if verdict is not None else 'not judged'}"


class _GroupJudgement:
    """The group's `uptodate`: all its entries are fresh."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def __call__(self) -> bool:
        if not self.workspace.targets:
            display.warn_once((f"{self.workspace.path.name}: no model_cache entries, nothing to fetch",))
        return all([self.workspace.verdict(target).fresh for target in self.workspace.targets])

    def __repr__(self) -> str:
        stale = [t.name for t in self.workspace.targets if not self.workspace.verdict(t).fresh]
        return f"weights: {', '.join(stale)} not fresh" if stale else "weights: fresh"


def workspace_of(task: Any) -> Workspace:
    """Return the workspace of one of our sub-tasks."""
    return next(item[0].workspace for item in task.uptodate if isinstance(item[0], _Judgement))


class FetchAction(BaseAction):  # type: ignore[misc]
    """An entry's action. Not a PythonAction, which swaps sys.stdout; picklable, for `-P process` under spawn."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.task: Any = None
        self.out = None
        self.err = None
        self.result: dict[str, str] | None = None
        self.values: dict[str, str] = {}

    def execute(self, out: Any = None, err: Any = None) -> TaskFailed | TaskError | None:
        """Make the entry fresh; a task that runs although it was judged fresh was forced (`doit run -a`)."""
        meta = self.task.meta[META]
        try:
            outcome = fetch_with_display(self.target, meta["run"], self.task.name, force=meta.get("fresh", False))
        except CacheTaskError as error:
            return TaskFailed(f"{self.target.name}: {display.worded(error)}")
        self.values = values_of(self.target, outcome.manifest)
        self.result = {"snapshot_key": outcome.manifest.snapshot}
        return None

    def __str__(self) -> str:
        return f"fetch {self.target.entry.request.source}"

    def __repr__(self) -> str:
        return f"<FetchAction {self}>"


class _Fail(BaseAction):  # type: ignore[misc]
    """The action of a config that could not be read (`defer_errors=True`)."""

    def __init__(self, error: ConfigError) -> None:
        self.error = error
        self.task = self.out = self.err = self.result = None
        self.values: dict[str, str] = {}

    def execute(self, out: Any = None, err: Any = None) -> TaskFailed:
        """Fail with the config's error."""
        return TaskFailed(display.worded(self.error))

    def __str__(self) -> str:
        return "read the config"


class _Clean(PythonAction):  # type: ignore[misc]
    """Invalidate one entry, or with the group the whole config. A PythonAction, so that doit passes `dryrun`."""

    def __init__(self, workspace: Workspace, name: str | None) -> None:
        super().__init__(self._clean)
        self.workspace = workspace
        self.name = name

    def _clean(self, dryrun: bool) -> None:
        raise NotImplementedError("execute() does it")  # doit looks at this signature only

    def execute(self, out: Any = None, err: Any = None) -> None:
        """Clean; what could not be removed is named, and makes doit exit with 3."""
        signals.install()
        done = self.workspace.cleaned
        size, files, kept = done.size, done.files, len(done.kept)
        dry = bool(self.kwargs.get("dryrun"))
        try:
            self.workspace.clean(None if self.name is None else [self.name], dry=dry)
        except CacheTaskError as error:
            raise InvalidTask(display.worded(error)) from None
        stream = out or sys.stdout
        verb = "would remove" if dry else "removed"
        if done.files > files or self.name is None:
            stream.write(f"  {verb} {display.in_files(done.files - files)}, {done.size - size:,} bytes\n")
        for line in done.kept[kept:]:
            stream.write(f"  kept {line}\n")
        if done.left and not dry:
            left, done.left = done.left, []
            raise InvalidTask("the clean is incomplete, could not remove:\n" + "\n".join(left))

    def __str__(self) -> str:
        return "invalidate the weights of the whole config" if self.name is None else f"invalidate {self.name}"
