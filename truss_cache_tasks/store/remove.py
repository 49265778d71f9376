"""clean: drop claims, and remove what no other claim or snapshot refers to. Nothing else removes whole entries.

A link or blob is removed when we made it and no living claim lists it, in any root that it lies in; a blob of the hub
cache also stays while any link in `snapshots/` leads to it, ours or not. What huggingface_hub downloaded, and what the
user put there, is named and stays. What unfinished fetches left is removed with the claims that noted it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR, S_ISLNK
from typing import Any

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import Claims, Manifest, Project
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store import claims
from truss_cache_tasks.store.blobs import PUBLISHED, STAGING, is_marked
from truss_cache_tasks.store.disk import disk_errors, is_writable, token
from truss_cache_tasks.store.layout import (
    JOURNAL,
    PARTIAL,
    REMOVED,
    STAGED,
    CacheRoot,
    blob_id,
    is_name_of_ours,
    is_temporary,
)
from truss_cache_tasks.store.links import linked_blobs, top
from truss_cache_tasks.store.locks import is_held
from truss_cache_tasks.store.manifest import note_hidden, read_all, remove_manifests, request_keys
from truss_cache_tasks.store.ownership import paths_in_use, roots_around, roots_locked, seen_from
from truss_cache_tasks.store.partials import FOLDER as PARTIALS
from truss_cache_tasks.store.partials import is_left_by_a_run
from truss_cache_tasks.store.refs import drop_refs
from truss_cache_tasks.store.sweep import sweep_unowned
from truss_cache_tasks.store.tree import LinkedFolder
from truss_cache_tasks.store.unfinished import Unfinished, keep_unfinished, noted_keys, read_unfinished


@dataclass
class Cleaned:
    """What a clean removed (or would remove), over one invocation.

    Args:
        size: bytes that the disk gets back; what several entries share is counted once.
        files: how many files and links.
        kept: what stays, a line each, and why.
        left: what could not be removed, a line each.
    """

    size: int = 0
    files: int = 0
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set, repr=False)
    gone: set[tuple[Path, str]] = field(default_factory=set, repr=False)  # (root, claim) that a dry run passed
    keys: set[tuple[Path, str]] = field(default_factory=set, repr=False)  # (root, request key) likewise
    links: Counter[tuple[int, int]] = field(default_factory=Counter, repr=False)  # (device, inode) -> names removed

    def keep(self, line: str) -> None:
        """Name what stays, once."""
        if line not in self.kept:
            self.kept.append(line)


def clean(place: CacheRoot, project: Project, names: Collection[str] | None, done: Cleaned, *, dry: bool) -> None:
    """Invalidate these claims of `project` in this root; None: all of its config, and what gone entries left behind.

    Removes what it can, and adds what it did to `done`. The claims stay, marked cleaned, unless nothing else does.
    """
    with disk_errors(f"cannot clean {place.root}"), place.tree.kept_open():
        if not dry:
            _sweep_removed(place)
        if not place.tree.is_folder(RECORDS):
            if place.tree.lstat(RECORDS) is not None:
                place.tree.children(RECORDS)  # a link, which is refused by name
            return
        if not dry and not is_writable(place.records):
            if claims.read_claims(place, project.id).entries:
                done.left.append(f"{place.root}: not writable")
            return
        if dry:
            _Clean(place, project, roots_around(place, _listed(place)), done, dry=True).run(names)
            return
        with roots_locked(place, lambda: _listed(place)) as around:
            _Clean(place, project, around, done, dry=False).run(names)
        forget_hollow(place)


def _listed(place: CacheRoot) -> set[str]:
    """Return the paths that the records of this root are about."""
    paths = {file.path for manifest in read_all(place) for file in manifest.files}
    return paths.union(*(noted.paths for noted in read_unfinished(place)))


def roots_of(place: CacheRoot, project: str) -> set[str]:
    """Return the roots that this project's claims here know of; none where they cannot be read."""
    with contextlib.suppress(OSError, DiskError):
        return set(claims.read_claims(place, project).roots)
    return set()


