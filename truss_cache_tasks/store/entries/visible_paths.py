"""Look at the paths of a plan, show its blobs there, and hide paths again.

The order makes it safe: look at every path and refuse what is not ours; give every file that is to be shown a name in
our folder; note the paths; then show them one by one, each in one step. Once the first file is shown, no file is made
from what a visible path shows. `commit` has the whole order.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from stat import S_ISDIR, S_ISLNK, S_ISREG

from truss_cache_tasks.errors import Collision, ForeignFile
from truss_cache_tasks.model.hashing import Hasher
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.plan import Plan, PlannedFile, case_clashes
from truss_cache_tasks.model.records import FileRecord
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.store.files.disk import MOVE_AWAY, disk_error, disk_errors, found_folder, hash_file, longest_name
from truss_cache_tasks.store.files.names import PARTIALS, folders_of
from truss_cache_tasks.store.layouts.blob import LocalBlob, Taken
from truss_cache_tasks.store.layouts.layout import CacheRoot


@dataclass(frozen=True)
class CheckedPaths:
    """What lies at the paths of a plan.

    Args:
        right: path -> stat of what shows the planned bytes already.
        to_show: path -> stat of what is to be replaced, None where nothing lies.
    """

    right: Mapping[str, os.stat_result]
    to_show: Mapping[str, os.stat_result | None]


def check_paths(
    root: CacheRoot,
    plan: Plan,
    blobs: Mapping[ContentId, LocalBlob],
    owned: Collection[str],
    *,
    leaving: Collection[str] = (),
    replace: bool,
    cancel: CancelToken,
) -> CheckedPaths:
    """Return which paths are to be shown; refuse the plan if anything lies there that is not ours. Changes nothing.

    Args:
        blobs: by content id. Without its blob, a file at a path is compared by what the plan says, and not hashed.
        owned: the paths of this root that are ours.
        leaving: paths that are hidden first.
        replace: files that are not ours may be replaced; folders never are.

    Raises:
        ForeignFile: a file with other bytes that nothing of ours made lies at a path.
        DiskError: a folder lies where a file is to be, or the reverse; LinkedFolder: a link where a folder is to be.
    """
    _refuse_long_names(root, plan)
    root.layout.refs.refuse_foreign(plan, replace=replace or bool(owned))
    root.layout.refuse_folders(planned for planned in plan.files if planned.content_id not in blobs)
    _refuse_bad_folders(root, plan, leaving)
    made = {folder for paths in (owned, leaving) for path in paths for folder in folders_of(path)}
    right: dict[str, os.stat_result] = {}
    to_show: dict[str, os.stat_result | None] = {}
    for planned in plan.files:
        path = planned.path
        there = root.tree.lstat(path) if path not in leaving else None
        if there is None:
            to_show[path] = None
        elif S_ISDIR(there.st_mode):
            is_ours = path in made or path in owned
            if not is_ours or any(file not in leaving for file in root.tree.files_below(path)):
                raise found_folder(root.path / path)
            to_show[path] = None
        elif _is_right(root, planned, blobs.get(planned.content_id), there, cancel, is_owned=path in owned):
            right[path] = there
        elif path in owned or replace or root.layout.is_replaceable_link(path):
            to_show[path] = there
        else:
            raise ForeignFile(
                f"{root.path / path}: found a file that this cache did not make, expected nothing or the same bytes",
                hint=MOVE_AWAY,
            )
    return CheckedPaths(right, to_show)


def refuse_case_clashes(root: CacheRoot, plan: Plan) -> None:
    """Raise Collision if two paths of the plan differ by case alone, and the disk does not tell them apart."""
    clash = case_clashes(plan.files)
    if clash and root.records.exists() and root.records.with_name(root.records.name.upper()).exists():
        raise Collision(
            f"{plan.request.source}: {clash[0]!r} and {clash[1]!r} are one file on this case-insensitive disk",
            hint="Drop one of them with ignore_patterns, or use a case-sensitive disk.",
        )


def _refuse_long_names(root: CacheRoot, plan: Plan) -> None:
    """Refuse a name that the disk does not take, before any other file is shown."""
    most = longest_name(root.path)
    for planned in plan.files:
        for name in planned.path.split("/"):
            if len(os.fsencode(name)) > most:
                path = root.path / planned.path
                raise disk_error(f"cannot write {path}", OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)))


def _refuse_bad_folders(root: CacheRoot, plan: Plan, leaving: Collection[str]) -> None:
    for folder in sorted({folder for planned in plan.files for folder in folders_of(planned.path)}):
        stat = root.tree.lstat(folder)
        if stat is not None and not S_ISDIR(stat.st_mode) and folder not in leaving:
            with disk_errors(f"cannot write below {root.path}"):
                root.tree.children(folder)  # raises the error that names what lies there


def _is_right(
    root: CacheRoot,
    planned: PlannedFile,
    blob: LocalBlob | None,
    there: os.stat_result,
    cancel: CancelToken,
    *,
    is_owned: bool,
) -> bool:
    """Whether the path shows the planned bytes; without a blob, whether it may. Only a foreign file is hashed."""
    if S_ISLNK(there.st_mode):
        return root.layout.has_planned_link(planned)
    if not S_ISREG(there.st_mode):
        return False
    if blob is None:  # find_local_blobs has compared the file with the digest, where one is known: it has other bytes
        can_be_told = planned.file.digest is not None or there.st_size != planned.file.size
        return bool(planned.file.encoding) or not can_be_told
    if blob.is_file(there):
        return True
    if is_owned or there.st_size != blob.size:
        return False
    descriptor = root.tree.open(planned.path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        hasher = Hasher(there.st_size, None)
        hash_file(descriptor, hasher, cancel)
    finally:
        os.close(descriptor)
    return hasher.xxh3() == blob.xxh3


@contextlib.contextmanager
def staged_paths(
    root: CacheRoot,
    plan: Plan,
    blobs: Mapping[ContentId, LocalBlob],
    checked: CheckedPaths,
    cancel: CancelToken,
) -> Iterator[Mapping[str, str]]:
    """Give the blob of every path that is to be shown a name in our folder, for the block; yield these names by path.

    Raises:
        Vanished: a blob has changed since it was looked at.
    """
    staged: dict[str, str] = {}
    in_use: set[str] = set()
    try:
        for planned in plan.files:
            if planned.path in checked.to_show:
                staged[planned.path] = root.layout.stage(planned, blobs[planned.content_id], in_use, cancel)
                in_use.add(staged[planned.path])
        yield staged
    finally:
        for path in staged.values():
            if path.startswith(f"{PARTIALS}/"):
                with contextlib.suppress(OSError):
                    root.tree.unlink(path)


def show_paths(
    root: CacheRoot,
    plan: Plan,
    blobs: Mapping[ContentId, LocalBlob],
    checked: CheckedPaths,
    staged: Mapping[str, str],
    *,
    unshown: set[str],
    cancel: CancelToken,
) -> dict[str, os.stat_result]:
    """Make every file of `plan` visible, each in one step; return the stat of its bytes by path.

    Args:
        blobs: by content id, complete.
        checked: of `check_paths`, under the same lock.
        unshown: paths where nothing lay: each is removed from the set before it is shown, and added again if another
            process put something there.

    Raises:
        Vanished: the disk has changed since it was looked at.
    """
    shown: dict[str, os.stat_result] = {}
    last = {planned.content_id: planned.path for planned in plan.files if planned.path in checked.to_show}
    for planned in plan.files:
        path, blob = planned.path, blobs[planned.content_id]
        unshown.discard(path)
        if (there := checked.right.get(path)) is not None:
            shown[path] = there if S_ISREG(there.st_mode) else blob.stat()
            continue
        root.tree.remove_empty_tree(path)
        is_over, is_last = checked.to_show[path] is not None, last[planned.content_id] == path
        try:
            shown[path] = root.layout.show(planned, blob, staged[path], cancel, is_over=is_over, is_last=is_last)
        except Taken:
            unshown.add(path)
            raise
    return shown


def record_paths(
    root: CacheRoot,
    plan: Plan,
    blobs: Mapping[ContentId, LocalBlob],
    shown: Mapping[str, os.stat_result],
    ours: Collection[str],
) -> tuple[FileRecord, ...]:
    """Return the records of the shown files, sorted by path: what the plan says, and the mtime that the disk gave.

    Args:
        shown: of `show_paths`.
        ours: paths that are ours; a file at any other path stays foreign.
    """
    return tuple(
        _record(root, planned, blobs[planned.content_id], shown[planned.path], is_made=planned.path in ours)
        for planned in sorted(plan.files, key=lambda planned: planned.path)
    )


def _record(
    root: CacheRoot, planned: PlannedFile, blob: LocalBlob, stat: os.stat_result, *, is_made: bool
) -> FileRecord:
    encoded = bool(planned.file.encoding)
    path, made_blob = root.layout.record_of_blob(planned, blob, is_made=is_made)
    return FileRecord(
        path=planned.path,
        size=blob.size if encoded else planned.file.size,
        mtime_ns=stat.st_mtime_ns,
        content_id=planned.content_id,
        origin=planned.origin,
        digest=blob.digest,
        xxh3=blob.xxh3,
        blob=path,
        made_link=is_made,
        made_blob=made_blob,
        stored_size=planned.file.size if encoded else None,
    )


def hide_paths(root: CacheRoot, records: Iterable[FileRecord]) -> set[str]:
    """Make those of these paths that are ours invisible; return the paths. The bytes stay, as blobs."""
    records = [record for record in records if record.made_link]
    root.layout.refs.drop({record.path for record in records})
    hidden = set()
    for record in records:
        stat = root.tree.lstat(record.path)
        if stat is None or S_ISDIR(stat.st_mode):
            continue
        with disk_errors(f"cannot remove {root.path / record.path}"):
            root.layout.hide(record, is_regular=S_ISREG(stat.st_mode))
            root.tree.remove_empty_parents(record.path, root.layout.top)
        hidden.add(record.path)
    return hidden


def remove_paths(root: CacheRoot, paths: Iterable[str]) -> None:
    """Remove files of ours that no manifest lists."""
    for path in paths:
        stat = root.tree.lstat(path)
        if stat is not None and not S_ISDIR(stat.st_mode):
            root.tree.unlink(path)
        root.tree.remove_empty_parents(path, root.layout.top)


def in_the_way(records: Iterable[FileRecord], plan: Plan) -> list[FileRecord]:
    """Return the records whose paths block those of the plan: a file where the plan needs a folder, or the reverse."""
    wanted = {planned.path for planned in plan.files}
    folders = {folder for path in wanted for folder in folders_of(path)}
    return [r for r in records if r.path in folders or any(folder in wanted for folder in folders_of(r.path))]
