"""Read which files a cache root has, and which of them a claim or a process needs: for `du`, `prune` and the budget.

Whose bytes they are is told by the records alone (ADR 16): a manifest, the note of an unfinished fetch, a held lock.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from stat import S_ISREG
from typing import Literal

from truss_cache_tasks.model.records import RECORDS, ClaimId, Maker
from truss_cache_tasks.model.usage import UNOWNED, DeadClaim, RootUsage, StoredFile, Unit
from truss_cache_tasks.store.blobs.partials import list_partials
from truss_cache_tasks.store.files.locks import is_held
from truss_cache_tasks.store.files.names import LOCKS
from truss_cache_tasks.store.files.open_folders import LinkedFolder
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.dead_claims import DeadRule
from truss_cache_tasks.store.records.fetch_notes import FetchNote, has_unknown_notes, note_path
from truss_cache_tasks.store.records.root_state import RootState


@dataclass(frozen=True, kw_only=True, slots=True)
class RootUnits:
    """The units of a root, and which of them are needed, by its records.

    Attributes:
        protected: why nothing of the root can be told to be unclaimed; "" where that is known.
        dead: claims that do not count.
        units: of the manifests and of the notes of dead fetches, by the path of the record.
        notes: of dead fetches, by the path of the record.
    """

    protected: str
    dead: tuple[DeadClaim, ...]
    units: Mapping[str, Unit]
    notes: Mapping[str, FetchNote]


def find_units(state: RootState, rule: DeadRule, needed: Collection[str]) -> RootUnits:
    """Return the units of a root, and which of them are needed. Writes nothing.

    Args:
        needed: ids of blobs that the caller is about to use.
    """
    root, protected = state.root, _why_protected(state)
    dead = () if protected else tuple(_find_dead(state, rule))
    living = _living_claims(state, rule, {one.claim for one in dead})
    under_way = frozenset(_keys_under_way(root))
    notes = {} if protected else {note_path(n): n for n in state.notes if _is_dead_note(n, state, rule, under_way)}
    kept = [note for note in state.notes if note_path(note) not in notes]
    used = {*needed, *(blob for note in kept if note.key in under_way for blob in (*note.blobs, *note.uses))}
    in_progress = under_way.union(note.key for note in kept)
    current, claimed_at = state.manifests.current, _claimed_at(state, rule.now)
    units = {}
    for path, manifest in state.manifests.by_path.items():
        claims = living.get(manifest.key, frozenset()) if path in current else frozenset[ClaimId]()
        is_used = path in current and manifest.key in in_progress  # a run needs no superseded one, but for its blobs
        is_used = is_used or not used.isdisjoint(state.blob_ids([manifest]))
        is_claimed = bool(claims) or is_used or bool(protected)
        last_used = claimed_at.get(manifest.key) if path in current else None
        last_used = _mtime(root, path) if last_used is None else last_used
        units[path] = Unit(is_claimed=is_claimed, last_used=last_used, claims=claims)
    units |= {path: Unit(is_claimed=False, last_used=_mtime(root, path)) for path in notes}
    return RootUnits(protected=protected, dead=dead, units=units, notes=notes)


def read_usage(root: CacheRoot, rule: DeadRule, *, needed: Collection[str] = (), foreign: bool = False) -> RootUsage:
    """Return what lies in a root. Writes nothing, and takes no lock: what it says may have changed a moment later.

    Args:
        needed: ids of blobs that the caller is about to use.
        foreign: count the files of the user and of other tools too, which reads every folder of a root that has
            records, or is a repo of the hub cache.
    """
    with root.tree.kept_open():
        if not root.tree.is_folder(RECORDS):
            # a folder that was never used as a root, which may be any folder of the user's, is not looked at
            is_looked_at = foreign and root.layout.hub is not None
            files, size = _count_foreign(root, set()) if is_looked_at else (0, 0)
            return RootUsage(
                root=str(root.path), protected="", files=(), units={}, foreign_files=files, foreign_size=size
            )
        state = RootState(root)
        root_units = find_units(state, rule, needed)
        stored = dict(_stored_files(state, root_units))
        files, size = _count_foreign(root, stored.keys()) if foreign else (0, 0)
        units = {**root_units.units, UNOWNED: Unit(is_claimed=False, last_used=0.0)}
        makers = {
            project: max((claim.maker for claim in theirs.entries.values()), key=_when)
            for project, theirs in state.all_claims.by_project.items()
            if theirs.entries
        }
        return RootUsage(
            root=str(root.path),
            protected=root_units.protected,
            files=tuple(stored.values()),
            units=units,
            dead=root_units.dead,
            makers=makers,
            foreign_files=files,
            foreign_size=size,
        )


def coming_bytes(root: CacheRoot, but: Collection[str]) -> int:
    """Return the bytes that fetches which run now have noted in this root, and that are not on the disk yet.

    Args:
        but: the request keys of fetches that do not count.
    """
    state, coming = RootState(root), 0
    under_way = _keys_under_way(root) - set(but)
    for note in state.notes:
        if note.key in under_way and note.size:
            arrived = [
                path for path, blob_id in (*list_partials(root), *root.layout.unshown_blobs()) if blob_id in note.blobs
            ]
            there = [stat for path in arrived if (stat := _stat(root, path)) is not None]
            coming += max(0, note.size - sum(map(_disk_size, there)))
    return coming


def _why_protected(state: RootState) -> str:
    """Return why it cannot be known what is claimed in this root; "" where it can."""
    if not state.all_claims.are_known():
        return "a claims file cannot be read, and may claim anything"
    if not state.manifests.are_all_ours or has_unknown_notes(state.root):
        return "another version of truss_cache_tasks, or another user, wrote records that cannot be read"
    claims = (claim for theirs in state.all_claims.by_project.values() for claim in theirs.entries.values())
    if any(claim.request in state.manifests.unreadable and not claim.cleaned for claim in claims):
        return "the manifest of a claim cannot be read, and may list any file"
    return ""


def _find_dead(state: RootState, rule: DeadRule) -> Iterator[DeadClaim]:
    for project, theirs in state.all_claims.by_project.items():
        for name, claim in rule.current(project, theirs).entries.items():
            if why := rule.why_dead((project, name), claim.maker):
                yield DeadClaim(claim=(project, name), maker=claim.maker, request=claim.request, why=why)


def _living_claims(state: RootState, rule: DeadRule, dead: Collection[ClaimId]) -> dict[str, frozenset[ClaimId]]:
    """Return request key -> the living claims on it."""
    found: dict[str, set[ClaimId]] = {}
    for project, stored in state.all_claims.by_project.items():
        for name, claim in rule.current(project, stored).entries.items():
            if not claim.cleaned and (project, name) not in dead:
                found.setdefault(claim.request, set()).add((project, name))
    return {key: frozenset(claims) for key, claims in found.items()}


def _keys_under_way(root: CacheRoot) -> set[str]:
    """Return the request keys of the fetches that run now: they hold the lock of their entry."""
    names = [name for name in root.tree.names(LOCKS) if name.startswith("entry-")]
    keys = {name.removeprefix("entry-").removesuffix(".lock") for name in names}
    return {key for key in keys if is_held(root.entry_lock(key))}


def _is_dead_note(note: FetchNote, state: RootState, rule: DeadRule, under_way: Collection[str]) -> bool:
    """Whether no running process and no living claim will go on with what a fetch left."""
    if not note.key or note.key in under_way:
        return False
    return all(_is_dead_in_note(claim, note, state, rule) for claim in note.claims)


def _is_dead_in_note(claim: ClaimId, note: FetchNote, state: RootState, rule: DeadRule) -> bool:
    project, name = claim
    known = rule.project_of(claim)
    theirs, maker = state.all_claims.by_project.get(project), note.makers.get(project)
    if theirs is not None and name in theirs.entries:
        maker = theirs.entries[name].maker if maker is None else max(maker, theirs.entries[name].maker, key=_when)
    if maker is None:
        return False
    if known is not None and name not in known.entries and known.made(maker):
        return True  # its entry has left the config that was just read
    return bool(rule.why_dead(claim, maker))


def _when(maker: Maker) -> float:
    return maker.when if math.isfinite(maker.when) else 0.0


def _claimed_at(state: RootState, now: float) -> dict[str, float]:
    """Return request key -> when a claim on it was last written, living or not."""
    found: dict[str, float] = {}
    for theirs in state.all_claims.by_project.values():
        for claim in theirs.entries.values():
            if math.isfinite(claim.when):
                found[claim.request] = max(found.get(claim.request, 0.0), min(claim.when, now))
    return found


def _stored_files(state: RootState, root_units: RootUnits) -> Iterator[tuple[str, StoredFile]]:
    """Yield (path, file) of every file of ours, without our records."""
    root, layout = state.root, state.root.layout
    listed_by: dict[str, set[str]] = {}  # path of a file -> the manifests that list it
    by_blob: dict[str, set[str]] = {}  # blob id -> the manifests that list it
    for record, manifest in state.manifests.by_path.items():
        for file in manifest.files:
            by_blob.setdefault(layout.blob_id(file.content_id), set()).add(record)
            if path := layout.made_file(file, is_hidden=file.path in manifest.hidden):
                listed_by.setdefault(path, set()).add(record)
    staged = dict(layout.unshown_blobs())
    for path, blob_id in staged.items():
        listed_by.setdefault(path, set()).update(by_blob.get(blob_id, ()))
    partials = {path: blob_id for path, blob_id in list_partials(root) if path not in staged}
    for note in state.notes:
        for path in note.paths:
            listed_by.setdefault(path, set())
    noted = _ids_by_note(state, root_units)
    linked = layout.linked_blobs(state.shown_paths())
    kept_paths = {path for note in state.notes if note_path(note) not in root_units.notes for path in note.paths}
    shown_by_dead = {path: record for record, note in root_units.notes.items() for path in note.paths}
    for path in (*listed_by, *partials):
        blob_id = staged.get(path) or partials.get(path) or os.path.basename(path)
        kind: Literal["whole", "staged", "partial"] = "whole"
        if path in partials or (path in staged and not listed_by[path]):
            kind = "partial" if path in partials else "staged"
        stat = _stat(root, path)
        if stat is None:
            continue
        units = set(listed_by.get(path, ()))
        dead, is_noted = noted.get(blob_id, (set[str](), False))
        if kind != "whole":
            units |= dead
        if path in shown_by_dead:
            units.add(shown_by_dead[path])
        is_kept = is_noted or path in linked or path in kept_paths or bool(root_units.protected)
        is_kept = is_kept or (kind != "whole" and is_held(layout.blob_lock(blob_id)))
        size = _disk_size(stat) if kind == "partial" else stat.st_size
        inode = (stat.st_dev, stat.st_ino)
        yield path, StoredFile(inode=inode, size=size, units=frozenset(units or {UNOWNED}), kind=kind, is_kept=is_kept)


def _ids_by_note(state: RootState, root_units: RootUnits) -> dict[str, tuple[set[str], bool]]:
    """Return blob id -> (the notes of dead fetches that list it, whether another note does)."""
    found: dict[str, tuple[set[str], bool]] = {}
    for note in state.notes:
        is_dead = note_path(note) in root_units.notes
        for blob_id in note.blobs:
            dead, is_noted = found.get(blob_id, (set(), False))
            found[blob_id] = (dead | {note_path(note)}, is_noted) if is_dead else (dead, True)
    return found


def _count_foreign(root: CacheRoot, ours: Collection[str]) -> tuple[int, int]:
    """Return how many files in the root are not ours, and their bytes; links, refs and nested roots are left out."""
    seen: set[tuple[int, int]] = set()
    count = size = 0
    ahead = [""]
    while ahead:
        folder = ahead.pop()
        try:
            children = root.tree.children(folder)
        except (OSError, LinkedFolder):  # this user may not look into it: what it holds is not ours
            continue
        if folder and (RECORDS, True) in children:
            continue
        for name, is_folder in children:
            path = f"{folder}/{name}" if folder else name
            if is_folder:
                ahead += [path] if name != RECORDS and path != root.layout.refs.folder else []
                continue
            stat = None if path in ours else _stat(root, path)
            if stat is not None and (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                count, size = count + 1, size + stat.st_size
    return count, size


def _stat(root: CacheRoot, path: str) -> os.stat_result | None:
    """Return the stat of the regular file at `path`; None for anything else, and where a link lies on the way."""
    with contextlib.suppress(OSError, LinkedFolder):
        stat = root.tree.lstat(path)
        return stat if stat is not None and S_ISREG(stat.st_mode) else None
    return None


def _disk_size(stat: os.stat_result) -> int:
    """Return the bytes that the disk gave to a partial, which may have holes."""
    return min(stat.st_size, stat.st_blocks * 512)


def _mtime(root: CacheRoot, path: str) -> float:
    stat = _stat(root, path)
    return 0.0 if stat is None else stat.st_mtime
