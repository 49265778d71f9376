"""Who else of the same config lives at a path: two entries may share one only with the same bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from truss_cache_tasks.errors import Collision
from truss_cache_tasks.planning.plan import Plan, PlannedFile
from truss_cache_tasks.planning.records import FileRecord, Project
from truss_cache_tasks.store import claims
from truss_cache_tasks.store.blobs import as_text
from truss_cache_tasks.store.held import Held
from truss_cache_tasks.store.layout import Place
from truss_cache_tasks.store.manifest import read_all

Neighbours = Mapping[str, tuple[str, FileRecord]]  # absolute path -> (entry name, its record there)


def neighbours(place: Place, project: Project, names: Collection[str]) -> Neighbours:
    """Return what the other entries that this config has now show in this root, or in a root above or below it.

    Args:
        names: of the claims of the entry itself.
    """
    found: dict[str, tuple[str, FileRecord]] = {}
    for root in sorted({str(place.root), *project.roots}):
        if not _is_nested(root, str(place.root)):
            continue
        there = Place(Path(root), place.form)
        mine = claims.claims_of(there, project).entries
        owners = {
            claim.request: name
            for name, claim in mine.items()
            if name not in names and project.entries.get(name) == claim.request and not claim.cleaned
        }
        for manifest in read_all(there) if owners else ():
            if manifest.key in owners:
                found |= {f"{root}/{record.path}": (owners[manifest.key], record) for record in manifest.shown}
    return found


def contested(place: Place, plan: Plan, others: Neighbours) -> list[PlannedFile]:
    """Return the files whose bytes must be seen before it is known whether they collide (no common digest).

    Raises:
        Collision: names the path and both entries, as far as the listing can tell.
    """
    if not others:
        return []
    folders = {folder: path for path in others for folder in _folders(path)}
    unsure = []
    for planned in plan.files:
        path = f"{place.root}/{planned.path}"
        below = next((folder for folder in _folders(path) if folder in others), folders.get(path))
        if below is not None:
            raise _collision(plan, planned, others[below][0])
        if path not in others:
            continue
        name, record = others[path]
        if planned.identity == record.identity or planned.origin == record.origin:
            continue  # the same bytes, or one object seen at two times: the newer wins
        mine = as_text(planned.file.digest, planned.file.encoding)
        if mine and mine.partition(":")[0] == record.digest.partition(":")[0]:
            if mine != record.digest or planned.file.size != (record.stored_size or record.size):
                raise _collision(plan, planned, name)
        else:
            unsure.append(planned)
    return unsure


def superseded(place: Place, plan: Plan, others: Neighbours) -> bool:
    """Whether another entry shows another version of an object of `plan`: only a listing can tell the newer one."""
    shown = ((planned, others.get(f"{place.root}/{planned.path}")) for planned in plan.files)
    return any(
        there is not None and there[1].origin == planned.origin and there[1].identity != planned.identity
        for planned, there in shown
    )


def settle(
    place: Place, plan: Plan, unsure: Iterable[PlannedFile], others: Neighbours, held: Mapping[str, Held]
) -> None:
    """Compare the bytes themselves. Raises Collision as `contested` does."""
    for planned in unsure:
        name, record = others[f"{place.root}/{planned.path}"]
        if held[planned.identity].xxh3 != record.xxh3:
            raise _collision(plan, planned, name)


def _is_nested(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _collision(plan: Plan, planned: PlannedFile, other: str) -> Collision:
    return Collision(
        f"{plan.request.source}: {planned.path} collides with other bytes of the entry {other!r} at the same path",
        hint="Give one of the two a volume_folder of its own, or drop the file with ignore_patterns.",
    )
