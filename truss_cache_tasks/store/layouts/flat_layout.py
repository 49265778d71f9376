"""FlatLayout, of the model cache and of mounts: visible paths are plain files, other blobs are in our folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING

from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.records import RECORDS, FileRecord, Manifest
from truss_cache_tasks.store.files.disk import token
from truss_cache_tasks.store.files.locks import FileLock, OnWait, unlink_unless_locked
from truss_cache_tasks.store.files.names import LOCKS, PARTIALS, STAGED, STAGING, folders_of
from truss_cache_tasks.store.files.record_file import last_commit
from truss_cache_tasks.store.files.tree import FileTree
from truss_cache_tasks.store.layouts.blob import (
    FoundFile,
    LocalBlob,
    found_file,
    is_readable_by_all,
    link_or_copy,
    show_file,
)
from truss_cache_tasks.store.layouts.layout import CacheRoot, Candidate
from truss_cache_tasks.store.layouts.refs import NoRefs, Refs

if TYPE_CHECKING:
    from truss_cache_tasks.model.plan import PlannedFile
    from truss_cache_tasks.network.cancel import CancelToken


def flat_root(path: Path) -> CacheRoot:
    """Return the root at `path` whose files are plain files."""
    return CacheRoot(path, FlatLayout(FileTree(path)))


class FlatLayout:
    """Files lie at their visible paths. Several entries may want one path, and roots may nest."""

    hub = None
    paths_name_bytes = False
    maker = "the user"
    top = ""
    refs: Refs = NoRefs()

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree

    # Blobs

    def blob_id(self, content_id: ContentId) -> str:
        """Return a name of ours for these bytes."""
        return _blob_id(content_id)

    def blob_lock(self, blob_id: str) -> FileLock:
        """Return the lock under which this blob is written."""
        return FileLock(self.tree, f"{LOCKS}/{blob_id}.lock")

    def blob_path(self, content_id: ContentId, xxh3: str, digest: str) -> str:
        """Return where the blob lies while no path shows it; its name tells both digests."""
        name = _blob_id(content_id)
        return f"{_folder_of(name)}/{name}.{xxh3}.{digest.replace(':', '-', 1) if digest else 'unverified'}"

    def before_publish(self, blob: str, mtime_ns: int) -> None:
        """Do nothing: the name of a blob says that it is ours."""

    def adopt_blob(self, planned: PlannedFile, blob: LocalBlob, cancel: CancelToken, on_wait: OnWait) -> LocalBlob:
        """Return `blob` as it is: a path can show bytes from anywhere."""
        return blob

    def may_link(self, blob: LocalBlob) -> bool:
        """Whether `blob` is no file of the user in this root."""
        return blob.tree is not self.tree or blob.ours

    def has_unlisted_blob(self, blob_id: str) -> bool:
        """Whether a whole file of this blob lies in our folder."""
        return bool(self._staged(blob_id))

    def may_have_arrived(self, blob_id: str, last_commit_ns: int) -> bool:
        """Whether a file of this blob lies in our folder, or any manifest was written."""
        return self.has_unlisted_blob(blob_id) or last_commit(self.tree) != last_commit_ns

    def unlisted_candidates(self, planned: PlannedFile) -> Iterator[Candidate]:
        """Yield the blobs of our folder, and what lies at the planned path where its digest can tell."""
        for path in self._staged(_blob_id(planned.content_id)):
            _, xxh3, digest = read_staged(path)
            if (stat := self.tree.lstat(path)) is not None:
                yield Candidate(FoundFile(self.tree, path, stat), xxh3, digest, ours=True)
        can_be_told = planned.file.digest is not None and not planned.file.encoding
        if can_be_told and (found := self.find_bytes(planned.path)):
            yield Candidate(found, "", "", ours=False)

    def refuse_folders(self, missing: Iterable[PlannedFile]) -> None:
        """Do nothing: a blob has its name only until it is shown, and the name is known only when it is whole."""

    def release_blobs(self, blobs: Iterable[LocalBlob]) -> None:
        """Remove the names in our folder of blobs that paths show now."""
        for blob in blobs:
            if blob.tree is self.tree and blob.path.startswith(f"{STAGING}/"):
                self.tree.unlink(blob.path)
        self.tree.remove_empty_tree(STAGING)

    def sweep_blobs(self, owned: Collection[str], recorded: Collection[str] = ()) -> None:
        """Remove the blobs of our folder that nothing owns."""
        for path, blob_id in self._all_staged():
            if blob_id not in owned:
                unlink_unless_locked(self.blob_lock(blob_id), self.tree, path)
        self.tree.remove_empty_tree(STAGING)

    def removable_blobs(
        self,
        cleaned: Sequence[Manifest],
        used: Collection[str],
        removed_paths: Collection[str],
        is_unowned: Callable[[str], bool],
    ) -> Iterator[tuple[str, str]]:
        """Yield the blobs of our folder that the cleaned manifests list, or that nothing owns."""
        ids = {_blob_id(file.content_id) for manifest in cleaned for file in manifest.files}.difference(used)
        for path, blob_id in self._all_staged():
            if blob_id in ids or is_unowned(blob_id):
                yield path, ""

    def unshown_blobs(self) -> Iterator[tuple[str, str]]:
        """Yield the blobs of our folder."""
        yield from self._all_staged()

    def linked_blobs(self, but: Collection[str]) -> set[str]:
        """Return none: no path shows a link."""
        return set()

    def _staged(self, blob_id: str) -> list[str]:
        folder = _folder_of(blob_id)
        return [
            f"{folder}/{name}"
            for name in self.tree.names(folder)
            if name.startswith(f"{blob_id}.") and STAGED.fullmatch(name) and not self.tree.is_folder(f"{folder}/{name}")
        ]

    def _all_staged(self) -> list[tuple[str, str]]:
        """Return (path, blob id) of every blob in our folder, sorted."""
        found = ((path, STAGED.fullmatch(os.path.basename(path))) for path in self.tree.files_below(STAGING))
        return sorted((path, match[1]) for path, match in found if match)

    # Visible paths

    def find_bytes(self, path: str) -> FoundFile | None:
        """Return the regular file at `path`; None for anything else."""
        stat = self.tree.lstat(path)
        return found_file(self.tree, path, stat) if stat is not None else None

    own_file = find_bytes

    def stat_files(self, files: Iterable[FileRecord]) -> dict[str, tuple[int, int] | None]:
        """Return path -> (size, mtime in ns) of the regular file there; None for anything else."""
        found: dict[str, tuple[int, int] | None] = {}
        for path, stat in self.tree.lstats(file.path for file in files):
            is_file = stat is not None and (is_readable_by_all(stat) or found_file(self.tree, path, stat) is not None)
            found[path] = (stat.st_size, stat.st_mtime_ns) if is_file and stat is not None else None
        return found

    def path_of_bytes(self, path: str) -> str:
        """Return `path`: the file there holds the bytes."""
        return path

    def recorded_bytes(self, record: FileRecord, *, is_hidden: bool) -> FoundFile | None:
        """Return the file at the record's path; None where that shows something else."""
        return None if is_hidden else self.find_bytes(record.path)

    def made_file(self, record: FileRecord, *, is_hidden: bool) -> str:
        """Return the record's path."""
        return record.path if record.made_link and not is_hidden else ""

    def has_planned_link(self, planned: PlannedFile) -> bool:
        """Return False: no path shows a link."""
        return False

    def is_replaceable_link(self, path: str) -> bool:
        """Return False: no path shows a link."""
        return False

    def stage(self, planned: PlannedFile, blob: LocalBlob, in_use: Collection[str], cancel: CancelToken) -> str:
        """Give `blob` a name in our folder. A blob of the staging folder has one already, used for one path."""
        if blob.tree is self.tree and blob.path.startswith(f"{STAGING}/") and blob.path not in in_use:
            return blob.path
        staged = f"{PARTIALS}/put.{token()}"
        link_or_copy(blob, self.tree, staged, cancel, link=self.may_link(blob))
        return staged

    def show(
        self, planned: PlannedFile, blob: LocalBlob, staged: str, cancel: CancelToken, *, is_over: bool, is_last: bool
    ) -> os.stat_result:
        """Give the staged file its visible name too."""
        return show_file(self.tree, staged, planned.path, blob.size, is_over=is_over)

    def record_of_blob(self, planned: PlannedFile, blob: LocalBlob, *, is_made: bool) -> tuple[str, bool]:
        """Return no blob, and whether the file itself is ours."""
        return "", is_made

    def hide(self, record: FileRecord, *, is_regular: bool) -> None:
        """Make a file a blob again, so that undoing an edit fetches nothing; remove what is no file."""
        if not is_regular:
            self.tree.unlink(record.path)
            return
        self.keep_bytes(record)
        blob = self.blob_path(record.content_id, record.xxh3, record.digest)
        if self.tree.lstat(blob) is None:  # the disk has no hard links
            self.tree.rename(record.path, blob)
        self.tree.unlink(record.path)

    def keep_bytes(self, record: FileRecord) -> None:
        """Give a file the name of its blob too; do nothing where the disk has no hard links."""
        with contextlib.suppress(OSError):
            self.tree.link(self.tree, record.path, self.blob_path(record.content_id, record.xxh3, record.digest))

    # The root

    @property
    def budget_lock(self) -> FileLock:
        """The lock of the budget of this root."""
        return FileLock(self.tree, f"{LOCKS}/budget.lock")

    def nested_roots(self, paths: Iterable[str]) -> tuple[list[Path], list[Path]]:
        """Return the other roots with records of ours, above this one and below it."""
        top = os.path.realpath(self.tree.path)
        above = [parent for parent in Path(top).parents if _is_trusted(parent / RECORDS, top)]
        folders = {folder for path in paths for folder in folders_of(path)}
        below = [Path(top, folder) for folder in sorted(folders) if self.tree.is_folder(f"{folder}/{RECORDS}")]
        return above[::-1], below

    def make_folders(self) -> None:
        """Do nothing: none is needed before our records."""

    def remove_empty_folders(self) -> None:
        """Do nothing: the root is the user's."""

    def remove_empty_root(self) -> None:
        """Do nothing: the root is the user's."""

    def sweep_removed_roots(self) -> None:
        """Do nothing: no root is removed."""


