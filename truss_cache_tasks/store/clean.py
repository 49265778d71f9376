"""clean_root: drop claims, and remove what no other claim or snapshot refers to. Nothing else removes whole entries.

A link or blob is removed when we made it and no living claim lists it, in any root that it lies in; a blob of the hub
cache also stays while any link in `snapshots/` leads to it, ours or not. What huggingface_hub downloaded, and what the
user put there, is named and stays. What unfinished fetches left is removed with the claims that noted it.

sweep: remove what dead runs left and nothing owns, at each commit and each clean, under the root's lock. Every byte
that we made has an owner: a manifest, a note of an unfinished fetch, or a process that holds its lock.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR, S_ISLNK
from typing import Any

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.records import Claims, Manifest, Project
from truss_cache_tasks.store import claims, partials
from truss_cache_tasks.store.disk import disk_errors, is_writable
from truss_cache_tasks.store.fetch_notes import FetchNote, drop_unreadable_notes, noted_keys, read_notes, reassign_note
from truss_cache_tasks.store.history import append_removal
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.locks import OnWait, ignore_wait, is_held, sweep_locks
from truss_cache_tasks.store.manifest import remove_manifests
from truss_cache_tasks.store.names import (
    HISTORY,
    JOURNAL,
    LOCK,
    LOCKS,
    PARTIAL,
    PARTIALS,
    PUBLISHED,
    STAGING,
    is_name_of_ours,
    is_temporary,
)
from truss_cache_tasks.store.open_folders import LinkedFolder
from truss_cache_tasks.store.root_state import NestedStates, RootState, locked_states, read_states

RESUMABLE_S = 7 * 86400.0  # a failed download of another entry waits so long for its next run


@dataclass
class Cleaned:
    """What a clean removed (or would remove), over one invocation.

    Args:
        run: the id of the invocation, for the history.
        size: bytes that are freed on the disk; what several entries share is counted once.
        files: how many files and links.
        kept: what stays, a line each, and why.
        left: what could not be removed, a line each.
    """

    run: str = ""
    size: int = 0
    files: int = 0
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set, repr=False)
    gone: set[tuple[Path, str]] = field(default_factory=set, repr=False)  # (root, claim) that was cleaned, or would be
    keys: set[tuple[Path, str]] = field(default_factory=set, repr=False)  # (root, request key) likewise
    links: Counter[tuple[int, int]] = field(default_factory=Counter, repr=False)  # (device, inode) -> names removed

    def keep(self, line: str) -> None:
        """Add a line about what stays, once."""
        if line not in self.kept:
            self.kept.append(line)


def clean_root(
    root: CacheRoot,
    project: Project,
    names: Collection[str] | None,
    done: Cleaned,
    *,
    dry: bool,
    on_wait: OnWait = ignore_wait,
) -> None:
    """Invalidate these claims of `project` in this root; None: all of its config, and what gone entries left behind.

    Removes what it can, and adds what it did to `done`. The claims stay, marked as cleaned,
    as long as the root has other records.
    """
    with disk_errors(f"cannot clean {root.path}"), root.tree.kept_open():
        if not dry:
            root.layout.sweep_removed_roots()
        if not root.tree.is_folder(RECORDS):
            if root.tree.lstat(RECORDS) is not None:
                root.tree.children(RECORDS)  # raises LinkedFolder, which names it
            return
        if not dry and not is_writable(root.records):
            if claims.read_claims(root, project.id).entries:
                done.left.append(f"{root.path}: not writable")
            return
        if dry:
            _Clean(read_states(root, _listed_paths(RootState(root))), project, done, dry=True).run(names)
            return
        with locked_states(root, _listed_paths, on_wait=on_wait) as states:
            _Clean(states, project, done, dry=False).run(names)
        remove_empty_folders(root)


def _listed_paths(state: RootState) -> set[str]:
    """Return the paths that the records of this root are about."""
    paths = {file.path for manifest in state.manifests.readable for file in manifest.files}
    return paths.union(*(note.paths for note in state.notes))


def roots_of(root: CacheRoot, project: str) -> set[str]:
    """Return the roots that this project's claims here know of; none where they cannot be read."""
    with contextlib.suppress(OSError, DiskError):
        return set(claims.read_claims(root, project).roots)
    return set()


