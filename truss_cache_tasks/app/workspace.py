"""Workspace: a config with its entries' contexts on this machine, for the doit tasks, the commands and `fetch`."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from truss_cache_tasks.app import output
from truss_cache_tasks.config.entries import Config
from truss_cache_tasks.config.files import shown_path
from truss_cache_tasks.config.settings import Settings, read_settings
from truss_cache_tasks.errors import ConfigError, missing_package
from truss_cache_tasks.model.records import LOCK_NAME, Project
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.model.status import Evidence, Need, Status, Verdict
from truss_cache_tasks.operations.context import EntryContext, make_context, project_entries, read_status
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.names import pin_name
from truss_cache_tasks.store.records.claims import read_pins

if TYPE_CHECKING:
    from truss_cache_tasks.model.lockfile import LockFile
    from truss_cache_tasks.network.cancel import CancelToken
    from truss_cache_tasks.operations.forecast import Forecast
    from truss_cache_tasks.operations.run import RunContext
    from truss_cache_tasks.store.entries.conflicts import ShownFiles
    from truss_cache_tasks.store.removal.removal import Cleaned

MODEL_CACHE = Path("/app/model_cache")  # where Truss's own images have it
RUN_LOCK = "Run `truss-cache lock` or `doit cache-lock`"  # a hint


class Workspace:
    """One config's entries on this machine, and what this process has read about them.

    Attributes:
        path: absolute path of the config file.
        settings: of the environment, and of the call or command line.
        model_cache: absolute path of the model cache.
        contexts: of the entries, in the order of the file.
        project: the one that the claims are made for.
        warnings: of the config; written once, before the first status is read.
        run_id: `RunContext.id` of what this process runs.
        verdicts: by the entry's name, of those whose status was read.
        lock: the lock file beside the config; None without one, and for one that cannot be used.
        lock_error: why it cannot be used; None where it can, or there is none.
        lock_warning: about entries that the lock file does not have; "" for none.
        outdated: why nothing may be fetched under TRUSS_CACHE_LOCKED; None if it may.
    """

    # No dataclass: `dataclasses` imports `inspect`, which costs the console script more than all modules of store/
    def __init__(  # noqa: PLR0917  # the values of one config
        self,
        path: Path,
        settings: Settings,
        model_cache: Path,
        contexts: tuple[EntryContext, ...],
        project: Project,
        warnings: tuple[str, ...],
    ) -> None:
        self.path = path
        self.settings = settings
        self.model_cache = model_cache
        self.contexts = contexts
        self.project = project
        self.warnings = warnings
        self.run_id = os.urandom(16).hex()
        self.verdicts: dict[str, Verdict] = {}
        self.lock: LockFile | None = None
        self.lock_error: ConfigError | None = None
        self.outdated: ConfigError | None = None
        self.lock_warning = ""
        self._shown: dict[Path, ShownFiles] = {}  # by cache root, for forecasts

    @cached_property
    def cleaned(self) -> Cleaned:
        """What all calls of `clean` in this process removed together."""
        from truss_cache_tasks.store.removal.removal import Cleaned

        return Cleaned(run=self.run_id)

    def require_readable_lock(self) -> None:
        """Raise ConfigError if there is a lock file that cannot be used: then no status can be computed."""
        if self.lock_error is not None:
            raise self.lock_error

    def require_lock(self) -> None:
        """Raise ConfigError if nothing may be fetched because of the lock file."""
        self.require_readable_lock()
        if self.outdated is not None:
            raise self.outdated

    def require_server(self, context: EntryContext) -> None:
        """Raise ConfigError if the server of an entry cannot be asked: a package has a scheme of ours, or HF_ENDPOINT.

        Called once it is known that the entry is stale: a run without work does not look for packages.
        """
        from truss_cache_tasks.config.plugins import refuse_clashes

        refuse_clashes()
        if context.entry.request.source.store.is_hub:
            self.settings.require_hub_endpoint()

    def require_event_log(self, *, is_running: bool) -> None:
        """Raise ConfigError if the events of a run are to be logged, and cannot be.

        Args:
            is_running: the run begins now; else a FIFO is not opened, as this may be the status of a task alone.
        """
        if self.settings.events is not None:
            from truss_cache_tasks.app.event_log import check_event_log, open_event_log  # not needed without a log

            (open_event_log if is_running else check_event_log)(self.settings.events)

    def warn(self) -> None:
        """Write the warnings of the config and the lock file to stderr, once a process."""
        output.warn_once(self.all_warnings)

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """The warnings of the config, and that of the lock file."""
        return (*self.warnings, self.lock_warning) if self.lock_warning else self.warnings

    def read_status(self, context: EntryContext) -> Status:
        """Read an entry's status and keep the verdict. An internal error makes it stale; its run raises it again."""
        self.warn()
        try:
            status = read_status(context)
        except Exception as exc:
            status = Status(Evidence(), Verdict(Need.FETCH, (output.format_internal_error(exc),)))
        self.verdicts[context.name] = status.verdict
        return status

    def is_forced(self, context: EntryContext) -> bool:
        """Return whether this stale entry is known to be forced by `doit run -a`, of which doit itself does not tell.

        It is known if another entry with the same pin moved the pin in this run, although that entry was fresh:
        only `-a` runs a fresh entry.
        """
        moving = pin_name(context.entry.request)
        try:
            pin = read_pins(context.root).get(moving) if moving else None
        except OSError:  # the entry's run raises the same error
            return False
        if pin is None or pin.run != self.run_id or pin.by == context.name:
            return False
        return pin.by in self.verdicts and self.verdicts[pin.by].fresh

    def is_fresh(self, context: EntryContext) -> bool:
        """Return whether an entry is fresh, by the verdict that was kept, or else by reading its status."""
        verdict = self.verdicts.get(context.name) or self.read_status(context).verdict
        return verdict.fresh

    def forecast(self, context: EntryContext, status: Status, *, hashing: bool, cancel: CancelToken) -> Forecast:
        """Return `forecast()` of an entry. The files that the config's entries show are read once for each root."""
        from truss_cache_tasks.operations.forecast import forecast  # not needed by a run of fresh entries
        from truss_cache_tasks.store.entries.conflicts import find_shown_files

        if context.root.path not in self._shown and status.verdict.need > Need.CLAIM:
            with disk_errors(f"cannot look at {context.root.path}"):
                self._shown[context.root.path] = find_shown_files(context.root, self.project)
        shown = self._shown.get(context.root.path)
        return forecast(context, status, hashing=hashing, cancel=cancel, shown=shown)

    @contextlib.contextmanager
    def showing_run(self, context: EntryContext, *, quiet: bool = False) -> Iterator[RunContext]:
        """Show the progress of one entry for the block, which asks its store; SIGINT and SIGTERM end that."""
        from truss_cache_tasks.app import signals
        from truss_cache_tasks.app.display.display import shared_display
        from truss_cache_tasks.operations.run import RunContext

        with shared_display(quiet=quiet).showing(context.name, context.entry.where) as reporter:
            yield RunContext(id=self.run_id, reporter=reporter, cancel=signals.CANCEL)

    def choose(self, names: Iterable[str] | str | None) -> list[EntryContext]:
        """Return the entries with these names (a str is one), each once; None: all.

        Raises:
            ConfigError: no entry has one of them.
        """
        if names is None:
            return list(self.contexts)
        names = [names] if isinstance(names, str) else names
        known = {context.name: context for context in self.contexts}
        for name in (names := list(dict.fromkeys(names))):
            if name not in known:
                there = ", ".join(known) or "none"
                raise ConfigError(f"no entry is called {name!r}", hint=f"Name one of this config: {there}.")
        return [known[name] for name in names]

    def clean(self, names: Collection[str] | None, *, dry: bool) -> Cleaned:
        """Invalidate these entries and return `cleaned`; None: all, and those that left the config."""
        from truss_cache_tasks.app.display.display import shared_display
        from truss_cache_tasks.operations.clean import clean
        from truss_cache_tasks.operations.run import RunContext

        with shared_display().showing("clean") as reporter:
            clean(
                self.contexts,
                names,
                self.cleaned,
                project=self.project,
                settings=self.settings,
                model_cache=self.model_cache,
                dry=dry,
                on_wait=RunContext(id=self.run_id, reporter=reporter).waits_for_root,
            )
        output.warn_once(self.cleaned.warnings)
        return self.cleaned


