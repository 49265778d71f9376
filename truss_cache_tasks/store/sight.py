"""What lies at the paths of a plan before they are shown: what is ours, what is right already, and what is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from stat import S_ISDIR, S_ISLNK, S_ISREG

from truss_cache_tasks.errors import DiskError, ForeignFile
from truss_cache_tasks.model.hashing import Hasher
from truss_cache_tasks.model.plan import Plan, PlannedFile
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store.disk import disk_error, disk_errors, hash_file, longest_name
from truss_cache_tasks.store.held import LocalBlob
from truss_cache_tasks.store.layout import CacheRoot, blob_id, blob_of_link
from truss_cache_tasks.store.ownership import folders_of
from truss_cache_tasks.store.refs import MOVE_AWAY, refuse_foreign_ref


@dataclass(frozen=True)
class Sight:
    """What lies at the paths of a plan.

    Args:
        right: path -> stat of what shows the planned bytes already.
        coming: path -> stat of what is to be replaced, None where nothing lies.
    """

    right: Mapping[str, os.stat_result]
    coming: Mapping[str, os.stat_result | None]


def look(
    place: CacheRoot,
    plan: Plan,
    held: Mapping[str, LocalBlob],
    owned: Collection[str],
    *,
    leaving: Collection[str] = (),
    replace: bool,
    stopped: Callable[[], bool],
) -> Sight:
    """Tell which paths are to be shown, and refuse the plan if anything lies there that is not ours. Changes nothing.

    Args:
        held: by identity; a path whose bytes are not held yet is looked at as far as that goes.
        owned: the paths of this root that are ours.
        leaving: paths that go out of sight first.
        replace: files that are not ours may be replaced; folders never are.

    Raises:
        ForeignFile: a file with other bytes that nothing of ours made lies at a path.
        DiskError: a folder lies where a file is to be, or reverse; LinkedFolder: a link where a folder is to be.
    """
    _refuse_long_names(place, plan)
    refuse_foreign_ref(place, plan, replace=replace)
    _refuse_bad_folders(place, plan, leaving)
    made = {folder for paths in (owned, leaving) for path in paths for folder in folders_of(path)}
    right: dict[str, os.stat_result] = {}
    coming: dict[str, os.stat_result | None] = {}
    for planned in plan.files:
        path = planned.path
        lying = place.tree.lstat(path) if path not in leaving else None
        if lying is None:
            coming[path] = None
        elif S_ISDIR(lying.st_mode):
            if path not in made or any(file not in leaving for file in place.tree.files_below(path)):
                raise DiskError(
                    f"{place.root / path}: found a folder, expected a file", hint="Move it away: it is not replaced."
                )
            coming[path] = None
        elif _is_right(place, planned, held.get(planned.identity), lying, stopped, is_owned=path in owned):
            right[path] = lying
        elif path in owned or replace or (place.layout is Layout.HUB and blob_of_link(place, path) is not None):
            coming[path] = lying
        else:
            raise ForeignFile(
                f"{place.root / path}: found a file that this cache did not make, expected nothing or the same bytes",
                hint=MOVE_AWAY,
            )
    return Sight(right, coming)


def _refuse_long_names(place: CacheRoot, plan: Plan) -> None:
    """Refuse a name that the disk does not take, before any other file is shown."""
    most = longest_name(place.root)
    for planned in plan.files:
        for name in planned.path.split("/"):
            if len(os.fsencode(name)) > most:
                path = place.root / planned.path
                raise disk_error(f"cannot write {path}", OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)))


def _refuse_bad_folders(place: CacheRoot, plan: Plan, leaving: Collection[str]) -> None:
    for folder in sorted({folder for planned in plan.files for folder in folders_of(planned.path)}):
        stat = place.tree.lstat(folder)
        if stat is not None and not S_ISDIR(stat.st_mode) and folder not in leaving:
            with disk_errors(f"cannot write below {place.root}"):
                place.tree.children(folder)  # says what it is instead


def _is_right(
    place: CacheRoot,
    planned: PlannedFile,
    held: LocalBlob | None,
    lying: os.stat_result,
    stopped: Callable[[], bool],
    *,
    is_owned: bool,
) -> bool:
    """Whether what lies at a path shows the planned bytes, or (nothing is held) may; only a foreign file is hashed."""
    if S_ISLNK(lying.st_mode):
        return place.layout is Layout.HUB and place.tree.readlink(planned.path) == link_text(place, planned)
    if not S_ISREG(lying.st_mode):
        return False
    if held is None:
        can_be_told = planned.file.digest is not None or lying.st_size != planned.file.size
        return bool(planned.file.encoding) or not can_be_told
    if held.is_file(lying):
        return True
    if is_owned or lying.st_size != held.size:
        return False
    descriptor = place.tree.open(planned.path, os.O_RDONLY)
    try:
        hasher = Hasher(lying.st_size, None)
        hash_file(descriptor, hasher, stopped)
    finally:
        os.close(descriptor)
    return hasher.xxh3() == held.xxh3


def link_text(place: CacheRoot, planned: PlannedFile) -> str:
    """Return the text of the link that huggingface_hub makes."""
    return os.path.relpath(f"/blobs/{blob_id(planned.identity, place.layout)}", os.path.dirname(f"/{planned.path}"))
