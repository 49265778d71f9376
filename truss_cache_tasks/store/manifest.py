"""Manifest <-> JSON, with a format number; reading them from a cache root and replacing them there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from truss_cache_tasks.planning.keys import RequestKey
from truss_cache_tasks.planning.records import FORMAT, FileRecord, Manifest
from truss_cache_tasks.planning.request import Form
from truss_cache_tasks.store import reading
from truss_cache_tasks.store.disk import disk_errors, remove_hollow, write_json
from truss_cache_tasks.store.layout import Place
from truss_cache_tasks.store.reading import Unreadable

__all__ = [
    "Unreadable",
    "from_json",
    "read_all",
    "read_manifest",
    "remove_manifests",
    "request_keys",
    "to_json",
    "write_manifest",
]

_DIGEST = re.compile("[a-z0-9-]+:[0-9a-f]+")  # in the hub cache a file is named by it

_MANIFEST = {
    "key": reading.is_key,
    "request": reading.is_form,
    "revision": reading.is_text,
    "folder": reading.is_path_or_none,
    "files": lambda value: isinstance(value, list) and bool(value),
}
_REQUEST = {"form": reading.is_text, "revision": reading.is_text, "source": reading.is_text}
_FILE = {
    "path": reading.is_path,
    "size": reading.is_size,
    "mtime_ns": reading.is_integer,
    "identity": reading.is_text,
    "origin": reading.is_text,
    "digest": reading.is_text,
    "xxh3": reading.is_text,
    "blob": reading.is_path_or_none,
    "made_link": reading.is_bool,
    "made_blob": reading.is_bool,
}
_HUB_FILE = {**_FILE, "identity": lambda value: reading.is_text(value) and _DIGEST.fullmatch(value) is not None}


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Return the JSON form of docs/on-disk-format.md."""
    return {
        "format": FORMAT,
        "key": manifest.key,
        "request": dict(manifest.request),
        "revision": manifest.revision,
        "folder": manifest.folder,
        "snapshot": manifest.snapshot,
        "files": [dict(vars(file)) for file in manifest.files],
        "unverified": sum(not file.digest for file in manifest.files),
    }


def from_json(value: Any) -> Manifest:
    """Return the manifest. Raises Unreadable for another format, and for any field that is not as it must be.

    A manifest may come from anywhere: no path leads out of the root, and no number is one that a disk cannot have.
    """
    found = reading.check_fields(reading.check_format(value), _MANIFEST, "the manifest", more=True)
    request = reading.check_fields(found["request"], _REQUEST, "the request", more=True)
    checks = _HUB_FILE if request["form"] == Form.HUB else _FILE
    files = tuple(
        FileRecord(**reading.check_fields(file, checks, f"files[{number}]"))
        for number, file in enumerate(found["files"])
    )
    return Manifest(RequestKey(found["key"]), found["request"], found["revision"], found["folder"], files)


def read_manifest(place: Place, key: str) -> Manifest | None:
    """Return the current manifest of this request, None without one. Raises Unreadable."""
    return _read(_path(place, key))


def read_all(place: Place) -> list[Manifest]:
    """Return every readable manifest of this root, superseded ones too."""
    found = []
    for path in _paths(place):
        try:
            manifest = _read(path)
        except Unreadable:
            continue
        if manifest is not None:
            found.append(manifest)
    return found


def request_keys(place: Place) -> set[str]:
    """Return the request key of every manifest of this root, superseded and unreadable ones too."""
    return {path.name.partition(".")[0] for path in _paths(place)}


def write_manifest(place: Place, manifest: Manifest) -> None:
    """Make this the current manifest of its request. One that it supersedes stays beside it, for `clean`."""
    path = _path(place, manifest.key)
    try:
        old = _read(path)
    except Unreadable:
        old = None
    if old is not None and {f.path for f in old.files} - {f.path for f in manifest.files}:
        write_json(path.with_name(f"{old.key}.{old.snapshot[:12]}.json"), to_json(old))
    remove_hollow(path)
    write_json(path, to_json(manifest))


def remove_manifests(place: Place, key: str) -> None:
    """Remove the manifest of this request, superseded ones too."""
    with disk_errors(f"cannot remove the records of {key[:12]}"):
        for path in [_path(place, key), *(place.records / "manifests").glob(f"{key}.*.json")]:
            remove_hollow(path)
            path.unlink(missing_ok=True)


def _path(place: Place, key: str) -> Path:
    return place.records / "manifests" / f"{key}.json"


def _paths(place: Place) -> list[Path]:
    with disk_errors(f"cannot read {place.records}"):
        return sorted((place.records / "manifests").glob("*.json"))


def _read(path: Path) -> Manifest | None:
    try:
        value = reading.read_record(path)
        if value is None:
            return None
        manifest = from_json(value)
        if manifest.key != path.name.partition(".")[0]:
            raise Unreadable(f"it is of another request, {manifest.key[:12]}")
        return manifest
    except Unreadable as exc:
        raise Unreadable(f"the manifest cannot be used: {exc}") from exc