def open_workspace(
    path: Config | Path | str | None,
    model_cache: Path | str | None = None,
    started: Path | str | None = None,
    *,
    replace: bool = False,
    accept_unverified: bool = False,
    follow_links: bool = False,
    events: Path | None = None,
    strict_patterns: bool = False,
    digests: Mapping[str, str] | None = None,
) -> Workspace:
    """Return the workspace of a config, with the settings of the environment. Reads no cache and sends no request.

    Args:
        path: the config as it was loaded, its file or folder, or None for TRUSS_CONFIG, else the current folder.
        model_cache: `model_cache_dir` of `cache_tasks` or `fetch`; TRUSS_MODEL_CACHE_DIR takes precedence.
        started: what relative paths in our variables are relative to; None: the current folder.
        replace, accept_unverified, follow_links: True sets the field of that name in Settings, as its variable does.
        events: in place of TRUSS_CACHE_EVENTS.
        strict_patterns: sets the field of that name in Settings.
        digests: URL -> `sha256:hex` of files of web servers, besides those of TRUSS_CACHE_DIGESTS.

    Raises:
        ConfigError: `file:line: field: message` and a hint.
        MissingPackage: PyYAML is not installed.
    """
    base = Path(started or Path.cwd())
    settings = read_settings(os.environ, base)
    settings = settings._replace(
        replace=settings.replace or replace,
        accept_unverified=settings.accept_unverified or accept_unverified,
        follow_links=settings.follow_links or follow_links,
        events=events or settings.events,
        strict_patterns=strict_patterns,
    )
    if path is None:
        path = base / settings.config if settings.config else Path.cwd()
    config = path if isinstance(path, Config) else _read_config(path)
    if digests or settings.digests:
        config = _with_digests(config, settings, digests or {})
    cache = settings.model_cache_dir or Path(model_cache or MODEL_CACHE).absolute()
    project = Project(
        id=settings.project or hashlib.sha256(os.fsencode(os.path.realpath(config.path))).hexdigest()[:16],
        config=os.path.realpath(config.path),  # a link to it may go, or lead elsewhere, while the config lives
        entries=project_entries(config.entries),
        host=os.uname().nodename,
        is_named=settings.project is not None,
    )
    contexts = tuple(make_context(entry, project, settings, cache) for entry in config.entries)
    roots = {str(root.path) for context in contexts for root in context.roots}
    project = project._replace(roots=tuple(sorted(roots)))
    contexts = tuple(context._replace(project=project) for context in contexts)
    _refuse_own_source(contexts)
    workspace = Workspace(config.path, settings, cache, contexts, project, config.warnings)
    if not contexts:
        workspace.warnings += (f"{config.path.name}: no model_cache entries, nothing to fetch",)
    if settings.locked or os.path.lexists(config.path.parent / LOCK_NAME):
        _add_lock(workspace)
    return workspace


