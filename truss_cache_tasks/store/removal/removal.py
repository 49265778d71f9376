"""Removal: remove what given manifests and unfinished fetches left in one root. Nothing else removes entries.

A link or blob is removed when we made it and no living claim lists it, in any root that it lies in; a blob of the hub
cache also stays while any link in `snapshots/` leads to it, ours or not. What huggingface_hub downloaded, and what the
user put there, is named and stays. What unfinished fetches left is removed with the claims that noted it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISLNK

from truss_cache_tasks.model.records import RECORDS, ClaimId, Manifest
from truss_cache_tasks.store.blobs import partials
from truss_cache_tasks.store.files.locks import is_held
from truss_cache_tasks.store.files.names import JOURNAL, PARTIAL, PARTIALS, is_name_of_ours, is_temporary
from truss_cache_tasks.store.files.open_folders import LinkedFolder
from truss_cache_tasks.store.records.fetch_notes import FetchNote
from truss_cache_tasks.store.records.root_state import NestedStates


@dataclass
class Cleaned:
    """What a clean, a prune or an eviction removed (or would remove), over one invocation.

    Args:
        run, did: the id of the invocation, and in one word what it does, for the history.
        size: bytes that are freed on the disk; what several entries share is counted once.
        files: how many files and links.
        kept: what stays, a line each, and why.
        left: what could not be removed, a line each.
        warnings: about claims that may be another project's.
    """

    run: str = ""
    did: str = "cleaned"
    size: int = 0
    files: int = 0
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set, repr=False)
    gone: set[tuple[Path, ClaimId]] = field(default_factory=set, repr=False)  # (root, claim): does not count any more
    manifests: set[tuple[Path, str]] = field(default_factory=set, repr=False)  # (root, record): goes, or would go
    links: Counter[tuple[int, int]] = field(default_factory=Counter, repr=False)  # (device, inode) -> names removed

    def keep(self, line: str) -> None:
        """Add a line about what stays, once."""
        if line not in self.kept:
            self.kept.append(line)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovalPlan:
    """What is to go from a root, and what stays there.

    Attributes:
        manifests: those that go, by the path of the record.
        used: manifests whose blobs stay.
        used_paths: visible paths that stay.
        notes: of unfinished fetches that go.
        other_notes: those that stay.
    """

    manifests: dict[str, Manifest]
    used: Sequence[Manifest]
    used_paths: Collection[str]
    notes: Sequence[FetchNote] = ()
    other_notes: Sequence[FetchNote] = ()


class Removal:
    """The removal of paths, blobs and partials from one root, under the locks that the caller holds (a dry run: none).

    Attributes:
        is_whole: everything that is to go is gone.
    """

    def __init__(self, states: NestedStates, done: Cleaned, *, dry: bool) -> None:
        self.states = states
        self.state = states.own
        self.root = states.own.root
        self.done = done
        self.dry = dry
        self.is_whole = True
        self._used_paths: Collection[str] = ()

    def run(self, plan: RemovalPlan) -> None:
        """Remove the paths, blobs and partials of `plan`, and the partials and blobs that nothing owns.

        The records stay: the caller drops them, those of what could not be removed later.
        """
        self.done.manifests.update((self.root.path, path) for path in plan.manifests)
        self._used_paths = plan.used_paths
        removed = self._remove_paths(plan)
        self._remove_blobs(plan, removed)
        self._remove_partials(plan.other_notes)
        self._name_what_is_not_ours()
        if not self.dry:
            self.states.note_hidden(dict.fromkeys(filter(self._is_gone, removed), ""))

    def _remove_paths(self, plan: RemovalPlan) -> set[str]:
        """Remove what the manifests and notes show, and nothing else uses; return the paths."""
        used, shown = plan.used_paths, (file for one in plan.manifests.values() for file in one.shown)
        records = {file.path: file for file in shown if file.path not in used}
        for path, record in records.items():
            if not record.made_link and not self._is_gone(path):
                self.done.keep(f"{path}: made by {self.root.layout.maker}, not by us")
        ours = {path for path, record in records.items() if record.made_link}
        ours |= {path for note in plan.notes for path in note.paths if path not in used and path not in records}
        if not self.dry:
            self.root.layout.refs.drop(ours)
        for path in sorted(ours, reverse=True):  # files in a folder go before a file that was to replace the folder
            self._unlink(path)
        return ours

    def _remove_blobs(self, plan: RemovalPlan, removed: Collection[str]) -> None:
        """Remove the blobs that the manifests list and nothing else does, and those that nothing owns any more.

        Args:
            removed: visible paths that were removed.
        """
        gone = {record for path, record in self.done.manifests if path == self.root.path}
        kept = [one for record, one in self.state.manifests.by_path.items() if record not in gone]
        noted = {blob_id for note in plan.other_notes for blob_id in note.blobs}
        used, owned = noted | self.state.blob_ids(plan.used), noted | self.state.blob_ids(kept)
        manifests = list(plan.manifests.values())
        found = self.root.layout.removable_blobs(manifests, used, removed, lambda name: self._is_unowned(name, owned))
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

    def _is_in_use(self, folder: str) -> bool:
        """Whether a file that stays lies below `folder`, which then came in the place of a file of ours."""
        return any(path.startswith(f"{folder}/") for path in self._used_paths)

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
            if whole in done.seen or stat is None or (S_ISDIR(stat.st_mode) and (self.dry or self._is_in_use(path))):
                if not self.dry:  # another process removed it, and may have left its folder
                    tree.remove_empty_parents(path, top)
                return
            if not self.dry:
                tree.unlink(path)
                tree.remove_empty_parents(path, top)
        except OSError as exc:
            self.is_whole = False
            done.left.append(f"{whole}: {exc.strerror}")
            return
        except LinkedFolder as error:
            self.is_whole = False
            done.left += [] if self.dry or str(error) in done.left else [str(error)]
            return
        done.seen.add(whole)
        done.files += 1
        inode = (stat.st_dev, stat.st_ino)
        done.links[inode] += self.dry
        if not S_ISLNK(stat.st_mode) and stat.st_nlink - done.links[inode] == (0 if self.dry else 1):
            done.size += stat.st_size
