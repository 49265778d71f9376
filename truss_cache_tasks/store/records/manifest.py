"""Manifests as JSON with a format number: read from a cache root, and replaced there."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

from truss_cache_tasks.model.keys import RequestKey
from truss_cache_tasks.model.records import DIGITS, FORMAT, FileRecord, Manifest
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store.files import record_file
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.names import MANIFEST, MANIFESTS, is_commit
from truss_cache_tasks.store.files.record_file import Denied, NewerFormat, Unreadable, write_json
from truss_cache_tasks.store.files.tree import FileTree
from truss_cache_tasks.store.layouts.layout import CacheRoot

_IDENTITY = "[a-z0-9-]+:[0-9a-f]+"  # in the hub cache a file is named by it
_ALGORITHMS = {f"{name}{of}" for name in DIGITS for of in ("", "-composite", "-gzip")}
_HEX = "0123456789abcdef"
_MISPARSED = r"([a-z0-9]+):((?:[a-z0-9]+-)+)([0-9a-f]+)"  # 0.1.0 wrote `git:sha1-HEX` after a failed run


def _is_digest(value: Any) -> bool:
    """Whether it is a digest as `digest_text` writes one. No regular expression: there is one for each file."""
    if not isinstance(value, str):
        return False
    algorithm, _, digits = value.partition(":")
    return value == "" or (algorithm in _ALGORITHMS and digits != "" and not digits.strip(_HEX))


_MANIFEST: dict[str, record_file.Check] = {
    "key": record_file.is_key,
    "request": record_file.is_form,
    "revision": lambda value: value == "" or (record_file.is_text(value) and is_commit(value)),
    "folder": record_file.is_path_or_none,
    "files": lambda value: isinstance(value, list) and bool(value),
    "hidden": lambda value: isinstance(value, list) and all(map(record_file.is_path, value)),
}
_REQUEST: dict[str, record_file.Check] = {"form": str, "revision": str, "source": str}
_FILE: dict[str, record_file.Check] = {
    "path": record_file.is_path,
    "size": record_file.is_size,
    "mtime_ns": record_file.is_integer,
    "identity": str,
    "origin": str,
    "digest": _is_digest,
    "xxh3": str,
    "blob": record_file.is_path_or_none,
    "made_link": bool,
    "made_blob": bool,
    "stored_size": record_file.is_size,
}
_required = itemgetter(*(name for name in _FILE if name != "stored_size"))  # in the order of FileRecord
_HUB_FILE: dict[str, record_file.Check] = {
    **_FILE,
    "identity": lambda value: record_file.is_text(value) and re.fullmatch(_IDENTITY, value) is not None,
}


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
    fields = file._asdict()
    fields["identity"] = fields.pop("content_id")
    if file.stored_size is None:
        del fields["stored_size"]
    return fields


def from_json(value: Any) -> Manifest:
    """Return the manifest. Raises Unreadable for another format, and for any field that is not as it must be.

    A manifest may come from anywhere: its paths stay below the root, and its numbers are ones that a disk can have.
    """
    found = record_file.check_fields(
        record_file.check_format(value), _MANIFEST, "the manifest", optional=("hidden",), more=True
    )
    request = record_file.check_fields(found["request"], _REQUEST, "the request", more=True)
    checks = _HUB_FILE if request["form"] == Layout.HUB else _FILE
    files = tuple(_file_from_json(file, checks, f"files[{number}]") for number, file in enumerate(found["files"]))
    return Manifest(
        RequestKey(found["key"]),
        found["request"],
        found["revision"],
        found["folder"],
        files,
        frozenset(found.get("hidden", ())),
    )


def _file_from_json(value: Any, checks: Mapping[str, record_file.Check], what: str) -> FileRecord:
    fields = record_file.check_fields(_mended(value), checks, what, optional=("stored_size",))
    return FileRecord._make((*_required(fields), fields.get("stored_size")))


def _mended(file: Any) -> Any:
    """Return a file's JSON with its digest as it was meant: `git:sha1-HEX` stands for `git-sha1:HEX`."""
    digest = file.get("digest") if isinstance(file, dict) else None
    if isinstance(digest, str) and "-" in digest and (wrong := re.fullmatch(_MISPARSED, digest)):
        return {**file, "digest": f"{wrong[1]}-{wrong[2].rstrip('-')}:{wrong[3]}"}
    return file


def read_manifest(root: CacheRoot, key: str) -> Manifest | None:
    """Return the current manifest of this request, None without one. Raises Unreadable."""
    return _read(root, _path(key))


