"""Manifests as JSON with a format number: read from a cache root, and replaced there."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from truss_cache_tasks.model.keys import RequestKey
from truss_cache_tasks.model.listing import DIGITS
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import FORMAT, FileRecord, Manifest
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store import reading
from truss_cache_tasks.store.disk import disk_errors, write_json
from truss_cache_tasks.store.layout import MANIFEST, CacheRoot, is_commit
from truss_cache_tasks.store.reading import Unreadable
from truss_cache_tasks.store.tree import FileTree

__all__ = [
    "Unreadable",
    "are_all_readable",
    "from_json",
    "note_hidden",
    "read_all",
    "read_manifest",
    "remove_manifests",
    "request_keys",
    "to_json",
    "write_manifest",
]

_FOLDER = f"{RECORDS}/manifests"
_IDENTITY = re.compile("[a-z0-9-]+:[0-9a-f]+")  # in the hub cache a file is named by it
_KNOWN_DIGEST = re.compile(rf"(?:(?:{'|'.join(DIGITS)})(?:-composite|-gzip)?:[0-9a-f]+)?")
_MISPARSED = re.compile(r"([a-z0-9]+):((?:[a-z0-9]+-)+)([0-9a-f]+)")  # 0.1.0 wrote `git:sha1-HEX` after a failed run

_MANIFEST = {
    "key": reading.is_key,
    "request": reading.is_form,
    "revision": lambda value: value == "" or (reading.is_text(value) and is_commit(value)),
    "folder": reading.is_path_or_none,
    "files": lambda value: isinstance(value, list) and bool(value),
    "hidden": lambda value: isinstance(value, list) and all(map(reading.is_path, value)),
}
_REQUEST = {"form": reading.is_text, "revision": reading.is_text, "source": reading.is_text}
_FILE = {
    "path": reading.is_path,
    "size": reading.is_size,
    "mtime_ns": reading.is_integer,
    "identity": reading.is_text,
    "origin": reading.is_text,
    "digest": lambda value: reading.is_text(value) and _KNOWN_DIGEST.fullmatch(value) is not None,
    "xxh3": reading.is_text,
    "blob": reading.is_path_or_none,
    "made_link": reading.is_bool,
    "made_blob": reading.is_bool,
    "stored_size": reading.is_size,
}
_HUB_FILE = {**_FILE, "identity": lambda value: reading.is_text(value) and _IDENTITY.fullmatch(value) is not None}


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Return the JSON form of docs/on-disk-format.md."""
    return {
        "format": FORMAT,
        "key": manifest.key,
        "request": dict(manifest.request),
        "revision": manifest.revision,
        "folder": manifest.folder,
        "snapshot": manifest.snapshot,
        "files": [_file_to_json(file) for file in manifest.files],
        "unverified": sum(not file.digest for file in manifest.files),
        **({"hidden": sorted(manifest.hidden)} if manifest.hidden else {}),
    }


def _file_to_json(file: FileRecord) -> dict[str, Any]:
    fields = dict(vars(file))
    if file.stored_size is None:
        del fields["stored_size"]
    return fields


def from_json(value: Any) -> Manifest:
    """Return the manifest. Raises Unreadable for another format, and for any field that is not as it must be.

    A manifest may come from anywhere: no path leads out of the root, and no number is one that a disk cannot have.
    """
    found = reading.check_fields(
        reading.check_format(value), _MANIFEST, "the manifest", optional=("hidden",), more=True
    )
    request = reading.check_fields(found["request"], _REQUEST, "the request", more=True)
    checks = _HUB_FILE if request["form"] == Layout.HUB else _FILE
    files = tuple(
        FileRecord(**reading.check_fields(_mended(file), checks, f"files[{number}]", optional=("stored_size",)))
        for number, file in enumerate(found["files"])
    )
    return Manifest(
        RequestKey(found["key"]),
        found["request"],
        found["revision"],
        found["folder"],
        files,
        frozenset(found.get("hidden", ())),
    )


