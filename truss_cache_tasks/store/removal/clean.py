"""clean_root: drop claims, and remove what no other claim or snapshot refers to (`removal.py`).

sweep: remove what dead runs left and nothing owns, at each commit and each clean, under the root's lock. Every byte
that we made has an owner: a manifest, a note of an unfinished fetch, or a process that holds its lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import RECORDS, Claims, Project
from truss_cache_tasks.store.blobs import partials
from truss_cache_tasks.store.files.disk import disk_errors, is_writable
from truss_cache_tasks.store.files.locks import OnWait, ignore_wait, sweep_locks
from truss_cache_tasks.store.files.names import HISTORY, LOCK, LOCKS, PUBLISHED, STAGING, pin_name_of_form
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records import claims
from truss_cache_tasks.store.records.fetch_notes import (
    FetchNote,
    drop_unreadable_notes,
    is_under_way,
    noted_keys,
    read_notes,
    reassign_note,
)
from truss_cache_tasks.store.records.history import append_removal
from truss_cache_tasks.store.records.manifest import remove_manifests
from truss_cache_tasks.store.records.root_state import NestedStates, RootState, locked_states, read_states
from truss_cache_tasks.store.removal.removal import Cleaned, Removal, RemovalPlan

RESUMABLE_S = 7 * 86400.0  # a failed download of another entry waits so long for its next run


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
            if not dry and str(root.path) in project.roots:  # killed before it made more than the folder
                remove_empty_folders(root)
            return
        if not dry and not is_writable(root.records):
            if claims.read_claims(root, project.id).entries:
                done.left.append(f"{root.path}: not writable")
            return
        if dry:
            _Clean(read_states(root, listed_paths(RootState(root))), project, done, dry=True).run(names)
            return
        with locked_states(root, listed_paths, on_wait=on_wait) as states:
            _Clean(states, project, done, dry=False).run(names)
        remove_empty_folders(root)


def listed_paths(state: RootState) -> set[str]:
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
        self.done.gone.update((self.root.path, (self.project.id, name)) for name in chosen)
        for name, other in claims.claims_of_others(mine, self.project).items():
            if name in chosen:
                self.done.warnings.append(
                    f"{self.root.path}: the claim {name!r} was made by {other.config} on {other.host!r}, which may be "
                    "another project: set TRUSS_CACHE_PROJECT"
                )
        notes, others = self._split_notes(names)
        keys = {key for name in chosen for key in (mine.entries[name].request, *mine.entries[name].former)}
        keys |= set(mine.former) if names is None else set()
        keys |= {note.key for note in notes if note.key}  # a manifest that a killed commit did not claim
        gone = {claim for path, claim in self.done.gone if path == self.root.path}
        live = self.state.live_keys(self.project, but=gone)
        manifests = self.state.manifests
        plan = RemovalPlan(
            manifests={path: one for path, one in manifests.by_path.items() if one.key in keys and one.key not in live},
            used=[one for one in manifests.readable if one.key in live],
            used_paths=self.states.paths_in_use(self.project, self.done.gone),
            notes=notes,
            other_notes=others,
        )
        removal = Removal(self.states, self.done, dry=self.dry)
        removal.run(plan)
        if self.dry:
            return
        forms = [mine.entries[name].form for name in chosen] + [one.request for one in plan.manifests.values()]
        drop_pins(self.state, forms)
        if removal.is_whole:
            for note in notes:
                reassign_note(self.root, note, ())
            for key in keys.difference(live):
                remove_manifests(self.root, key)
        self._write_claims(mine, chosen, everything=names is None, removed_all=removal.is_whole)
        newly = {name for name in chosen if not mine.entries[name].cleaned}
        files, size = self.done.files - files, self.done.size - size
        end_removal(self.root, self.done, self.project.id, newly, files=files, size=size)

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
            runs_now = is_under_way(self.root, note)
            if not runs_now and not theirs:
                cleaned.append(note)
                continue
            others.append(note)
            if not runs_now and theirs != note.claims and not self.dry:
                reassign_note(self.root, note, theirs)
        return cleaned, others

    def _write_claims(self, mine: Claims, chosen: Collection[str], *, everything: bool, removed_all: bool) -> None:
        """Mark the chosen claims cleaned. What could not be removed stays in `former`, for the next clean."""
        entries = {n: c._replace(cleaned=True) if n in chosen else c for n, c in mine.entries.items()}
        if removed_all:
            entries = {n: c._replace(former=()) if n in chosen else c for n, c in entries.items()}
        former = () if everything and removed_all else mine.former
        claims.write_claims(self.root, self.project.id, Claims(entries, former, mine.roots))


def end_removal(root: CacheRoot, done: Cleaned, project: str, names: Collection[str], *, files: int, size: int) -> None:
    """Sweep a root from which something was removed; drop its last records, and the root itself where it is empty.

    Args:
        project: the id of the project that removed it; "" for none.
        names, files, size: for the history, see `append_removal`. Without names and files there is no line.
    """
    sweep_unowned(root)
    _remove_records(root)
    if names or files:
        try:
            append_removal(root, done.run, project, done.did, names, files=files, size=size)
        except DiskError as error:
            done.keep(f"the history lacks this run: {error}")
    root.layout.remove_empty_root()


def drop_pins(state: RootState, forms: Iterable[Mapping[str, Any]]) -> None:
    """Drop the pins of the requests with these canonical forms."""
    for form in forms:
        name = pin_name_of_form(form)
        if name in state.pins:
            claims.write_pin(state.root, name, None)


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


def sweep(root: CacheRoot, held: str = "") -> None:
    """Remove what no manifest, no note of a fetch and no living process owns, and useless or old partials.

    Args:
        held: the request key of the entry whose lock the caller holds, if its note may be removed too.
    """
    partials.sweep_partials(root, older_than_s=RESUMABLE_S)
    sweep_unowned(root, held)


def sweep_unowned(root: CacheRoot, held: str = "") -> None:
    """Remove what no manifest, no note of a fetch and no living process owns."""
    partials.sweep_temporaries(root)
    drop_unreadable_notes(root)
    sweep_locks(root.tree, LOCKS, LOCK)
    _drop_ended_notes(root, held)
    if not root.tree.is_folder(STAGING) and not root.tree.is_folder(PUBLISHED):
        return
    state = RootState(root)
    if state.manifests.are_all_readable:  # else it cannot be known what is owned
        root.layout.sweep_blobs(state.owned_blob_ids(), state.made_blob_ids())


def _drop_ended_notes(root: CacheRoot, held: str) -> None:
    """Remove the notes of fetches that ended in a manifest: a run was killed between its manifest and its note."""
    if not noted_keys(root):
        return
    state = RootState(root)
    for note in state.notes:
        manifests = [manifest for manifest in state.manifests.readable if manifest.key == note.key]
        paths = {file.path for manifest in manifests for file in manifest.shown if file.made_link}
        is_recorded = note.paths <= paths and note.blobs <= state.blob_ids(manifests)
        if manifests and is_recorded and (note.key == held or not is_under_way(root, note)):
            reassign_note(root, note, ())


def forget_empty_note(root: CacheRoot, key: str, claim: tuple[str, str]) -> None:
    """Remove this claim from the note of a request, if nothing is left of what the note lists."""
    coming = {blob_id for _, blob_id in partials.list_partials(root)}
    for note in read_notes(root):
        if note.key != key:
            continue
        left = note.blobs & coming or any(map(root.layout.has_unlisted_blob, note.blobs))
        if not left and not any(root.tree.lstat(path) for path in note.paths):
            reassign_note(root, note, note.claims - {claim})
