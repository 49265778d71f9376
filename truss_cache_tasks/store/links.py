"""Making held bytes visible at their paths, and taking paths out of sight: the only moment a reader can notice."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from truss_cache_tasks.planning.keys import request_key
from truss_cache_tasks.planning.plan import Plan
from truss_cache_tasks.planning.records import FORMAT, FileRecord, Manifest
from truss_cache_tasks.planning.request import Form
from truss_cache_tasks.store.blobs import Held, is_as_recorded, keep, retire
from truss_cache_tasks.store.disk import (
    disk_errors,
    made,
    make_folder,
    place_file,
    refuse_links,
    remove_empty_parents,
    remove_hollow,
    token,
    write_json,
)
from truss_cache_tasks.store.layout import Place, is_commit


def expose(place: Place, plan: Plan, held: Mapping[str, Held], known: Iterable[Manifest]) -> tuple[FileRecord, ...]:
    """Make every file of `plan` visible, each in one step, and return their records, sorted by path.

    Args:
        held: by identity, complete.
        known: this root's manifests, which tell what was made by us, and which bytes another request may want again.
    """
    known = tuple(known)
    ours = {record.path for manifest in known for record in manifest.files if record.made_link}
    key = request_key(plan.request)
    if place.form is Form.HUB:
        ours |= _intend(place, plan)
    else:
        _keep_replaced(place, plan, held, (record for m in known if m.key != key for record in m.files))
    records = []
    with disk_errors(f"cannot write below {place.root}"):
        for folder in sorted({os.path.dirname(planned.path) for planned in plan.files}):
            refuse_links(place.root / folder, place.root)
        expose_one = _link if place.form is Form.HUB else _put
        for planned in plan.files:
            one, path = held[planned.identity], Path(f"{place.root}/{planned.path}")
            made = expose_one(place, path, one) or planned.path in ours
            visible = os.stat(path)
            records.append(
                FileRecord(
                    path=planned.path,
                    size=visible.st_size,
                    mtime_ns=visible.st_mtime_ns,
                    identity=planned.identity,
                    origin=planned.origin,
                    digest=one.digest,
                    xxh3=one.xxh3,
                    blob=f"blobs/{one.path.name}" if place.form is Form.HUB else "",
                    made_link=made,
                    made_blob=one.ours,
                )
            )
        if place.form is Form.HUB:
            point_ref(place, plan.request.revision, plan.revision)
    return tuple(sorted(records, key=lambda record: record.path))


def _intend(place: Place, plan: Plan) -> set[str]:
    """Note the links that are about to be made, until a manifest lists them; return those of a run that was killed."""
    note = place.records / "published" / "links.json"
    left: set[str] = set()
    with contextlib.suppress(OSError, ValueError, TypeError):
        left = set(json.loads(note.read_bytes())["paths"])
    if coming := {p.path for p in plan.files if not os.path.lexists(place.root / p.path)} - left:
        write_json(note, {"format": FORMAT, "paths": sorted(coming | left)})
    return left


def _link(place: Place, path: Path, held: Held) -> bool:
    """Make the relative link that huggingface_hub makes; return whether there was none."""
    target = os.path.relpath(place.root / "blobs" / held.path.name, path.parent)
    with contextlib.suppress(OSError):
        if os.readlink(path) == target:
            return False
    if made(lambda: os.symlink(target, path), path):
        return True
    temporary = place.records / f"link.{token()}"
    make_folder(temporary.parent)
    os.symlink(target, temporary)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _keep_replaced(place: Place, plan: Plan, held: Mapping[str, Held], others: Iterable[FileRecord]) -> None:
    """Keep the bytes of another request that this plan will replace, so that undoing the edit fetches nothing."""
    coming = {planned.path: held[planned.identity].xxh3 for planned in plan.files}
    for record in others:
        if coming.get(record.path, record.xxh3) != record.xxh3 and is_as_recorded(place, record):
            keep(place, record)


def _put(place: Place, path: Path, held: Held) -> bool:
    remove_hollow(path)
    if not (path.is_file() and not path.is_symlink() and path.samefile(held.path)):
        place_file(held.path, path, place.records / "partials" / f"put.{token()}")
    return True


def point_ref(place: Place, revision: str, commit: str) -> None:
    """Write refs/REVISION as huggingface_hub does: no ref for a full commit."""
    if is_commit(revision):
        return
    path = place.root / "refs" / revision
    with contextlib.suppress(OSError):
        if path.read_text() == commit:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.records / f"ref.{token()}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(commit)
    os.replace(temporary, path)


def read_ref(place: Place, revision: str) -> str:
    """Return the commit that refs/REVISION names, "" without one."""
    try:
        return (place.root / "refs" / revision).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def hide(place: Place, records: Iterable[FileRecord]) -> dict[Path, Path]:
    """Take these paths out of sight. The bytes stay: as blobs of the hub, or retired into our own folder.

    Returns:
        Where plain files went: path before -> path now.
    """
    moved: dict[Path, Path] = {}
    records = tuple(records)
    if place.form is Form.HUB:
        drop_refs(place, {place.root / record.path for record in records if record.made_link})
    for record in records:
        path = place.root / record.path
        if not record.made_link or not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()):
            continue
        with disk_errors(f"cannot remove {path}"):
            if place.form is Form.HUB:
                path.unlink()
            else:
                moved[path] = retire(place, record)
            remove_empty_parents(path, top(place))
    return moved


def top(place: Place) -> Path:
    """Return the folder that stays however empty it gets: scan_cache_dir() warns of a repo without snapshots."""
    return place.root / "snapshots" if place.form is Form.HUB else place.root


def drop_refs(place: Place, leaving: Set[Path]) -> None:
    """Remove the refs to snapshots that hold nothing but `leaving`, before it goes: scan_cache_dir() warns of such."""
    for path in files_below(place.root / "refs"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if set(files_below(place.root / "snapshots" / path.read_text().strip())) <= leaving:
                path.unlink()
                remove_empty_parents(path, place.root)


def files_below(folder: Path) -> list[Path]:
    """Return every file and link below `folder`; none if it is missing."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def in_the_way(hidden: Iterable[FileRecord], plan: Plan) -> list[FileRecord]:
    """Return the records whose paths must go before the plan's can come: a file where it needs a folder, or reverse."""
    wanted = {planned.path for planned in plan.files}
    folders = {str(parent) for path in wanted for parent in Path(path).parents}
    return [r for r in hidden if r.path in folders or any(str(p) in wanted for p in Path(r.path).parents)]