class Manifests(NamedTuple):
    """The manifests of one root, superseded ones too.

    Args:
        by_path: path of the record -> the manifest, of those that can be used.
        keys: the request keys of all.
        unreadable: the request keys of current manifests that cannot be used.
        are_all_readable: every one could be read, so everything that they list is known.
        are_all_ours: none is of a newer format, or may not be read by this user.
    """

    by_path: Mapping[str, Manifest]
    keys: frozenset[str]
    unreadable: frozenset[str]
    are_all_readable: bool
    are_all_ours: bool

    @property
    def readable(self) -> tuple[Manifest, ...]:
        """Those that can be used."""
        return tuple(self.by_path.values())

    @property
    def current(self) -> dict[str, Manifest]:
        """Those that can be used and were not superseded, by the path of the record."""
        return {path: manifest for path, manifest in self.by_path.items() if path == _path(manifest.key)}


def read_manifests(root: CacheRoot) -> Manifests:
    """Return all manifests of this root."""
    readable: dict[str, Manifest] = {}
    unreadable: set[str] = set()
    are_all_ours = True
    paths = _paths(root)
    for path in paths:
        try:
            manifest = _read(root, path)
        except Unreadable as exc:
            are_all_ours = are_all_ours and not isinstance(exc, NewerFormat | Denied)
            if path == _path(_key_of(path)):
                unreadable.add(_key_of(path))
            continue
        if manifest is not None:
            readable[path] = manifest
    return Manifests(
        readable, frozenset(map(_key_of, paths)), frozenset(unreadable), len(readable) == len(paths), are_all_ours
    )


def write_manifest(root: CacheRoot, manifest: Manifest) -> None:
    """Make this the current manifest of its request. One that it supersedes stays beside it, for `clean`."""
    path = _path(manifest.key)
    old = None
    with contextlib.suppress(Unreadable):
        old = _read(root, path)
        if old == manifest and record_file.read_record(root.tree, path) == to_json(manifest):
            return
    if old is not None and {f.path for f in old.files} - {f.path for f in manifest.files}:
        write_json(root.tree, _path_of_superseded(old), to_json(old))
    write_json(root.tree, path, to_json(manifest))


def note_hidden(root: CacheRoot, paths: Mapping[str, str]) -> None:
    """Note in every manifest of this root which of its files are not visible any more: other bytes are at their paths.

    Args:
        paths: path -> xxh3 of what is, or is about to be, visible there; "" for nothing.
    """
    for path in _paths(root):
        with contextlib.suppress(Unreadable):
            manifest = _read(root, path)
            if manifest is None:
                continue
            hidden = manifest.hidden | {
                file.path for file in manifest.files if paths.get(file.path, file.xxh3) != file.xxh3
            }
            if hidden != manifest.hidden:
                write_json(root.tree, path, to_json(manifest._replace(hidden=hidden)))


def remove_manifests(root: CacheRoot, key: str) -> None:
    """Remove the manifest of this request, superseded ones too."""
    with disk_errors(f"cannot remove the records of {key[:12]}"):
        for path in paths_of(root, key):
            root.tree.remove_empty_tree(path)
            root.tree.unlink(path)


def paths_of(root: CacheRoot, key: str) -> list[str]:
    """Return where the manifests of this request are, superseded ones too, relative to the root."""
    return [path for path in _paths(root) if _key_of(path) == key]


def remove_manifest(root: CacheRoot, path: str) -> None:
    """Remove the manifest whose record is at `path`."""
    with disk_errors(f"cannot remove {root.path / path}"):
        root.tree.unlink(path)


def _key_of(path: str) -> str:
    return os.path.basename(path).partition(".")[0]


def _path(key: str) -> str:
    return f"{MANIFESTS}/{key}.json"


def _path_of_superseded(manifest: Manifest) -> str:
    return f"{MANIFESTS}/{manifest.key}.{manifest.snapshot[:12]}.json"


def _paths(root: CacheRoot) -> list[str]:
    with disk_errors(f"cannot read {root.records}"):
        return sorted(f"{MANIFESTS}/{name}" for name in root.tree.names(MANIFESTS) if MANIFEST.fullmatch(name))


def _read(root: CacheRoot, path: str) -> Manifest | None:
    return record_file.read_once(parse, root.tree, path)


def parse(tree: FileTree, path: str) -> Manifest | None:
    """Return the manifest of this file, None where it is missing. Raises Unreadable."""
    try:
        value = record_file.read_record(tree, path)
        if value is None:
            return None
        manifest = from_json(value)
        if manifest.key != _key_of(path):
            raise Unreadable(f"it is of another request, {manifest.key[:12]}")
        return manifest
    except Unreadable as exc:
        raise type(exc)(f"the manifest cannot be used: {exc}") from exc
