"""Make held bytes visible at their paths, and hide paths again.

The order makes it safe: look at every path and refuse what is not ours; give every file that is to come a name in our
folder; note the paths; then show them one by one, each in one step. A path that shows something is never the source of
another file once the first file is shown.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from stat import S_ISDIR, S_ISREG

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.plan import Plan, PlannedFile
from truss_cache_tasks.model.records import FileRecord
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store.blobs import STAGING, retire
from truss_cache_tasks.store.disk import NO_LINKS, disk_errors, token
from truss_cache_tasks.store.held import LocalBlob, Taken, Vanished, place_file
from truss_cache_tasks.store.layout import CacheRoot, blob_id, blob_of_link
from truss_cache_tasks.store.ownership import folders_of
from truss_cache_tasks.store.partials import FOLDER as PARTIALS
from truss_cache_tasks.store.refs import drop_refs, point_ref
from truss_cache_tasks.store.sight import Sight, link_text


def expose(
    place: CacheRoot,
    plan: Plan,
    held: Mapping[str, LocalBlob],
    sight: Sight,
    *,
    owned: Collection[str],
    before: Callable[[], None],
    failed: Callable[[Collection[str]], None],
    stopped: Callable[[], bool],
) -> tuple[FileRecord, ...]:
    """Make every file of `plan` visible, each in one step, and return their records, sorted by path.

    Args:
        held: by identity, complete.
        owned: the paths of this root that are ours: what else lies there stays its maker's.
        sight: of `look`, under the same lock.
        before: called once all files have names of their own and none is shown yet.
        failed: called, if not all are shown, with the paths where nothing lay and nothing of ours came to be.

    Raises:
        Vanished: the disk is not as it was looked at: take stock again.
    """
    with disk_errors(f"cannot write below {place.root}"):
        staged = _stage(place, plan, held, sight, stopped)
        shown: dict[str, os.stat_result] = {}
        last = {planned.identity: planned.path for planned in plan.files if planned.path in sight.coming}
        empty = {path for path, lying in sight.coming.items() if lying is None}
        try:
            before()
            for planned in plan.files:
                empty.discard(planned.path)
                is_last = last.get(planned.identity) == planned.path
                shown[planned.path] = _show(place, planned, held, sight, staged, is_last=is_last)
        except BaseException as exc:
            with contextlib.suppress(OSError, DiskError):
                failed(empty | {planned.path} if isinstance(exc, Taken) else empty)
            raise
        finally:
            for path in staged.values():
                if path.startswith(f"{PARTIALS}/"):
                    with contextlib.suppress(OSError):
                        place.tree.unlink(path)
        if place.layout is Layout.HUB:
            point_ref(place, plan.request.revision, plan.revision)
    return tuple(
        _record(place, planned, held[planned.identity], shown[planned.path], is_made=_is_made(planned, owned, sight))
        for planned in sorted(plan.files, key=lambda planned: planned.path)
    )


def _is_made(planned: PlannedFile, owned: Collection[str], sight: Sight) -> bool:
    return planned.path in sight.coming or planned.path in owned


def _stage(
    place: CacheRoot, plan: Plan, held: Mapping[str, LocalBlob], sight: Sight, stopped: Callable[[], bool]
) -> dict[str, str]:
    """Give the bytes of every path that is to come a name in our folder, and return these by path; none for links.

    A blob of the staging folder has one already, which serves one path.
    """
    staged: dict[str, str] = {}
    if place.layout is Layout.HUB:
        return staged
    taken: set[str] = set()
    try:
        for planned in plan.files:
            if planned.path not in sight.coming:
                continue
            one = held[planned.identity]
            if one.root is place.tree and one.at.startswith(f"{STAGING}/") and one.at not in taken:
                taken.add(one.at)
                staged[planned.path] = one.at
            else:
                staged[planned.path] = f"{PARTIALS}/put.{token()}"
                is_users = one.root is place.tree and not one.ours
                place_file(one, place.tree, staged[planned.path], stopped, link=not is_users)
    except BaseException:
        for path in staged.values():
            if path.startswith(f"{PARTIALS}/"):
                place.tree.unlink(path)
        raise
    return staged


def _show(
    place: CacheRoot,
    planned: PlannedFile,
    held: Mapping[str, LocalBlob],
    sight: Sight,
    staged: Mapping[str, str],
    *,
    is_last: bool,
) -> os.stat_result:
    """Show one file in one step; return the stat of its bytes.

    Args:
        is_last: no other path of the plan needs these bytes any more.
    """
    path, one = planned.path, held[planned.identity]
    if path in sight.right:
        lying = sight.right[path]
        return lying if S_ISREG(lying.st_mode) else _bytes_of(one)
    place.tree.remove_hollow(path)
    over = sight.coming[path]
    if place.layout is Layout.HUB:
        return _show_blob(place, planned, one, is_over=over is not None, is_last=is_last)
    source = place.tree.lstat(staged[path])
    if source is None:
        raise Vanished(path)
    _give_name(place, staged[path], path, is_over=over is not None)
    return _seen(place, path, source, one.size)


def _show_blob(
    place: CacheRoot, planned: PlannedFile, one: LocalBlob, *, is_over: bool, is_last: bool
) -> os.stat_result:
    """Make the link of a snapshot that huggingface_hub makes; where the disk has none, the file itself, as it does."""
    path, text = planned.path, link_text(place, planned)
    try:
        if not is_over:
            place.tree.symlink(text, path)
        else:
            temporary = f"{PARTIALS}/link.{token()}"
            place.tree.symlink(text, temporary)
            place.tree.rename(temporary, path)
    except FileExistsError as exc:
        raise Taken(path) from exc
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        return _show_blob_itself(place, path, one, is_over=is_over, is_last=is_last)
    if place.tree.readlink(path) != text:
        raise Vanished(path)
    return _bytes_of(one)


def _show_blob_itself(place: CacheRoot, path: str, one: LocalBlob, *, is_over: bool, is_last: bool) -> os.stat_result:
    name = one.at
    if not one.ours or not is_last:  # huggingface_hub's, which stays; or needed once more
        name = f"{PARTIALS}/put.{token()}"
        place_file(one, place.tree, name, lambda: False)
    source = place.tree.lstat(name)
    if source is None:
        raise Vanished(path)
    _give_name(place, name, path, is_over=is_over)
    if name != one.at:
        place.tree.unlink(name)
    return _seen(place, path, source, one.size)


def _bytes_of(one: LocalBlob) -> os.stat_result:
    stat = one.root.lstat(one.at)
    if stat is None or not one.is_file(stat):
        raise Vanished(one.at)
    return stat


def _give_name(place: CacheRoot, source: str, path: str, *, is_over: bool) -> None:
    """Give a file of our folder the name `path` too, or where the disk has no hard links alone.

    Args:
        is_over: something lies there that is to be replaced; else nothing may be replaced.
    """
    try:
        if not is_over:
            return place.tree.link(place.tree, source, path)
        temporary = f"{PARTIALS}/put.{token()}"
        place.tree.link(place.tree, source, temporary)
        return place.tree.rename(temporary, path)
    except FileExistsError as exc:
        raise Taken(path) from exc
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
    if not is_over and place.tree.lstat(path) is not None:
        raise Taken(path)
    place.tree.rename(source, path)


def _seen(place: CacheRoot, path: str, source: os.stat_result, size: int) -> os.stat_result:
    """Return the stat of a path that was just shown, if it is the file that was meant and has the planned size."""
    stat = place.tree.lstat(path)
    if stat is None or (stat.st_dev, stat.st_ino, stat.st_size) != (source.st_dev, source.st_ino, size):
        raise Vanished(path)
    return stat


def _record(
    place: CacheRoot, planned: PlannedFile, held: LocalBlob, stat: os.stat_result, *, is_made: bool
) -> FileRecord:
    """Return the record of a shown file: what the plan says, and the mtime that the disk gave it."""
    encoded = bool(planned.file.encoding)
    blob = f"blobs/{blob_id(planned.identity, place.layout)}" if place.layout is Layout.HUB else ""
    if blob and place.tree.lstat(blob) is None:
        blob = ""  # without links the file itself is in the snapshot
    return FileRecord(
        path=planned.path,
        size=held.size if encoded else planned.file.size,
        mtime_ns=stat.st_mtime_ns,
        identity=planned.identity,
        origin=planned.origin,
        digest=held.digest,
        xxh3=held.xxh3,
        blob=blob,
        made_link=is_made,
        made_blob=held.ours if place.layout is Layout.HUB else is_made,
        stored_size=planned.file.size if encoded else None,
    )


def hide(place: CacheRoot, records: Iterable[FileRecord]) -> set[str]:
    """Take these paths out of sight, save what is not ours, and return them.

    The bytes stay: as blobs of the hub, or retired into our own folder.
    """
    records = [record for record in records if record.made_link]
    if place.layout is Layout.HUB:
        drop_refs(place, {record.path for record in records})
    hidden = set()
    for record in records:
        stat = place.tree.lstat(record.path)
        if stat is None or S_ISDIR(stat.st_mode):
            continue
        with disk_errors(f"cannot remove {place.root / record.path}"):
            if place.layout is Layout.HUB or not S_ISREG(stat.st_mode):
                place.tree.unlink(record.path)
            else:
                retire(place, record)
            place.tree.remove_empty_parents(record.path, top(place))
        hidden.add(record.path)
    return hidden


def remove(place: CacheRoot, paths: Iterable[str]) -> None:
    """Remove files of ours that no manifest lists."""
    for path in paths:
        stat = place.tree.lstat(path)
        if stat is not None and not S_ISDIR(stat.st_mode):
            place.tree.unlink(path)
        place.tree.remove_empty_parents(path, top(place))


def top(place: CacheRoot) -> str:
    """Return the folder that stays however empty it gets: scan_cache_dir() warns of a repo without snapshots."""
    return "snapshots" if place.layout is Layout.HUB else ""


def linked_blobs(place: CacheRoot, but: Collection[str] = ()) -> set[str]:
    """Return the blobs that links of the snapshots lead to, save those of the paths `but`."""
    links = (path for path in place.tree.files_below("snapshots") if path not in but)
    return {blob for path in links if (blob := blob_of_link(place, path)) is not None}


def in_the_way(hidden: Iterable[FileRecord], plan: Plan) -> list[FileRecord]:
    """Return the records whose paths must go before the plan's can come: a file where it needs a folder, or reverse."""
    wanted = {planned.path for planned in plan.files}
    folders = {folder for path in wanted for folder in folders_of(path)}
    return [r for r in hidden if r.path in folders or any(folder in wanted for folder in folders_of(r.path))]
