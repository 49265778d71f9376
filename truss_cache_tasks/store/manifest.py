"""Manifest <-> JSON, with a format number; reading them from a cache root and replacing them there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from truss_cache_tasks.planning.keys import RequestKey
from truss_cache_tasks.planning.records import FORMAT, FileRecord, Manifest
from truss_cache_tasks.store.disk import disk_errors, write_json
from truss_cache_tasks.store.layout import Place


class Unreadable(Exception):
    """A record that is there and cannot be used; the text says why. It is a miss with a reason, never a crash."""


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Return the JSON form of docs/on-disk-format.md."""
    return {
        "format": FORMAT,
        "key": manifest.key,
        "request": dict(manifest.request),
        "revision": manifest.revision,
        "folder": manifest.folder,
        "snapshot": manifest.snapshot,
        "files": [asdict(file) for file in manifest.files],
        "unverified": sum(not file.digest for file in manifest.files),
    }


def from_json(value: Any) -> Manifest:
    """Return the manifest. Raises Unreadable for another format, or a form that is not a manifest's."""
    try:
        if value["format"] != FORMAT:
            raise Unreadable(f"its format is {value['format']!r}, this version reads {FORMAT}")
        files = tuple(FileRecord(**file) for file in value["files"])
        manifest = Manifest(RequestKey(value["key"]), value["request"], value["revision"], value["folder"], files)
        _check(manifest)
        return manifest
    except (KeyError, TypeError, AttributeError) as exc:
        raise Unreadable(f"it is not a manifest ({exc})") from exc


def _check(manifest: Manifest) -> None:
    """Refuse what would lead out of the root, and numbers that are none: a manifest may come from anywhere."""
    for file in manifest.files:
        if any(".." in path.split("/") or path.startswith("/") for path in (file.path, file.blob, manifest.folder)):
            raise Unreadable(f"the path {file.path!r} leads out of its folder")
        if not isinstance(file.size, int) or not isinstance(file.mtime_ns, int):
            raise Unreadable(f"size and mtime of {file.path!r} are no numbers")


def read_manifest(place: Place, key: str) -> Manifest | None:
    """Return the current manifest of this request, None without one. Raises Unreadable."""
    return _read(_path(place, key))


def read_all(place: Place) -> list[Manifest]:
    """Return every readable manifest of this root, superseded ones too."""
    found = []
    with disk_errors(f"cannot read {place.records}"):
        paths = sorted((place.records / "manifests").glob("*.json"))
    for path in paths:
        try:
            manifest = _read(path)
        except Unreadable:
            continue
        if manifest is not None:
            found.append(manifest)
    return found


def write_manifest(place: Place, manifest: Manifest) -> None:
    """Make this the current manifest of its request. One that it supersedes stays beside it, for `clean`."""
    path = _path(place, manifest.key)
    try:
        old = _read(path)
    except Unreadable:
        old = None
    if old is not None and {f.path for f in old.files} - {f.path for f in manifest.files}:
        write_json(path.with_name(f"{old.key}.{old.snapshot[:12]}.json"), to_json(old))
    write_json(path, to_json(manifest))


def remove_manifests(place: Place, key: str) -> None:
    """Remove the manifest of this request, superseded ones too."""
    with disk_errors(f"cannot remove the records of {key[:12]}"):
        for path in [_path(place, key), *(place.records / "manifests").glob(f"{key}.*.json")]:
            path.unlink(missing_ok=True)


def _path(place: Place, key: str) -> Path:
    return place.records / "manifests" / f"{key}.json"


def _read(path: Path) -> Manifest | None:
    try:
        return from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise Unreadable(f"the manifest cannot be read ({exc})") from exc
    except Unreadable as exc:
        raise Unreadable(f"the manifest cannot be used: {exc}") from exc
