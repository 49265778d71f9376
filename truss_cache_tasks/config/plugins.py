"""Find the stores of other packages: entry points of one group, each named by the scheme that it serves.

    [project.entry-points."truss_cache_tasks.stores"]
    dav = "truss_cache_webdav:WEBDAV"          # a Store, in a module that imports little

The entry points are looked for when a config has a scheme that is not registered, and before a fetch, to find one that
has a scheme of ours. Looking for them imports nothing of those packages; only the one with the wanted scheme is loaded.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from truss_cache_tasks.config.fields import InvalidText
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.stores import OURS, Store, find_store, register_store

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "truss_cache_tasks.stores"

_LOADING = threading.RLock()  # held while a row is loaded and registered; its module may read a config


def find_or_load_store(scheme: str) -> Store | None:
    """Return the row of a scheme: a registered one, else that of an installed package, which is registered now.

    Raises:
        InvalidText: the package cannot be imported, does not give a row that can be registered, or is not the only one
            with this scheme.
    """
    if (store := find_store(scheme)) is not None:
        return store
    with _LOADING:
        return find_store(scheme) or _load(scheme)


def installed_schemes() -> list[str]:
    """Return the schemes of the installed packages with a store, sorted, for a message. Imports nothing of them."""
    try:
        return sorted({point.name for point in _entry_points()})
    except InvalidText:
        return []


@functools.cache
def refuse_clashes() -> None:
    """Raise ConfigError if an installed package has a store with a scheme of ours. Imports nothing of it.

    A process that found none does not look again. A package whose metadata cannot be read stops no fetch of our stores.
    """
    try:
        clash = _clash(_entry_points())
    except InvalidText:
        return
    if clash is not None:
        raise ConfigError(clash.message, hint=clash.hint)


def _entry_points() -> tuple[EntryPoint, ...]:
    """Return the entry points of all stores. Raises InvalidText where the metadata of any package cannot be read."""
    from importlib.metadata import entry_points  # takes 15 ms, and a config with schemes of ours needs none

    try:
        return tuple(entry_points(group=GROUP))
    except Exception as exc:  # of the parser, or of the disk
        found = f"the metadata of an installed package cannot be read ({type(exc).__name__})"
        raise InvalidText(found, "Install the packages of this Python anew.") from exc


def _clash(points: Iterable[EntryPoint]) -> InvalidText | None:
    ours = {scheme for store in OURS for scheme in store.schemes}
    for point in points:
        if point.name in ours:
            found = f"{point.name}:// is a scheme of truss-cache-tasks, and the package {_package(point)} has it too"
            return InvalidText(found, _uninstall(point))
    return None


def _load(scheme: str) -> Store | None:
    points = _entry_points()
    if (clash := _clash(points)) is not None:
        raise clash
    found = [point for point in points if point.name == scheme]
    if not found:
        return None
    if len(found) > 1:
        packages = " and ".join(sorted(map(_package, found)))
        raise InvalidText(f"{scheme}:// is a store of the packages {packages}, expected one", _uninstall(found[-1]))
    (point,) = found
    try:
        row = point.load()
    except (Exception, SystemExit) as exc:
        why = f"{type(exc).__name__}: {exc}" if isinstance(exc, ImportError) else type(exc).__name__
        raise _broken(point, f"which cannot be imported ({' '.join(why.split())})") from exc
    if not isinstance(row, Store):
        raise _broken(point, f"which gives a {type(row).__name__}, expected a Store ({point.value})")
    if isinstance(row.schemes, tuple) and scheme not in row.schemes:
        raise _broken(point, f"whose row has no such scheme ({point.value})")
    if find_store(scheme) is not row:  # its module may have registered it
        try:
            register_store(row)
        except ValueError as exc:
            raise _broken(point, f"whose row is refused: {exc}") from exc
    return row


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _broken(point: EntryPoint, what: str) -> InvalidText:
    hint = "Install another version of that package, or tell its author."
    return InvalidText(f"{point.name}:// is a store of the package {_package(point)}, {what}", hint)


def _uninstall(point: EntryPoint) -> str:
    return f"Uninstall it: pip uninstall {point.dist.name}." if point.dist is not None else "Uninstall it."
