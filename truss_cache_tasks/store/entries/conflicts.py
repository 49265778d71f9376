"""Find paths at which two entries of one config show different bytes: they may share a path only with equal bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from truss_cache_tasks.errors import Collision
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.plan import Plan, PlannedFile
from truss_cache_tasks.model.records import FileRecord, Manifest, Project, digest_text
from truss_cache_tasks.store.files.names import folders_of
from truss_cache_tasks.store.layouts.blob import LocalBlob
from truss_cache_tasks.store.layouts.flat_layout import flat_root
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.root_state import RootState


@dataclass(frozen=True)
class ShownFiles:
    """What the entries of one config show in nested roots, by absolute path: built once for any number of questions.

    Args:
        files: path -> (claim name, its record) of each entry that shows one there.
        folders: folder -> claim names with files in it.
    """

    files: dict[str, list[tuple[str, FileRecord]]] = field(default_factory=dict)
    folders: dict[str, set[str]] = field(default_factory=dict)

    def add(self, name: str, path: str, record: FileRecord) -> None:
        """Note that the claim `name` shows `record` at `path`."""
        self.files.setdefault(path, []).append((name, record))
        for folder in folders_of(path):
            self.folders.setdefault(folder, set()).add(name)


@dataclass(frozen=True)
class OtherEntries:
    """What the other entries of a config show.

    Args:
        shown: by all entries.
        names: of the claims of the entry itself, which do not count.
    """

    shown: ShownFiles
    names: Collection[str]

    def at(self, path: str) -> tuple[str, FileRecord] | None:
        """Return (claim name, its record) of another entry's file at this absolute path."""
        return next((one for one in self.shown.files.get(path, ()) if one[0] not in self.names), None)

    def folder_conflict(self, path: str) -> str | None:
        """Return the claim name of another entry that needs a folder where `path` is, or has a file above it."""
        above = (there[0] for folder in folders_of(path) if (there := self.at(folder)) is not None)
        return next(above, None) or next(iter(self.shown.folders.get(path, set()) - set(self.names)), None)


def find_shown_files(root: CacheRoot, project: Project, known: Iterable[RootState] = ()) -> ShownFiles:
    """Return what the entries that this config has now show in this root, and in the roots above and below it.

    Return nothing for the hub cache, where a path always shows the same bytes: no entries can collide there.

    Args:
        known: states of roots that were read already.
    """
    found = ShownFiles()
    if root.layout.paths_name_bytes:
        return found
    states = {str(state.root.path): state for state in known}
    for path in sorted({str(root.path), *project.roots}):
        if not _is_nested(path, str(root.path)):
            continue
        state = states.get(path) or RootState(flat_root(Path(path)))
        owners = {
            claim.request: name
            for name, claim in state.claims_of(project).entries.items()
            if project.entries.get(name) == claim.request and not claim.cleaned
        }
        for manifest in state.manifests.readable if owners else ():
            if manifest.key in owners:
                for record in manifest.shown:
                    found.add(owners[manifest.key], f"{path}/{record.path}", record)
    return found


@dataclass(frozen=True)
class Conflicts:
    """Files of a plan at paths of other entries that must be compared by their bytes: no digest tells them apart.

    Args:
        undecided: these files; () where there is nothing to compare.
    """

    root: CacheRoot
    plan: Plan
    others: OtherEntries
    undecided: tuple[PlannedFile, ...]

    def resolve(self, blobs: Mapping[ContentId, LocalBlob]) -> None:
        """Compare the bytes themselves.

        Args:
            blobs: by content id, of all files that are undecided.

        Raises:
            Collision: names the path and both entries.
        """
        for planned in self.undecided:
            there = self.others.at(f"{self.root.path}/{planned.path}")
            if there is not None and blobs[planned.content_id].xxh3 != there[1].xxh3:
                raise _collision(self.plan, planned, there[0])


def find_conflicts(root: CacheRoot, plan: Plan, others: OtherEntries) -> Conflicts:
    """Compare a plan with what other entries show, as far as the listing can tell.

    Raises:
        Collision: names the path and both entries.
    """
    undecided = []
    for planned in plan.files if others.shown.files else ():
        path = f"{root.path}/{planned.path}"
        if (other := others.folder_conflict(path)) is not None:
            raise _collision(plan, planned, other)
        there = others.at(path)
        if there is None:
            continue
        name, record = there
        if planned.content_id == record.content_id or planned.origin == record.origin:
            continue  # the same bytes, or one object seen at two times: the newer wins
        mine = digest_text(planned.file.digest, planned.file.encoding)
        if mine and mine.partition(":")[0] == record.digest.partition(":")[0]:
            if mine != record.digest or planned.file.size != (record.stored_size or record.size):
                raise _collision(plan, planned, name)
        else:
            undecided.append(planned)
    return Conflicts(root, plan, others, tuple(undecided))


def is_another_version_shown(root: CacheRoot, plan: Plan, others: OtherEntries) -> bool:
    """Whether another entry shows another version of an object of `plan`: only a listing can tell the newer one."""
    shown = ((planned, others.at(f"{root.path}/{planned.path}")) for planned in plan.files)
    return any(there is not None and _is_another_version(planned, there[1]) for planned, there in shown)


def is_replaced_by_another_version(
    state: RootState, manifest: Manifest, project: Project, names: Collection[str]
) -> bool:
    """Whether a living claim shows another version of an object where `manifest` had it: a listing tells the newer.

    Args:
        names: of the claims of the entry itself.
    """
    mine = {file.path: file for file in manifest.files if file.path in manifest.hidden}
    if not mine:
        return False
    live = set(state.live_keys(project, but={(project.id, name) for name in names})) - {manifest.key}
    others = (other for other in state.manifests.readable if other.key in live)
    theirs = [file for other in others for file in other.shown if file.path in mine]
    return any(_is_another_version(mine[file.path], file) for file in theirs)


def _is_another_version(one: PlannedFile | FileRecord, other: FileRecord) -> bool:
    """Whether two files are of one object, seen at two times."""
    return one.origin == other.origin and one.content_id != other.content_id


def _is_nested(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _collision(plan: Plan, planned: PlannedFile, other: str) -> Collision:
    return Collision(
        f"{plan.request.source}: {planned.path} collides with other bytes of the entry {other!r} at the same path",
        hint="Give one of the two a volume_folder of its own, or drop the file with ignore_patterns.",
    )
