"""Who else of the same config lives at a path: two entries may share one only with the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from truss_cache_tasks.errors import Collision
from truss_cache_tasks.planning.plan import Plan, PlannedFile
from truss_cache_tasks.planning.records import FileRecord, Project
from truss_cache_tasks.store import claims
from truss_cache_tasks.store.blobs import Held, as_text
from truss_cache_tasks.store.layout import Place
from truss_cache_tasks.store.manifest import read_all

Neighbours = Mapping[str, tuple[str, FileRecord]]  # path -> (entry name, its record there)


def neighbours(place: Place, project: Project, name: str) -> Neighbours:
    """Return what the other entries that this config has now show in this root."""
    mine = claims.read_claims(place, project.id).entries
    owners = {c.request: n for n, c in mine.items() if n != name and n in project.entries and not c.cleaned}
    return {
        record.path: (owners[manifest.key], record)
        for manifest in read_all(place)
        if manifest.key in owners
        for record in manifest.files
    }


def contested(plan: Plan, others: Neighbours) -> list[PlannedFile]:
    """Return the files whose bytes must be seen before it is known whether they collide (no common digest).

    Raises:
        Collision: names the path and both entries, as far as the listing can tell.
    """
    if not others:
        return []
    folders = {folder: path for path in others for folder in _folders(path)}
    unsure = []
    for planned in plan.files:
        below = next((folder for folder in _folders(planned.path) if folder in others), folders.get(planned.path))
        if below is not None:
            raise _collision(plan, planned, others[below][0])
        if planned.path not in others:
            continue
        name, record = others[planned.path]
        if planned.identity == record.identity or planned.origin == record.origin:
            continue  # the same bytes, or one object seen at two times: the newer wins
        mine = as_text(planned.file.digest)
        if mine and mine.partition(":")[0] == record.digest.partition(":")[0]:
            if mine != record.digest or planned.file.size != record.size:
                raise _collision(plan, planned, name)
        else:
            unsure.append(planned)
    return unsure


def settle(plan: Plan, unsure: Iterable[PlannedFile], others: Neighbours, held: Mapping[str, Held]) -> None:
    """Compare the bytes themselves. Raises Collision as `contested` does."""
    for planned in unsure:
        name, record = others[planned.path]
        if held[planned.identity].xxh3 != record.xxh3:
            raise _collision(plan, planned, name)


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _collision(plan: Plan, planned: PlannedFile, other: str) -> Collision:
    return Collision(
        f"{plan.request.source}: {planned.path} collides with other bytes of the entry {other!r} at the same path",
        hint="Give one of the two a volume_folder of its own, or drop the file with ignore_patterns.",
    )