def _mended(file: Any) -> Any:
    """Return a file's JSON with its digest as it was meant: `git:sha1-HEX` stands for `git-sha1:HEX`."""
    if isinstance(file, dict) and (wrong := _MISPARSED.fullmatch(str(file.get("digest")))):
        return {**file, "digest": f"{wrong[1]}-{wrong[2].rstrip('-')}:{wrong[3]}"}
    return file


def read_manifest(place: CacheRoot, key: str) -> Manifest | None:
    """Return the current manifest of this request, None without one. Raises Unreadable."""
    return _read(place, _path(key))


def read_all(place: CacheRoot) -> list[Manifest]:
    """Return every readable manifest of this root, superseded ones too."""
    found = []
    for path in _paths(place):
        try:
            manifest = _read(place, path)
        except Unreadable:
            continue
        if manifest is not None:
            found.append(manifest)
    return found


def request_keys(place: CacheRoot) -> set[str]:
    """Return the request key of every manifest of this root, superseded and unreadable ones too."""
    return {os.path.basename(path).partition(".")[0] for path in _paths(place)}


def are_all_readable(place: CacheRoot) -> bool:
    """Whether it is known what every manifest of this root lists."""
    try:
        return all(_read(place, path) is not None for path in _paths(place))
    except Unreadable:
        return False


def write_manifest(place: CacheRoot, manifest: Manifest) -> None:
    """Make this the current manifest of its request. One that it supersedes stays beside it, for `clean`."""
    path = _path(manifest.key)
    old = None
    with contextlib.suppress(Unreadable):
        old = _read(place, path)
        if old == manifest and reading.read_record(place.tree, path) == to_json(manifest):
            return
    if old is not None and {f.path for f in old.files} - {f.path for f in manifest.files}:
        write_json(place.tree, _path_of_superseded(old), to_json(old))
    place.tree.remove_hollow(path)
    write_json(place.tree, path, to_json(manifest))


def note_hidden(place: CacheRoot, paths: Mapping[str, str]) -> None:
    """Note in every manifest of this root which of its files are no longer visible: other bytes there are not its.

    Args:
        paths: path -> xxh3 of what is, or is about to be, visible there; "" for nothing.
    """
    for path in _paths(place):
        with contextlib.suppress(Unreadable):
            manifest = _read(place, path)
            if manifest is None:
                continue
            hidden = manifest.hidden | {
                file.path for file in manifest.files if paths.get(file.path, file.xxh3) != file.xxh3
            }
            if hidden != manifest.hidden:
                write_json(place.tree, path, to_json(replace(manifest, hidden=hidden)))


def remove_manifests(place: CacheRoot, key: str) -> None:
    """Remove the manifest of this request, superseded ones too."""
    with disk_errors(f"cannot remove the records of {key[:12]}"):
        for path in _paths(place):
            if os.path.basename(path).startswith(f"{key}."):
                place.tree.remove_hollow(path)
                place.tree.unlink(path)


def _path(key: str) -> str:
    return f"{_FOLDER}/{key}.json"


def _path_of_superseded(manifest: Manifest) -> str:
    return f"{_FOLDER}/{manifest.key}.{manifest.snapshot[:12]}.json"


def _paths(place: CacheRoot) -> list[str]:
    with disk_errors(f"cannot read {place.records}"):
        return sorted(f"{_FOLDER}/{name}" for name in place.tree.names(_FOLDER) if MANIFEST.fullmatch(name))


def _read(place: CacheRoot, path: str) -> Manifest | None:
    return reading.read_once(_parse, place.tree, path)


def _parse(root: FileTree, path: str) -> Manifest | None:
    try:
        value = reading.read_record(root, path)
        if value is None:
            return None
        manifest = from_json(value)
        if manifest.key != os.path.basename(path).partition(".")[0]:
            raise Unreadable(f"it is of another request, {manifest.key[:12]}")
        return manifest
    except Unreadable as exc:
        raise Unreadable(f"the manifest cannot be used: {exc}") from exc