@lru_cache(1 << 16)  # asked several times a file
def _blob_id(content_id: ContentId) -> str:
    return hashlib.sha256(content_id.encode()).hexdigest()[:40]


def _folder_of(blob_id: str) -> str:
    """Return the folder of this blob id: one of 256, because a lookup lists the whole folder."""
    return f"{STAGING}/{blob_id[:2]}"


def read_staged(path: str) -> tuple[str, str, str]:
    """Return (blob id, xxh3, digest) of a file in our folder, by its name.

    >>> read_staged("x/0123456789abcdef0123456789abcdef01234567.00112233445566778899aabbccddeeff.git-sha1-abcd")[2]
    'git-sha1:abcd'
    """
    name, xxh3, digest = os.path.basename(path).split(".", 2)
    return name, xxh3, ":".join(digest.rsplit("-", 1)) if digest != "unverified" else ""


def _is_trusted(records: Path, top: str) -> bool:
    """Whether a folder above a root can hold records that count: any user may make one in /tmp."""
    try:
        stat = os.lstat(records)
        trusted = {os.geteuid(), 0, os.stat(top).st_uid}
    except OSError:
        return False
    return S_ISDIR(stat.st_mode) and stat.st_uid in trusted and os.access(records, os.R_OK | os.X_OK)