class _Clean:
    """One clean of one root; all of it under the locks that the caller holds (a dry run takes none)."""

    def __init__(self, states: NestedStates, project: Project, done: Cleaned, *, dry: bool) -> None:
        self.states = states
        self.state = states.own
        self.root = states.own.root
        self.project = project
        self.done = done
        self.dry = dry

    def run(self, names: Collection[str] | None) -> None:
        """Remove paths, blobs and partials; then drop pins, notes, manifests and claims; then sweep."""
        mine = self.state.claims_of(self.project)
        wanted = self.project.entries if names is None else names
        files, size = self.done.files, self.done.size
        # A claim of our config whose entry is gone has been dropped by `aligned`; another config's under our id stays
        chosen = {name for name in mine.entries if name in wanted}
        self.done.gone.update((self.root.path, name) for name in chosen)
        notes, others = self._split_notes(names)
        keys = {key for name in chosen for key in (mine.entries[name].request, *mine.entries[name].former)}
        keys |= set(mine.former) if names is None else set()
        keys |= {note.key for note in notes if note.key}  # a manifest that a killed commit did not claim
        gone = {name for path, name in self.done.gone if path == self.root.path}
        live = self.state.live_keys(self.project, but=gone)
        cleaned = [m for m in self.state.manifests.readable if m.key in keys and m.key not in live]
        self.done.keys.update((self.root.path, manifest.key) for manifest in cleaned)
        removed = self._remove_paths(cleaned, notes)
        self._remove_blobs(cleaned, live, others, removed)
        self._remove_partials(others)
        self._name_what_is_not_ours()
        if self.dry:
            return
        removed_all = not self.done.left
        self.states.note_hidden(dict.fromkeys(filter(self._is_gone, removed), ""))
        self._drop_pins([mine.entries[name].form for name in chosen] + [manifest.request for manifest in cleaned])
        if removed_all:
            for note in notes:
                reassign_note(self.root, note, ())
            for key in keys.difference(live):
                remove_manifests(self.root, key)
        self._write_claims(mine, chosen, everything=names is None, removed_all=removed_all)
        sweep_unowned(self.root)
        _remove_records(self.root)
        newly = {name for name in chosen if not mine.entries[name].cleaned}
        if newly or self.done.files > files:
            self._append_to_history(newly, self.done.files - files, self.done.size - size)
        self.root.layout.remove_empty_root()

    def _append_to_history(self, names: Collection[str], files: int, size: int) -> None:
        try:
            append_removal(self.root, self.done.run, self.project.id, "cleaned", names, files=files, size=size)
        except DiskError as error:
            self.done.keep(f"the history lacks this clean: {error}")

    def _split_notes(self, names: Collection[str] | None) -> tuple[list[FetchNote], list[FetchNote]]:
        """Return the notes of fetches that only the cleaned claims made, and that are not under way; and the others.

        The cleaned claims are removed from the others.
        """
        cleaned, others = [], []
        for note in self.state.notes:
            theirs = {
                (project, name)
                for project, name in note.claims
                if project != self.project.id or (names is not None and name not in names)
            }
            is_under_way = note.key and is_held(self.root.lock(f"entry-{note.key}"))
            if not is_under_way and not theirs:
                cleaned.append(note)
                continue
            others.append(note)
            if not is_under_way and theirs != note.claims and not self.dry:
                reassign_note(self.root, note, theirs)
        return cleaned, others

    def _remove_paths(self, cleaned: Iterable[Manifest], notes: Iterable[FetchNote]) -> set[str]:
        """Remove what the cleaned manifests and notes show, and no living claim lists; return the paths."""
        used = self.states.paths_in_use(self.project, self.done.gone)
        records = {file.path: file for manifest in cleaned for file in manifest.shown if file.path not in used}
        for path, record in records.items():
            if not record.made_link and not self._is_gone(path):
                self.done.keep(f"{path}: made by {self.root.layout.maker}, not by us")
        ours = {path for path, record in records.items() if record.made_link}
        ours |= {path for note in notes for path in note.paths if path not in used and path not in records}
        if not self.dry:
            self.root.layout.refs.drop(ours)
        for path in sorted(ours, reverse=True):  # files in a folder go before a file that was to replace the folder
            self._unlink(path)
        return ours

    def _remove_blobs(
        self, cleaned: Sequence[Manifest], live: Collection[str], notes: Iterable[FetchNote], removed: set[str]
    ) -> None:
        """Remove the blobs that the cleaned manifests list and no kept one does, and those that nothing owns any more.

        Args:
            live: keys of the manifests that a living claim holds.
            notes: those that stay.
            removed: visible paths that were removed.
        """
        manifests, path = self.state.manifests.readable, self.root.path
        noted = {blob_id for note in notes for blob_id in note.blobs}
        used = noted | self.state.blob_ids(m for m in manifests if m.key in live)
        owned = noted | self.state.blob_ids(m for m in manifests if (path, m.key) not in self.done.keys)
        found = self.root.layout.removable_blobs(cleaned, used, removed, lambda name: self._is_unowned(name, owned))
        for blob, why_kept in found:
            if why_kept:
                self.done.keep(f"{blob}: {why_kept}")
            else:
                self._unlink(blob)

    def _is_unowned(self, blob_id: str, owned: Collection[str]) -> bool:
        return blob_id not in owned and not is_held(self.root.layout.blob_lock(blob_id))

    def _remove_partials(self, notes: Iterable[FetchNote]) -> None:
        """Remove the partials of dead runs that none of `notes` lists, and the temporaries."""
        kept = {blob_id for note in notes for blob_id in note.blobs}
        for name in sorted(self.root.tree.names(PARTIALS)):
            path = f"{PARTIALS}/{name}"
            found = PARTIAL.fullmatch(name) or JOURNAL.fullmatch(name)
            is_dead = found and partials.is_left_by_a_run(self.root.tree, path) and self._is_unowned(found[1], kept)
            if is_dead or is_temporary("partials", name):  # temporaries are made only under the root's lock
                self._unlink(path)

    def _name_what_is_not_ours(self) -> None:
        """Add to `done.kept` what lies in our folder under a name that is not ours."""
        for path, is_folder in self.root.tree.walk(RECORDS):
            folder, _, name = path.removeprefix(f"{RECORDS}/").rpartition("/")
            if not is_name_of_ours(folder, name, is_folder=is_folder):
                self.done.keep(f"{path}: not ours, though it lies in our folder")

    def _is_gone(self, path: str) -> bool:
        """Whether nothing lies at `path`; False if a link is on the way to it, because no link is followed."""
        try:
            return self.root.tree.lstat(path) is None
        except LinkedFolder:
            return False

    def _unlink(self, path: str) -> None:
        tree, done, top = self.root.tree, self.done, self.root.layout.top
        whole = self.root.path / path
        try:
            if not self.dry:
                tree.remove_empty_tree(path)
            stat = tree.lstat(path)
            if whole in done.seen or stat is None or (self.dry and S_ISDIR(stat.st_mode)):
                if not self.dry:  # another process removed it, and may have left its folder
                    tree.remove_empty_parents(path, top)
                return
            if not self.dry:
                tree.unlink(path)
                tree.remove_empty_parents(path, top)
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
        """Drop the pins of the requests with these canonical forms."""
        for form in forms:
            source = str(form.get("source", ""))
            name = f"{source.removeprefix('hf://')}@{form.get('revision', '')}"
            if source.startswith("hf://") and name in self.state.pins:
                claims.write_pin(self.root, name, None)

    def _write_claims(self, mine: Claims, chosen: Collection[str], *, everything: bool, removed_all: bool) -> None:
        """Mark the chosen claims cleaned. What could not be removed stays in `former`, for the next clean."""
        entries = {n: replace(c, cleaned=True) if n in chosen else c for n, c in mine.entries.items()}
        if removed_all:
            entries = {n: replace(c, former=()) if n in chosen else c for n, c in entries.items()}
        former = () if everything and removed_all else mine.former
        claims.write_claims(self.root, self.project.id, Claims(entries, former, mine.roots))