class _Clean:
    """One clean of one root; what it decides, it decides under the locks that its caller holds."""

    def __init__(
        self, place: CacheRoot, project: Project, around: list[CacheRoot], done: Cleaned, *, dry: bool
    ) -> None:
        self.place = place
        self.project = project
        self.around = around
        self.done = done
        self.dry = dry

    def run(self, names: Collection[str] | None) -> None:
        place, project, done = self.place, self.project, self.done
        mine = claims.claims_of(place, project)
        wanted = project.entries if names is None else names
        # A claim of our config whose entry is gone has been dropped by `aligned`; another config's under our id stays
        chosen = {name for name in mine.entries if name in wanted}
        done.gone.update((place.root, name) for name in chosen)
        doomed_keys = {key for name in chosen for key in (mine.entries[name].request, *mine.entries[name].former)}
        doomed_keys |= set(mine.former) if names is None else set()
        notes = self._doomed_notes(names)
        doomed_keys |= {noted.key for noted in notes if noted.key}  # a manifest that a killed commit did not claim
        live = claims.live_keys(place, project, but={name for root, name in done.gone if root == place.root})
        everything = read_all(place)
        doomed = [m for m in everything if m.key in doomed_keys and m.key not in live]
        done.keys.update((place.root, manifest.key) for manifest in doomed)
        kept = [m for m in everything if m.key in live]
        left = [m for m in everything if (place.root, m.key) not in done.keys]
        removed = self._remove_paths(doomed, notes)
        self._remove_blobs(doomed, kept, left, notes, removed)
        self._remove_partials(notes)
        self._name_what_is_not_ours()
        if self.dry:
            return
        failed = bool(done.left)
        gone = set(filter(self._is_gone, removed))
        for root in self.around:
            note_hidden(root, dict.fromkeys(seen_from(root, place, gone), ""))
        self._drop_pins([mine.entries[name].form for name in chosen] + [manifest.request for manifest in doomed])
        if not failed:
            for noted in notes:
                keep_unfinished(place, noted, ())
            for key in doomed_keys - live:
                remove_manifests(place, key)
        marked = {n: replace(c, cleaned=True) if n in chosen else c for n, c in mine.entries.items()}
        if not failed:
            marked = {n: replace(c, former=()) if n in chosen else c for n, c in marked.items()}
        former = mine.former if names is not None or failed else ()
        claims.write_claims(place, project.id, Claims(marked, former, mine.roots))
        sweep_unowned(place)
        _remove_records(place)
        if place.layout is Layout.HUB:
            _remove_empty_repo(place)

    def _doomed_notes(self, names: Collection[str] | None) -> list[Unfinished]:
        """Return the notes of fetches that nobody but the cleaned claims made, and that are not under way.

        Of the others the cleaned claims are taken off.
        """
        doomed = []
        for noted in read_unfinished(self.place):
            theirs = {
                (project, name)
                for project, name in noted.claims
                if project != self.project.id or (names is not None and name not in names)
            }
            if noted.key and is_held(self.place.lock(f"entry-{noted.key}")):
                continue
            if not theirs:
                doomed.append(noted)
            elif theirs != noted.claims and not self.dry:
                keep_unfinished(self.place, noted, theirs)
        return doomed

    def _remove_paths(self, doomed: Iterable[Manifest], notes: Iterable[Unfinished]) -> set[str]:
        """Remove what the doomed manifests and notes show, and no living claim lists; return the paths."""
        place, done = self.place, self.done
        used = paths_in_use(place, self.around, self.project, done.gone)
        records = {file.path: file for manifest in doomed for file in manifest.shown if file.path not in used}
        for path, record in records.items():
            if not record.made_link and not self._is_gone(path):
                maker = "huggingface_hub" if place.layout is Layout.HUB else "the user"
                done.keep(f"{path}: made by {maker}, not by us")
        ours = {path for path, record in records.items() if record.made_link}
        ours |= {path for noted in notes for path in noted.paths if path not in used and path not in records}
        if place.layout is Layout.HUB and not self.dry:
            drop_refs(place, ours)
        for path in sorted(ours, reverse=True):  # what lies in a folder before a file that was to take its place
            self._unlink(path)
        return ours

    def _remove_blobs(
        self,
        doomed: Iterable[Manifest],
        kept: Iterable[Manifest],
        left: Iterable[Manifest],
        notes: Iterable[Unfinished],
        removed: set[str],
    ) -> None:
        """Remove the blobs that the doomed manifests list and no kept one does, and those that nothing owns any more.

        Args:
            kept: manifests that a living claim holds.
            left: manifests that this clean does not remove.
            removed: paths that went.
        """
        place = self.place
        noted = {name for note in read_unfinished(place) if note not in notes for name in note.blobs}
        used, owned = (noted | _ids(place, manifests) for manifests in (kept, left))
        doomed_ids = _ids(place, doomed) - used
        if place.layout is not Layout.HUB:
            for path in sorted(place.tree.files_below(STAGING)):
                found = STAGED.fullmatch(os.path.basename(path))
                if found and (found[1] in doomed_ids or self._is_unowned(found[1], owned)):
                    self._unlink(path)
            return
        linked = linked_blobs(place, removed)
        blobs = {file.blob: file.made_blob for manifest in doomed for file in manifest.files if file.blob}
        marked = [f"blobs/{name}" for name in place.tree.names(PUBLISHED) if self._is_unowned(name, owned)]
        blobs |= {blob: True for blob in marked if is_marked(place, blob)}
        for blob, is_made in sorted(blobs.items()):
            if not is_made or os.path.basename(blob) in used or blob in linked:
                continue
            stat = place.tree.lstat(blob)
            if stat is not None and S_ISLNK(stat.st_mode):
                self.done.keep(f"{blob}: shared by huggingface_hub's own store")
            else:
                self._unlink(blob)

    def _is_unowned(self, name: str, owned: Collection[str]) -> bool:
        return name not in owned and not is_held(self.place.blob_lock(name))

    def _remove_partials(self, notes: Iterable[Unfinished]) -> None:
        """Remove the temporaries of dead runs that the cleaned claims noted, or that nothing notes."""
        kept = {name for noted in read_unfinished(self.place) if noted not in notes for name in noted.blobs}
        for name in sorted(self.place.tree.names(PARTIALS)):
            path = f"{PARTIALS}/{name}"
            found = PARTIAL.fullmatch(name) or JOURNAL.fullmatch(name)
            is_dead = found and is_left_by_a_run(self.place, path) and self._is_unowned(found[1], kept)
            if is_dead or is_temporary("partials", name):  # those are made under the root's lock alone
                self._unlink(path)

    def _name_what_is_not_ours(self) -> None:
        for path in _not_ours(self.place):
            self.done.keep(f"{path}: not ours, though it lies in our folder")

    def _is_gone(self, path: str) -> bool:
        """Whether nothing lies at `path`; what is behind a link cannot be told, and is not ours to look at."""
        try:
            return self.place.tree.lstat(path) is None
        except LinkedFolder:
            return False

    def _unlink(self, path: str) -> None:
        place, done = self.place, self.done
        whole = place.root / path
        try:
            if not self.dry:
                place.tree.remove_hollow(path)
            stat = place.tree.lstat(path)
            if whole in done.seen or stat is None or (self.dry and S_ISDIR(stat.st_mode)):
                if not self.dry:  # another process removed it, and may have left its folder
                    place.tree.remove_empty_parents(path, top(place))
                return
            if not self.dry:
                place.tree.unlink(path)
                place.tree.remove_empty_parents(path, top(place))
        except OSError as exc:
            done.left.append(f"{whole}: {exc.strerror}")
            return
        except LinkedFolder as error:
            done.left += [] if self.dry or str(error) in done.left else [str(error)]
            return
        done.seen.add(whole)
        done.files += 1
        inode = (stat.st_dev, stat.st_ino)
        done.links[inode] += self.dry
        if not S_ISLNK(stat.st_mode) and stat.st_nlink - done.links[inode] == (0 if self.dry else 1):
            done.size += stat.st_size

    def _drop_pins(self, forms: Iterable[Mapping[str, Any]]) -> None:
        """Drop the pins that these canonical forms of requests resolve by."""
        for form in forms:
            source = str(form.get("source", ""))
            name = f"{source.removeprefix('hf://')}@{form.get('revision', '')}"
            if source.startswith("hf://") and name in claims.read_pins(self.place):
                claims.write_pin(self.place, name, None)


