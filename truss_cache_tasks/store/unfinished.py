"""Notes of unfinished fetches, `fetches/{key}.json`: written before a fetch can leave anything below a root.

A note owns blobs, partials and visible paths until a manifest lists them: whatever ends the fetch, the next run of the
entry goes on with them, and `clean` finds them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import FORMAT
from truss_cache_tasks.store import reading
from truss_cache_tasks.store.disk import write_json
from truss_cache_tasks.store.layout import BLOB_ID, MANIFEST, CacheRoot
from truss_cache_tasks.store.reading import Denied, NewerFormat, Unreadable, read_record

_FOLDER = f"{RECORDS}/fetches"
_LINKS = f"{RECORDS}/published/links.json"  # 0.1.0 noted the links of a snapshot there
_FIELDS = {
    "claims": lambda value: isinstance(value, list) and all(_is_claim(one) for one in value),
    "blobs": lambda value: isinstance(value, list) and all(map(_is_blob_id, value)),
    "paths": lambda value: isinstance(value, list) and all(map(reading.is_path, value)),
}


@dataclass(frozen=True)
class Unfinished:
    """What one request's fetches that did not end well, or did not end yet, may have left.

    Args:
        key: the request key; "" for what 0.1.0 noted.
        claims: (project, claim name) of each that fetched.
        blobs: ids (layout.blob_id) of whole files that no manifest lists, and of partials.
        paths: what it shows, or was about to show, relative to the root.
    """

    key: str
    claims: frozenset[tuple[str, str]] = frozenset()
    blobs: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()


def read_unfinished(place: CacheRoot) -> list[Unfinished]:
    """Return what is noted in this root, as far as it can be read."""
    found = []
    for key in noted_keys(place):
        with contextlib.suppress(Unreadable):
            found.append(_read(place, key))
    with contextlib.suppress(Unreadable):
        links = read_record(place.tree, _LINKS)
        if links is not None:
            paths = reading.check_fields(links, {"paths": _FIELDS["paths"]}, "it", more=True)["paths"]
            found.append(Unfinished("", paths=frozenset(paths)))
    return found


def noted_keys(place: CacheRoot) -> list[str]:
    """Return the request key of every note of this root, unreadable ones too."""
    return sorted(name.partition(".")[0] for name in place.tree.names(_FOLDER) if MANIFEST.fullmatch(name))


def drop_useless_notes(place: CacheRoot) -> None:
    """Remove the notes that cannot be used, save those of another version or user."""
    for key in noted_keys(place):
        try:
            _read(place, key)
        except (NewerFormat, Denied):
            continue
        except Unreadable:
            place.tree.remove_hollow(f"{_FOLDER}/{key}.json")
            with contextlib.suppress(OSError):
                place.tree.unlink(f"{_FOLDER}/{key}.json")


def note_unfinished(
    place: CacheRoot,
    key: str,
    claim: tuple[str, str],
    *,
    blobs: Collection[str] = (),
    paths: Collection[str] = (),
) -> None:
    """Note what a fetch of this request is about to leave, beside what earlier ones noted."""
    try:
        known = _read(place, key)
    except Unreadable:
        known = Unfinished(key)
    noted = replace(
        known, claims=known.claims | {claim}, blobs=known.blobs.union(blobs), paths=known.paths.union(paths)
    )
    if noted != known:
        _write(place, noted)


def forget_paths(place: CacheRoot, key: str, paths: Collection[str]) -> None:
    """Forget paths that a commit of this request noted, and at which it showed nothing."""
    with contextlib.suppress(Unreadable):
        noted = _read(place, key)
        if not noted.paths.isdisjoint(paths):
            _write(place, replace(noted, paths=noted.paths.difference(paths)))


def keep_unfinished(place: CacheRoot, noted: Unfinished, claims: Collection[tuple[str, str]]) -> None:
    """Leave what is noted to these claims alone; without any, forget it."""
    if not noted.key:
        place.tree.unlink(_LINKS)
    elif claims:
        _write(place, replace(noted, claims=frozenset(claims)))
    else:
        place.tree.unlink(f"{_FOLDER}/{noted.key}.json")


def _write(place: CacheRoot, noted: Unfinished) -> None:
    value: dict[str, Any] = {
        "format": FORMAT,
        "claims": sorted(map(list, noted.claims)),
        "blobs": sorted(noted.blobs),
        "paths": sorted(noted.paths),
    }
    write_json(place.tree, f"{_FOLDER}/{noted.key}.json", value, indent=None)


def _read(place: CacheRoot, key: str) -> Unfinished:
    """Return what is noted of this request, nothing without a file. Raises Unreadable."""
    path = f"{_FOLDER}/{key}.json"
    value = read_record(place.tree, path)
    if value is None:
        return Unfinished(key)
    found = reading.check_fields(value, _FIELDS, os.path.basename(path), more=True)
    claims = frozenset((project, name) for project, name in found["claims"])
    return Unfinished(key, claims, frozenset(found["blobs"]), frozenset(found["paths"]))


def _is_blob_id(value: Any) -> bool:
    return reading.is_text(value) and re.fullmatch(BLOB_ID, value) is not None


def _is_claim(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(reading.is_text, value))