def _with_digests(config: Config, settings: Settings, digests: Mapping[str, str]) -> Config:
    """Return the config with the digests that were given for its files of web servers."""
    from truss_cache_tasks.config.digests import merge_digests, parse_digests, with_digests  # not needed without any

    if not isinstance(digests, Mapping):
        found = type(digests).__name__
        raise ConfigError(f"digests: found a {found}, expected a dict", hint='Write {"https://...": "sha256:..."}.')
    variable = parse_digests(settings.digests, "TRUSS_CACHE_DIGESTS")
    ours = parse_digests(digests.items(), "digests")
    config, unknown = with_digests(config, merge_digests(variable, ours, "digests"))
    for source in unknown:
        message = f"{source}: no entry of {config.path.name} has this source"
        if source in ours:
            raise ConfigError(f"digests: {message}", hint="Write the URL as the config has it, with its query.")
        # the variable may be for several configs
        config = config._replace(warnings=(*config.warnings, f"TRUSS_CACHE_DIGESTS: {message}"))
    return config


def _read_config(path: str | Path) -> Config:
    try:
        from truss_cache_tasks.config.loader import load_config  # imports PyYAML, which may not be there
    except ModuleNotFoundError as exc:
        raise missing_package(exc) or exc from None
    return load_config(path)