def _ids(place: CacheRoot, manifests: Iterable[Manifest]) -> set[str]:
    return {blob_id(file.identity, place.layout) for manifest in manifests for file in manifest.files}


def _not_ours(place: CacheRoot) -> list[str]:
    """Return what lies in our folder and has no name of ours."""
    found = []
    for path, is_folder in place.tree.walk(RECORDS):
        folder, _, name = path.removeprefix(f"{RECORDS}/").rpartition("/")
        if not is_name_of_ours(folder, name, is_folder=is_folder):
            found.append(path)
    return found


def forget_hollow(place: CacheRoot) -> None:
    """Remove the folders of a root in which nothing came to be (no such repo, no access); what holds anything stays."""
    with contextlib.suppress(OSError):
        place.tree.remove_hollow(STAGING)
        for name in place.tree.names(RECORDS):
            place.tree.remove_if_empty(f"{RECORDS}/{name}")
        place.tree.remove_if_empty(RECORDS)
        if place.layout is Layout.HUB:
            place.tree.remove_if_empty("blobs")
            place.tree.remove_if_empty("refs")
            if place.tree.names("") == ["snapshots"]:  # beside anything else scan_cache_dir() misses it
                place.tree.remove_if_empty("snapshots")
                os.rmdir(place.root)


def _remove_records(place: CacheRoot) -> None:
    """Remove our records when they are about nothing any more: no living claim, no manifest, no fetch."""
    everyone = claims.read_all_claims(place)
    live = any(not claim.cleaned for theirs in everyone.values() for claim in theirs.entries.values())
    readable = all(theirs.entries or theirs.former for theirs in everyone.values())
    if live or not readable or any(theirs.former for theirs in everyone.values()):
        return
    if request_keys(place) or noted_keys(place):
        return
    for project in everyone:
        claims.write_claims(place, project, Claims({}))
    for name in claims.read_pins(place):
        claims.write_pin(place, name, None)


def _remove_empty_repo(place: CacheRoot) -> None:
    """Remove the repo's folder when nothing but empty folders is left in it, and no process is at work there."""
    tree = place.tree
    ours = {"snapshots", "blobs", "refs", "trees", ".no_exist", RECORDS}
    rest = [path for name in ("snapshots", "blobs", "refs", RECORDS) for path in tree.files_below(name)]
    rest = [path for path in rest if path != f"{RECORDS}/locks/root.lock"]
    if rest or set(tree.names("")) - ours or place.root.is_symlink() or place.hub_tree is None:
        return
    with contextlib.suppress(OSError, DiskError):  # in one step, to where nothing scans
        place.hub_tree.rename(place.root.name, f"{_locks(place)}/removed.{token()}")
    _sweep_removed(place)


def _locks(place: CacheRoot) -> str:
    return f".locks/{place.root.name}"


def _sweep_removed(place: CacheRoot) -> None:
    hub = place.hub_tree
    if hub is None:
        return
    with contextlib.suppress(OSError, DiskError):
        for name in hub.names(_locks(place)):
            if REMOVED.fullmatch(name):
                hub.remove_tree(f"{_locks(place)}/{name}")
