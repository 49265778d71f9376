"""A config, and everything on this machine that it means: what tasks, commands and the console script work on."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from truss_cache_tasks.app import output
from truss_cache_tasks.config.entries import Config
from truss_cache_tasks.config.reading import load_config
from truss_cache_tasks.config.settings import Settings, read_settings
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.model.status import Evidence, Need, Status, Verdict
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.operations.context import EntryContext, make_context, project_entries, read_status
from truss_cache_tasks.store.claims import read_pins
from truss_cache_tasks.store.conflicts import ShownFiles, find_shown_files
from truss_cache_tasks.store.disk import disk_errors
from truss_cache_tasks.store.names import pin_name

if TYPE_CHECKING:
    from truss_cache_tasks.operations.forecast import Forecast
    from truss_cache_tasks.store.clean import Cleaned

MODEL_CACHE = Path("/app/model_cache")  # where Truss's own images have it


@dataclass
class Workspace:
    """One config's entries on this machine, and what this process found out about them.

    Args:
        contexts: the entries, in the order of the file.
        warnings: of the config, written once, with the first verdict.
        run: id of this invocation.
        verdicts: by the entry's name.
    """

    path: Path
    settings: Settings
    model_cache: Path
    contexts: tuple[EntryContext, ...]
    project: Project
    warnings: tuple[str, ...]
    run: str = field(default_factory=lambda: os.urandom(16).hex())
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    _shown: dict[Path, ShownFiles] = field(default_factory=dict, repr=False)  # by cache root, for forecasts

    @cached_property
    def cleaned(self) -> Cleaned:
        """What cleans of this process removed, all together."""
        from truss_cache_tasks.store.clean import Cleaned

        return Cleaned()

    def warn(self) -> None:
        """Write the config's warnings to stderr, once a process."""
        output.warn_once(self.warnings)

    def read_status(self, context: EntryContext) -> Status:
        """Read an entry's status and keep the verdict. An internal error makes it stale; its run meets it too."""
        self.warn()
        try:
            status = read_status(context)
        except Exception as exc:
            status = Status(Evidence(), Verdict(Need.FETCH, (output.format_internal_error(exc),)))
        self.verdicts[context.name] = status.verdict
        return status

    def is_forced(self, context: EntryContext) -> bool:
        """Return whether `doit run -a` runs this entry, though it is stale now.

        It does if an entry that was judged fresh, which only `-a` makes run, moved their common pin in this very run.
        """
        moving = pin_name(context.entry.request)
        try:
            pin = read_pins(context.root).get(moving) if moving else None
        except OSError:  # its run meets the same error
            return False
        if pin is None or pin.run != self.run or pin.by == context.name:
            return False
        return pin.by in self.verdicts and self.verdicts[pin.by].fresh

    def is_fresh(self, context: EntryContext) -> bool:
        """Whether an entry is fresh, by the verdict of this process; its status is read if it was not."""
        verdict = self.verdicts.get(context.name) or self.read_status(context).verdict
        return verdict.fresh

    def forecast(self, context: EntryContext, status: Status, *, hashing: bool, cancel: CancelToken) -> Forecast:
        """Forecast what a run would do to an entry. What the entries show is read once for each root."""
        if context.root.path not in self._shown and status.verdict.need > Need.CLAIM:
            with disk_errors(f"cannot look at {context.root.path}"):
                self._shown[context.root.path] = find_shown_files(context.root, self.project)
        shown = self._shown.get(context.root.path)
        from truss_cache_tasks.operations.forecast import forecast

        return forecast(context, status, hashing=hashing, cancel=cancel, shown=shown)

    def choose(self, names: Iterable[str] | None) -> list[EntryContext]:
        """Return the entries of these names, once each; None: all. Raises ConfigError for a name that none has."""
        if names is None:
            return list(self.contexts)
        known = {context.name: context for context in self.contexts}
        for name in (names := list(dict.fromkeys(names))):
            if name not in known:
                there = ", ".join(known) or "none"
                raise ConfigError(f"no entry is called {name!r}", hint=f"Name one of this config: {there}.")
        return [known[name] for name in names]

    def clean(self, names: Collection[str] | None, *, dry: bool) -> Cleaned:
        """Invalidate these entries, adding to `cleaned`; None: the whole config, gone entries too."""
        from truss_cache_tasks.operations.clean import clean

        clean(
            self.contexts,
            names,
            self.cleaned,
            project=self.project,
            settings=self.settings,
            model_cache=self.model_cache,
            dry=dry,
        )
        return self.cleaned


def open_workspace(
    path: Config | Path | str | None,
    model_cache: Path | str | None = None,
    started: Path | str | None = None,
    *,
    replace: bool = False,
    accept_unverified: bool = False,
    follow_links: bool = False,
) -> Workspace:
    """Read the config and the environment. Reads no cache and asks no network.

    Args:
        path: the config as it was loaded, its file or folder, or None for TRUSS_CONFIG, else the current folder.
        model_cache: what `cache_tasks(model_cache_dir=)` says; TRUSS_MODEL_CACHE_DIR is above it.
        started: what relative paths in our variables are relative to; None: the current folder.
        replace: `Settings.replace`, said by a call or a command line; the variable may say it instead.
        accept_unverified, follow_links: of Settings, likewise.

    Raises:
        ConfigError: `file:line: field: message` and a hint.
    """
    base = Path(started or Path.cwd())
    settings = read_settings(os.environ, base)
    settings = dataclasses.replace(
        settings,
        replace=settings.replace or replace,
        accept_unverified=settings.accept_unverified or accept_unverified,
        follow_links=settings.follow_links or follow_links,
    )
    if path is None:
        path = base / settings.config if settings.config else Path.cwd()
    config = path if isinstance(path, Config) else load_config(path)
    cache = settings.model_cache_dir or Path(model_cache or MODEL_CACHE).absolute()
    anonymous = Project("", "", {})
    roots = [make_context(entry, anonymous, settings, cache) for entry in config.entries]
    project = Project(
        id=settings.project or hashlib.sha256(os.path.realpath(config.path).encode()).hexdigest()[:16],
        config=str(config.path),
        entries=project_entries(config.entries),
        roots=tuple(sorted({str(p.path) for t in roots for p in t.roots})),
    )
    contexts = tuple(make_context(entry, project, settings, cache) for entry in config.entries)
    _refuse_own_source(contexts)
    warnings = config.warnings
    if not contexts:
        warnings += (f"{config.path.name}: no model_cache entries, nothing to fetch",)
    return Workspace(config.path, settings, cache, contexts, project, warnings)


def _refuse_own_source(contexts: Iterable[EntryContext]) -> None:
    """Refuse a `file://` entry whose cache folder is, or lies in, its own source, which `clean` would take away."""
    for context in contexts:
        source = context.entry.request.source
        if not source.store.is_local:
            continue
        names = {Layout.BUCKET: os.path.basename(source.root), Layout.VOLUME: context.entry.request.folder}
        theirs = Path(os.path.realpath(context.entry.config.parent / source.root))
        ours = Path(os.path.realpath(context.root.path / names.get(context.entry.request.layout, "")))
        if theirs == ours or theirs in ours.parents:
            raise ConfigError(
                f"{context.entry.where}.repo_id: the cache folder {ours} is, or lies in, the source {theirs}",
                hint="Put the cache elsewhere: TRUSS_MODEL_CACHE_DIR, cache_tasks(model_cache_dir=), TRUSS_MOUNT_ROOT.",
            )
