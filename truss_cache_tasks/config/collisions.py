"""Refuse two entries of one config that make the same request or have the same folder."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.request import Layout, Request


def refuse_collisions(entries: Iterable[Entry]) -> None:
    """Raise ConfigError, naming both lines, where two entries make the same request or have the same folder.

    A folder inside another's, and buckets of the same name in two stores, are allowed here: their files are compared
    once the listings are known (`store/entries/conflicts.py`).
    """
    seen: dict[Hashable, Entry] = {}
    for entry in entries:
        same = seen.setdefault(_comparable(entry.request), entry)
        if same is not entry:
            _refuse(entry, same, "the same as", "Remove one of the two.")
        for folder, message, hint in _own_folder(entry.request):
            other = seen.setdefault(folder, entry)
            if other is not entry:
                _refuse(entry, other, message, hint)


def _comparable(request: Request) -> Hashable:
    """Return a value that is equal for equal requests: the order and repetition of patterns do not count."""
    allow = None if request.allow is None else frozenset(request.allow)
    where = (request.layout, request.folder)
    return (request.source, request.revision, allow, frozenset(request.ignore), *where)


def _own_folder(request: Request) -> list[tuple[Hashable, str, str]]:
    """Return (folder as a key, message, hint) of the folder that only this entry may use; [] where there is none."""
    if request.layout is Layout.VOLUME:
        message = f"volume_folder {request.folder!r} goes to the same folder as"
        return [(("model cache", request.folder), message, "Give each entry a volume_folder of its own.")]
    if request.layout is Layout.MOUNT:
        message = f"mount_location {request.folder!r} is that of"
        return [(("mount", request.folder), message, "Give each entry a mount_location of its own.")]
    if request.layout is Layout.BUCKET and request.source.store.is_local:
        name = request.source.cache_path
        hint = "Rename one folder, or set use_volume and a volume_folder."
        return [(("model cache", name), f"{name!r} goes to the same folder as", hint)]
    if request.layout is Layout.BUCKET and request.source.store.is_web:
        name = request.source.cache_path
        hint = "Remove one of the two, or set use_volume and a volume_folder."
        return [(("file", name), f"{name!r} is the same file as that of", hint)]
    return []


def _refuse(entry: Entry, other: Entry, message: str, hint: str) -> None:
    _, line, field = other.where.rsplit(":", 2)
    raise ConfigError(f"{entry.where}: {message} {field.strip()} on line {line}", hint=hint)
