"""Find the other entries of a config at the paths of an entry: two may share a path only with the same bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from truss_cache_tasks.errors import Collision
from truss_cache_tasks.model.plan import Plan, PlannedFile
from truss_cache_tasks.model.records import FileRecord, Manifest, Project
from truss_cache_tasks.store import claims
from truss_cache_tasks.store.blobs import as_text
from truss_cache_tasks.store.held import LocalBlob
from truss_cache_tasks.store.layout import CacheRoot
from truss_cache_tasks.store.manifest import read_all
from truss_cache_tasks.store.ownership import folders_of


class Shown:
    """What the entries of one config show in nested roots, by absolute path: built once for any number of questions."""

    def __init__(self) -> None:
        self.files: dict[str, list[tuple[str, FileRecord]]] = {}  # path -> (claim name, its record) of each
        self.folders: dict[str, set[str]] = {}  # folder -> claim names with files in it

    def add(self, name: str, path: str, record: FileRecord) -> None:
        """Note that the claim `name` shows `record` at `path`."""
        self.files.setdefault(path, []).append((name, record))
        for folder in folders_of(path):
            self.folders.setdefault(folder, set()).add(name)


@dataclass(frozen=True)
class Neighbours:
    """What the other entries of a config show.

    Args:
        shown: by all entries.
        names: of the claims of the entry itself, which do not count.
    """

    shown: Shown
    names: Collection[str]

    def at(self, path: str) -> tuple[str, FileRecord] | None:
        """Return (claim name, its record) of another entry's file at this absolute path."""
        return next((one for one in self.shown.files.get(path, ()) if one[0] not in self.names), None)

    def in_conflict(self, path: str) -> str | None:
        """Return the claim name of another entry that needs a folder where `path` is, or has a file above it."""
        above = (there[0] for folder in folders_of(path) if (there := self.at(folder)) is not None)
        return next(above, None) or next(iter(self.shown.folders.get(path, set()) - set(self.names)), None)


def shown_by_config(place: CacheRoot, project: Project) -> Shown:
    """Return what the entries that this config has now show in this root, and in the roots above and below it."""
    found = Shown()
    for root in sorted({str(place.root), *project.roots}):
        if not _is_nested(root, str(place.root)):
            continue
        there = CacheRoot(Path(root), place.layout)
        owners = {
            claim.request: name
            for name, claim in claims.claims_of(there, project).entries.items()
            if project.entries.get(name) == claim.request and not claim.cleaned
        }
        for manifest in read_all(there) if owners else ():
            if manifest.key in owners:
                for record in manifest.shown:
                    found.add(owners[manifest.key], f"{root}/{record.path}", record)
    return found


def neighbours(place: CacheRoot, project: Project, names: Collection[str]) -> Neighbours:
    """Return what the other entries of this config show now.

    Args:
        names: of the claims of the entry itself.
    """
    return Neighbours(shown_by_config(place, project), names)


def contested(place: CacheRoot, plan: Plan, others: Neighbours) -> list[PlannedFile]:
    """Return the files whose bytes must be seen before it is known whether they collide (no common digest).

    Raises:
        Collision: names the path and both entries, as far as the listing can tell.
    """
    unsure = []
    for planned in plan.files if others.shown.files else ():
        path = f"{place.root}/{planned.path}"
        if (other := others.in_conflict(path)) is not None:
            raise _collision(plan, planned, other)
        there = others.at(path)
        if there is None:
            continue
        name, record = there
        if planned.identity == record.identity or planned.origin == record.origin:
            continue  # the same bytes, or one object seen at two times: the newer wins
        mine = as_text(planned.file.digest, planned.file.encoding)
        if mine and mine.partition(":")[0] == record.digest.partition(":")[0]:
            if mine != record.digest or planned.file.size != (record.stored_size or record.size):
                raise _collision(plan, planned, name)
        else:
            unsure.append(planned)
    return unsure


def superseded(place: CacheRoot, plan: Plan, others: Neighbours) -> bool:
    """Whether another entry shows another version of an object of `plan`: only a listing can tell the newer one."""
    shown = ((planned, others.at(f"{place.root}/{planned.path}")) for planned in plan.files)
    return any(
        there is not None and there[1].origin == planned.origin and there[1].identity != planned.identity
        for planned, there in shown
    )


def is_replaced_by_another(place: CacheRoot, manifest: Manifest, project: Project, names: Collection[str]) -> bool:
    """Whether a living claim shows another version of an object where `manifest` had it: a listing tells the newer.

    Args:
        names: of the claims of the entry itself.
    """
    mine = {file.path: file for file in manifest.files if file.path in manifest.hidden}
    if not mine:
        return False
    live = claims.live_keys(place, project, but=names) - {manifest.key}
    theirs = [file for other in read_all(place) if other.key in live for file in other.shown if file.path in mine]
    return any(file.origin == mine[file.path].origin and file.identity != mine[file.path].identity for file in theirs)


def settle(
    place: CacheRoot, plan: Plan, unsure: Iterable[PlannedFile], others: Neighbours, held: Mapping[str, LocalBlob]
) -> None:
    """Compare the bytes themselves. Raises Collision as `contested` does."""
    for planned in unsure:
        there = others.at(f"{place.root}/{planned.path}")
        if there is not None and held[planned.identity].xxh3 != there[1].xxh3:
            raise _collision(plan, planned, there[0])


def _is_nested(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _collision(plan: Plan, planned: PlannedFile, other: str) -> Collision:
    return Collision(
        f"{plan.request.source}: {planned.path} collides with other bytes of the entry {other!r} at the same path",
        hint="Give one of the two a volume_folder of its own, or drop the file with ignore_patterns.",
    )
