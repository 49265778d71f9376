"""Find the cache roots that a project may use, or that any project of this machine is known to use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.model.records import Project
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.store.layouts.flat_layout import flat_root
from truss_cache_tasks.store.layouts.hub_layout import hub_root
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.dead_claims import DeadRule
from truss_cache_tasks.store.records.known_roots import (
    KnownRoots,
    forget_empty_roots,
    known_roots,
    known_roots_by_project,
)
from truss_cache_tasks.store.removal.clean import roots_of


def roots_of_project(
    contexts: Iterable[EntryContext], project: Project, settings: Settings, model_cache: Path
) -> list[CacheRoot]:
    """Return every root where this project may have claims.

    These are the roots of its entries, the model cache, all repos of the hub caches, and the roots that earlier runs
    have written into the claims there and into the state folder.
    """
    found = _default_roots({root.path: root for context in contexts for root in context.roots}, settings, model_cache)
    known = {path for root in found.values() for path in roots_of(root, project.id)}
    return _with_known(found, known | known_roots(settings, project))


def roots_of_machine(settings: Settings, model_cache: Path) -> list[CacheRoot]:
    """Return the model cache, all repos of the hub cache, and the roots that any project has used here."""
    return _with_known(_default_roots({}, settings, model_cache), _all_known(settings))


def roots_of_other_fetches(context: EntryContext) -> set[Path]:
    """Return the paths of the cache roots in which other fetches of this user may reserve space now."""
    hubs = {root.layout.hub for root in context.roots if root.layout.hub is not None}
    return {*map(Path, _all_known(context.settings)), *(repo for hub in hubs for repo in _repos(hub))}


def with_roots_of_gone_projects(roots: Iterable[CacheRoot], settings: Settings, rule: DeadRule) -> list[CacheRoot]:
    """Return `roots`, and those of configs that are gone from this host, which no command with a config looks at."""
    known = {path for project in _gone_projects(settings, rule).values() for path in project.roots}
    return _with_known({root.path: root for root in roots}, known)


def forget_gone_projects(settings: Settings, rule: DeadRule) -> None:
    """Forget the roots in which nothing of ours is, of the configs of this host which are gone. Raises DiskError."""
    for project, known in _gone_projects(settings, rule).items():
        forget_empty_roots(settings, Project(id=project, config=known.config, entries={}, host=known.host))


def _gone_projects(settings: Settings, rule: DeadRule) -> dict[str, KnownRoots]:
    return {
        project: known
        for project, known in known_roots_by_project(settings).items()
        if known.config
        and known.host == rule.host
        and rule.is_gone(known.config)
        and not rule.project_of((project, ""))
    }


def budget_roots(root: CacheRoot) -> list[CacheRoot]:
    """Return the roots that have one budget with `root`: all repos of its hub cache, else itself alone."""
    hub = root.layout.hub
    return [root] if hub is None else [root, *(hub_root(repo) for repo in _repos(hub) if repo != root.path)]


def _default_roots(found: dict[Path, CacheRoot], settings: Settings, model_cache: Path) -> dict[Path, CacheRoot]:
    found.setdefault(model_cache, flat_root(model_cache))
    hubs = {root.layout.hub for root in found.values() if root.layout.hub is not None} | {settings.hub_cache()}
    for repo in (repo for hub in hubs for repo in _repos(hub)):
        found.setdefault(repo, hub_root(repo))
    return found


def _all_known(settings: Settings) -> set[str]:
    return {path for known in known_roots_by_project(settings).values() for path in known.roots}


def _repos(hub: Path) -> list[Path]:
    return sorted(hub.glob("models--*"))


def _with_known(found: dict[Path, CacheRoot], known: Iterable[str]) -> list[CacheRoot]:
    for path in map(Path, sorted(set(known) - {str(path) for path in found})):
        found[path] = hub_root(path) if path.name.startswith("models--") else flat_root(path)
    return list(found.values())
