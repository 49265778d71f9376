"""FetchNote: what an unfinished fetch may have left, `fetches/{key}.json`. Written before it can leave anything.

A note owns blobs, partials and visible paths until a manifest lists them: however the fetch ends, the next run of the
entry continues with them, and `clean` finds them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.events import Holder
from truss_cache_tasks.model.records import FORMAT, RECORDS, ClaimId, Maker
from truss_cache_tasks.store.files import record_file
from truss_cache_tasks.store.files.locks import is_held
from truss_cache_tasks.store.files.names import BLOB_ID, MANIFEST, PUBLISHED
from truss_cache_tasks.store.files.record_file import Denied, NewerFormat, Unreadable, read_record, write_json
from truss_cache_tasks.store.layouts.layout import CacheRoot

_FOLDER = f"{RECORDS}/fetches"
_LINKS = f"{PUBLISHED}/links.json"  # 0.1.0 noted the links of a snapshot there
_FIELDS: dict[str, record_file.Check] = {
    "claims": lambda value: isinstance(value, list) and all(_is_claim(one) for one in value),
    "blobs": lambda value: isinstance(value, list) and all(map(_is_blob_id, value)),
    "paths": lambda value: isinstance(value, list) and all(map(record_file.is_path, value)),
    "uses": lambda value: isinstance(value, list) and all(map(_is_blob_id, value)),
    "size": record_file.is_size,
    "makers": dict,
}
_LATER = ("uses", "size", "makers")  # the first notes of format 1 do not have these
_MAKER: dict[str, record_file.Check] = {
    "config": record_file.is_text,
    "host": record_file.is_text,
    "when": lambda value: isinstance(value, float) or record_file.is_integer(value),
}


@dataclass(frozen=True)
class FetchNote:
    """What failed or unfinished fetches of one request may have left.

    Args:
        key: the request key; "" for what 0.1.0 noted.
        claims: (project, claim name) of each that fetched.
        blobs: ids (`layout.blob_id`) of whole files that no manifest lists, and of partials.
        paths: what it shows, or was about to show, relative to the root.
        uses: ids of blobs of this root that the last fetch found there and needs; they count only while it is under
            way.
        size: bytes of `blobs` that the last fetch had to bring.
        makers: project id -> who fetched for it last.
    """

    key: str
    claims: frozenset[ClaimId] = frozenset()
    blobs: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    size: int = 0
    makers: Mapping[str, Maker] = field(default_factory=dict)


def note_path(note: FetchNote) -> str:
    """Return the path of the file of a note, relative to the root."""
    return f"{_FOLDER}/{note.key}.json" if note.key else _LINKS


def read_notes(root: CacheRoot) -> list[FetchNote]:
    """Return what is noted in this root, as far as it can be read."""
    found = []
    for key in noted_keys(root):
        with contextlib.suppress(Unreadable):
            found.append(_read(root, key))
    with contextlib.suppress(Unreadable):
        links = read_record(root.tree, _LINKS)
        if links is not None:
            paths = record_file.check_fields(links, {"paths": _FIELDS["paths"]}, "it", more=True)["paths"]
            found.append(FetchNote("", paths=frozenset(paths)))
    return found


def has_unknown_notes(root: CacheRoot) -> bool:
    """Whether a note is there that another version or user can read and we cannot: what it owns is not known."""
    for key in noted_keys(root):
        try:
            _read(root, key)
        except (NewerFormat, Denied):
            return True
        except Unreadable:
            continue
    return False


def noted_keys(root: CacheRoot) -> list[str]:
    """Return the request key of every note of this root, unreadable ones too."""
    return sorted(name.partition(".")[0] for name in root.tree.names(_FOLDER) if MANIFEST.fullmatch(name))


def is_under_way(root: CacheRoot, note: FetchNote) -> bool:
    """Whether the fetch of a note runs now: its process holds the lock of its entry."""
    return bool(note.key) and is_held(root.entry_lock(note.key))


def fetcher_of(root: CacheRoot, blob_id: str, but: str) -> Holder | None:
    """Return who fetches a blob, as the locks of the entries say that noted it; None where it is not known.

    huggingface_hub's lock of a blob says nothing, and to write into the lock of each blob would cost as many writes.

    Args:
        but: the request key of the caller, which noted the blob too.
    """
    found = []
    with contextlib.suppress(OSError, DiskError):
        for note in read_notes(root):
            if note.key != but and blob_id in note.blobs and is_under_way(root, note):
                found.append(root.entry_lock(note.key).read_holder())
    fetchers = [holder for holder in found if holder is not None and not holder.waits]
    return fetchers[0] if len(fetchers) == 1 else None


def drop_unreadable_notes(root: CacheRoot) -> None:
    """Remove the notes that cannot be used, save those of another version or user."""
    for key in noted_keys(root):
        try:
            _read(root, key)
        except (NewerFormat, Denied):
            continue
        except Unreadable:
            root.tree.remove_empty_tree(f"{_FOLDER}/{key}.json")
            with contextlib.suppress(OSError):
                root.tree.unlink(f"{_FOLDER}/{key}.json")


def note_fetch(
    root: CacheRoot,
    key: str,
    claim: ClaimId,
    maker: Maker,
    *,
    blobs: Collection[str] = (),
    paths: Collection[str] = (),
    uses: Collection[str] = (),
    size: int = 0,
) -> None:
    """Note what a fetch of this request is about to leave, beside what earlier ones noted; see FetchNote."""
    try:
        known = _read(root, key)
    except Unreadable:
        known = FetchNote(key)
    note = replace(
        known,
        claims=known.claims | {claim},
        blobs=known.blobs.union(blobs),
        paths=known.paths.union(paths),
        uses=frozenset(uses),
        size=size,
        makers={**known.makers, claim[0]: maker},
    )
    _write(root, note)


def forget_paths(root: CacheRoot, key: str, paths: Collection[str]) -> None:
    """Forget paths that a commit of this request noted, and at which it showed nothing."""
    with contextlib.suppress(Unreadable):
        note = _read(root, key)
        if not note.paths.isdisjoint(paths):
            _write(root, replace(note, paths=note.paths.difference(paths)))


def reassign_note(root: CacheRoot, note: FetchNote, claims: Collection[ClaimId]) -> None:
    """Replace the claims of a note by `claims`; remove the note if there are none."""
    if note.key and claims:
        projects = {project for project, _ in claims}
        makers = {project: maker for project, maker in note.makers.items() if project in projects}
        _write(root, replace(note, claims=frozenset(claims), makers=makers))
    else:
        root.tree.unlink(note_path(note))


def _write(root: CacheRoot, note: FetchNote) -> None:
    value: dict[str, Any] = {
        "format": FORMAT,
        "claims": sorted(map(list, note.claims)),
        "blobs": sorted(note.blobs),
        "paths": sorted(note.paths),
        "uses": sorted(note.uses),
        "size": note.size,
        "makers": {project: maker._asdict() for project, maker in note.makers.items()},
    }
    write_json(root.tree, f"{_FOLDER}/{note.key}.json", value, indent=None)


def _read(root: CacheRoot, key: str) -> FetchNote:
    """Return what is noted of this request, nothing without a file. Raises Unreadable."""
    path = f"{_FOLDER}/{key}.json"
    value = read_record(root.tree, path)
    if value is None:
        return FetchNote(key)
    found = record_file.check_fields(value, _FIELDS, os.path.basename(path), optional=_LATER, more=True)
    makers = {
        project: Maker(**record_file.check_fields(maker, _MAKER, "the maker"))
        for project, maker in found.get("makers", {}).items()
    }
    return FetchNote(
        key,
        frozenset((project, name) for project, name in found["claims"]),
        frozenset(found["blobs"]),
        frozenset(found["paths"]),
        frozenset(found.get("uses", ())),
        found.get("size", 0),
        makers,
    )


def _is_blob_id(value: Any) -> bool:
    return record_file.is_text(value) and re.fullmatch(BLOB_ID, value) is not None


def _is_claim(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(record_file.is_text, value))