def remove_empty_folders(root: CacheRoot) -> None:
    """Remove our folders that hold nothing, as after a fetch that failed at once (no such repo, no access).

    A history that is left alone goes with them.
    """
    with contextlib.suppress(OSError):
        root.tree.remove_empty_tree(STAGING)
        for name in root.tree.names(RECORDS):
            root.tree.remove_if_empty(f"{RECORDS}/{name}")
        if root.tree.names(RECORDS) == [os.path.basename(HISTORY)]:
            root.tree.unlink(HISTORY)
        root.tree.remove_if_empty(RECORDS)
        root.layout.remove_empty_folders()


def _remove_records(root: CacheRoot) -> None:
    """Remove claims, pins and history of a root that has no living claim, no manifest and no note of a fetch."""
    state = RootState(root)
    if not state.all_claims.is_complete:  # the folder cannot be listed: any project may need the pins
        return
    everyone = state.all_claims.by_project
    live = any(not claim.cleaned for theirs in everyone.values() for claim in theirs.entries.values())
    readable = all(theirs.entries or theirs.former for theirs in everyone.values())
    if live or not readable or any(theirs.former for theirs in everyone.values()):
        return
    if state.manifests.keys or noted_keys(root):
        return
    for project in everyone:
        claims.write_claims(root, project, Claims({}))
    claims.remove_pins(root)
    with contextlib.suppress(OSError):  # a folder of that name is the user's
        root.tree.unlink(HISTORY)


def sweep(root: CacheRoot) -> None:
    """Remove what no manifest, no note of a fetch and no living process owns, and useless or old partials."""
    partials.sweep_partials(root, older_than_s=RESUMABLE_S)
    sweep_unowned(root)


def sweep_unowned(root: CacheRoot) -> None:
    """Remove what no manifest, no note of a fetch and no living process owns."""
    partials.sweep_temporaries(root)
    drop_unreadable_notes(root)
    sweep_locks(root.tree, LOCKS, LOCK)
    if not root.tree.is_folder(STAGING) and not root.tree.is_folder(PUBLISHED):
        return
    state = RootState(root)
    if state.manifests.are_all_readable:  # else it cannot be known what is owned
        root.layout.sweep_blobs(state.owned_blob_ids())


def forget_empty_note(root: CacheRoot, key: str, claim: tuple[str, str]) -> None:
    """Remove this claim from the note of a request, if nothing is left of what the note lists."""
    coming = {found[1] for name in root.tree.names(PARTIALS) if (found := PARTIAL.fullmatch(name))}
    for note in read_notes(root):
        if note.key != key:
            continue
        left = note.blobs & coming or any(map(root.layout.has_unlisted_blob, note.blobs))
        if not left and not any(root.tree.lstat(path) for path in note.paths):
            reassign_note(root, note, note.claims - {claim})
