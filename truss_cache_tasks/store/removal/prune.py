"""prune_root: remove from one root what no living claim, no running job and no other tool needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from truss_cache_tasks.model.records import RECORDS, ClaimId, Claims, Project
from truss_cache_tasks.model.usage import DeadClaim
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store.files.disk import disk_errors, is_writable
from truss_cache_tasks.store.files.names import pin_name_of_form
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records import claims
from truss_cache_tasks.store.records.dead_claims import DeadRule
from truss_cache_tasks.store.records.fetch_notes import note_path, noted_keys, reassign_note
from truss_cache_tasks.store.records.manifest import remove_manifest
from truss_cache_tasks.store.records.root_state import NestedStates, RootState, locked_states, read_states
from truss_cache_tasks.store.removal.clean import drop_pins, end_removal, listed_paths, remove_empty_folders
from truss_cache_tasks.store.removal.removal import Cleaned, Removal, RemovalPlan
from truss_cache_tasks.store.removal.usage import RootUnits, find_units

_NO_PROJECT = Project(id="", config="", entries={})


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What a prune removed from one root, or would remove.

    Attributes:
        root: its path.
        protected: why nothing was removed; "" where that was allowed.
        dropped: the dead claims.
        files, size: files and links, and the bytes that are freed on the disk.
    """

    root: str
    protected: str = ""
    dropped: tuple[DeadClaim, ...] = ()
    files: int = 0
    size: int = 0


def prune_root(
    root: CacheRoot,
    rule: DeadRule,
    done: Cleaned,
    *,
    only: Collection[str] | None = None,
    needed: Collection[str] = (),
    cancel: CancelToken = NEVER,
    dry: bool,
) -> Pruned:
    """Remove what nothing needs, as the records say under the root's lock; add what was done to `done`.

    Args:
        only: the units that may go (`RootUsage.units`); None: all that nothing needs, and all dead claims.
        needed: ids of blobs that the caller is about to use.
        cancel: ends a wait for a lock, with Stopped.
        dry: remove nothing, but return what would be removed.

    Raises:
        DiskError: the root cannot be read or written.
    """
    with disk_errors(f"cannot prune {root.path}"), root.tree.kept_open():
        if not root.tree.is_folder(RECORDS):
            return Pruned(root=str(root.path))
        if dry:
            states = read_states(root, listed_paths(RootState(root)))
            return _Prune(states, rule, done, dry=True).run(only, needed)
        if not is_writable(root.records):
            would = _Prune(read_states(root, ()), rule, Cleaned(), dry=True).run(only, needed)
            if would.files or would.dropped:
                done.left.append(f"{root.path}: not writable")
            return Pruned(root=str(root.path), protected=would.protected)
        with locked_states(root, listed_paths, cancel) as states:
            pruned = _Prune(states, rule, done, dry=False).run(only, needed)
        remove_empty_folders(root)
        return pruned


class _Prune:
    """One prune of one root; all of it under the locks that the caller holds (a dry run takes none)."""

    def __init__(self, states: NestedStates, rule: DeadRule, done: Cleaned, *, dry: bool) -> None:
        self.states = states
        self.state = states.own
        self.root = states.own.root
        self.rule = rule
        self.done = done
        self.dry = dry

    def run(self, only: Collection[str] | None, needed: Collection[str]) -> Pruned:
        """Remove paths, blobs and partials; then drop pins, notes, manifests and claims; then sweep."""
        path = str(self.root.path)
        found = find_units(self.state, self.rule, needed)
        if found.protected:
            return Pruned(root=path, protected=found.protected)
        plan = self._plan(found, only)
        stay = {key for record, key in self._keys() if record not in plan.manifests}
        dropped = tuple(one for one in found.dead if only is None or one.request not in stay)
        claims_dropped = {one.claim for one in dropped}
        self.done.gone.update((self.root.path, claim) for claim in claims_dropped)
        files, size = self.done.files, self.done.size
        removal = Removal(self.states, self.done, dry=self.dry)
        removal.run(plan)
        pruned = Pruned(root=path, dropped=dropped, files=self.done.files - files, size=self.done.size - size)
        if not self.dry:
            self._drop_records(plan, claims_dropped if removal.is_whole else (), is_whole=removal.is_whole)
            names = [one.claim[1] for one in dropped]
            project = next(iter(self.rule.projects), _NO_PROJECT).id
            end_removal(self.root, self.done, project, names, files=pruned.files, size=pruned.size)
        return pruned

    def _keys(self) -> Iterable[tuple[str, str]]:
        return ((record, manifest.key) for record, manifest in self.state.manifests.by_path.items())

    def _plan(self, found: RootUnits, only: Collection[str] | None) -> RemovalPlan:
        gone = {path for path, unit in found.units.items() if not unit.is_claimed and (only is None or path in only)}
        manifests = self.state.manifests.by_path
        used = [manifest for path, manifest in manifests.items() if path not in gone]
        other_notes = [note for note in self.state.notes if note_path(note) not in gone]
        own = {file.path for manifest in used for file in manifest.shown}
        own = own.union(*(note.paths for note in other_notes))
        dead = {(self.root.path, one.claim) for one in found.dead}
        nested = next(iter(self.rule.projects), _NO_PROJECT)  # whose gone entries do not count in the other roots
        return RemovalPlan(
            manifests={path: manifest for path, manifest in manifests.items() if path in gone},
            used=used,
            used_paths=self.states.paths_in_use(nested, dead | self.done.gone, own),
            notes=[note for path, note in found.notes.items() if path in gone],
            other_notes=other_notes,
        )

    def _drop_records(self, plan: RemovalPlan, dropped: Collection[ClaimId], *, is_whole: bool) -> None:
        """Drop the pins that nothing needs, and where all is removed the notes, manifests and claims."""
        everyone = self.state.all_claims.by_project
        living = [
            claim.form
            for project, theirs in everyone.items()
            for name, claim in theirs.entries.items()
            if (project, name) not in dropped and not claim.cleaned
        ]
        needed = {pin_name_of_form(form) for form in (*living, *(manifest.request for manifest in plan.used))}
        forms = [manifest.request for manifest in plan.manifests.values()]
        drop_pins(self.state, [form for form in forms if pin_name_of_form(form) not in needed])
        if not is_whole:
            return
        for note in plan.notes:
            reassign_note(self.root, note, ())
        for path in plan.manifests:
            remove_manifest(self.root, path)
        there = {manifest.key for manifest in plan.used}.union(noted_keys(self.root))
        for project, theirs in everyone.items():
            now = self.rule.current(project, theirs)
            entries = {name: claim for name, claim in now.entries.items() if (project, name) not in dropped}
            left = Claims(entries, tuple(key for key in now.former if key in there), now.roots)
            if left != theirs:
                claims.write_claims(self.root, project, left)