def _add_lock(workspace: Workspace) -> None:
    """Read the lock file, and give each context what it says of the entry."""
    from truss_cache_tasks.config.lockfile import lock_path, read_lock  # not needed without a lock file

    requests = {context.name: context.entry.request for context in workspace.contexts}
    name = shown_path(lock_path(workspace.path))
    try:
        workspace.lock = read_lock(workspace.path, requests.values())
    except ConfigError as error:
        workspace.lock_error = error
        return
    if workspace.lock is None:
        if requests and workspace.settings.locked:
            missing = f"{name}: found no such file, expected one, as TRUSS_CACHE_LOCKED is set"
            workspace.outdated = ConfigError(missing, hint=f"{RUN_LOCK} and commit the file.")
        return
    found = {context.name: workspace.lock.find(context.entry.request) for context in workspace.contexts}
    workspace.contexts = tuple(c._replace(locked=found[c.name]) for c in workspace.contexts)
    outdated = workspace.lock.find_outdated(requests)
    if outdated and workspace.settings.locked:
        workspace.outdated = ConfigError(f"{name}: outdated: {'; '.join(outdated)}", hint=f"{RUN_LOCK}.")
    unknown = [name for name, locked in found.items() if locked is None or not locked.is_complete]
    if unknown:
        count = output.format_count(len(unknown), "entry is", "entries are")
        workspace.lock_warning = f"{name}: {count} not in it: {', '.join(unknown)}. {RUN_LOCK}."


def machine_settings() -> tuple[Settings, Path]:
    """Return the settings of the environment, and the model cache without a config. Raises ConfigError."""
    settings = read_settings(os.environ, Path.cwd())
    return settings, settings.model_cache_dir or MODEL_CACHE


def _refuse_own_source(contexts: Iterable[EntryContext]) -> None:
    """Raise ConfigError for a `file://` entry whose cache folder is in its source: `clean` would remove files of it."""
    real_folders: dict[str, str] = {}  # most entries have the same two
    for context in contexts:
        source = context.entry.request.source
        if not source.store.is_local:
            continue
        names = {Layout.BUCKET: os.path.basename(source.root), Layout.VOLUME: context.entry.request.folder}
        theirs = _real_path(os.path.join(context.entry.config.parent, source.root), real_folders)
        ours = _real_path(os.path.join(context.root.path, names.get(context.entry.request.layout, "")), real_folders)
        if f"{ours}/".startswith(f"{theirs.rstrip('/')}/"):
            raise ConfigError(
                f"{context.entry.where}.repo_id: the cache folder {ours} is, or lies in, the source {theirs}",
                hint="Put the cache elsewhere: TRUSS_MODEL_CACHE_DIR, cache_tasks(model_cache_dir=), TRUSS_MOUNT_ROOT.",
            )


def _real_path(path: str, folders: dict[str, str]) -> str:
    """Return `os.path.realpath(path)`; that of its folder is kept in `folders`."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    path = os.path.join(folders[folder], name)
    return os.path.realpath(path) if os.path.islink(path) else path
