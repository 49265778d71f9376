"""HubLayout: one repo of the hub cache as huggingface_hub lays it out: `blobs`, `refs`, and links in `snapshots`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from stat import S_ISLNK
from typing import TYPE_CHECKING

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.records import RECORDS, FileRecord, Manifest
from truss_cache_tasks.model.status import same_mtime
from truss_cache_tasks.store.files.disk import NO_LINKS, disk_errors, found_folder, token
from truss_cache_tasks.store.files.locks import FileLock, OnWait, locked, unlink_unless_locked
from truss_cache_tasks.store.files.names import BLOB_ID, BUDGET_LOCK, LOCKS, PARTIALS, PUBLISHED, REMOVED
from truss_cache_tasks.store.files.record_file import last_commit
from truss_cache_tasks.store.files.tree import FileTree
from truss_cache_tasks.store.layouts.blob import (
    FoundFile,
    LocalBlob,
    Taken,
    Vanished,
    found_file,
    link_blob,
    link_or_copy,
    local_blob,
    show_file,
)
from truss_cache_tasks.store.layouts.layout import CacheRoot, Candidate
from truss_cache_tasks.store.layouts.refs import HubRefs, Refs

if TYPE_CHECKING:
    from truss_cache_tasks.model.plan import PlannedFile
    from truss_cache_tasks.network.cancel import CancelToken

_SHARED = re.compile(r"\.\./\.\./(blobs/[0-9a-f]{2}/[0-9a-f]{64})")  # huggingface_hub/utils/_shared_blobs.py, 2.4.0


def hub_root(path: Path) -> CacheRoot:
    """Return the root of a repo's folder in a hub cache."""
    return CacheRoot(path, HubLayout(FileTree(path), FileTree(path.parent)))


class HubLayout:
    """A path is a link from a snapshot to a blob of the same repo; where the disk has no links, the file itself.

    Links are followed in two cases alone: from a snapshot to a blob of the same repo, and from there to the store that
    huggingface_hub shares between repos.
    """

    paths_name_bytes = True
    maker = "huggingface_hub"
    top = "snapshots"  # scan_cache_dir() warns of a repo without it

    def __init__(self, tree: FileTree, hub_tree: FileTree) -> None:
        self.tree = tree
        self.hub_tree = hub_tree
        self.refs: Refs = HubRefs(tree)

    @property
    def hub(self) -> Path:
        """The hub cache that the repo lies in."""
        return self.hub_tree.path

    # Blobs

    def blob_id(self, content_id: ContentId) -> str:
        """Return the ETag of these bytes: their digest."""
        return content_id.partition(":")[2]

    def blob_lock(self, blob_id: str) -> FileLock:
        """Return huggingface_hub's own lock of this blob."""
        return FileLock(self.hub_tree, f"{self._locks}/{blob_id}.lock", is_ours=False)

    def blob_path(self, content_id: ContentId, xxh3: str = "", digest: str = "") -> str:
        """Return where the blob lies: its name is its digest."""
        return f"blobs/{self.blob_id(content_id)}"

    def before_publish(self, blob: str, mtime_ns: int) -> None:
        """Mark `blob` as ours until a manifest says so: if this run is killed, others still see whose it is."""
        descriptor = self.tree.open(_mark_of(blob), os.O_WRONLY | os.O_CREAT, make=True)
        try:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(descriptor)

    def adopt_blob(self, planned: PlannedFile, blob: LocalBlob, cancel: CancelToken, on_wait: OnWait) -> LocalBlob:
        """Put bytes that lie elsewhere on this machine (a mount, a volume) into the repo's blobs, linked if possible.

        A file that is in the snapshot itself, as huggingface_hub puts it where there are no links, stays there.

        Raises:
            Vanished: they are not there any more.
        """
        path = self.blob_path(planned.content_id)
        if blob.tree is self.tree and blob.path in (path, planned.path):
            return blob
        shared = self._blob_bytes(path)
        if shared is not None and shared.tree is self.hub_tree and blob.is_file(shared.stat):
            return blob  # it lies in the store that huggingface_hub shares between repos, and its link is there
        with (
            locked(self.blob_lock(os.path.basename(path)), cancel, on_wait),
            disk_errors(f"cannot write below {self.tree.path}"),
        ):
            may_link = self.may_link(blob)
            stat = (self._link_directly(blob, path) or self._link_over(blob, path, cancel)) if may_link else None
            if stat is None:
                temporary = f"{PARTIALS}/{os.path.basename(path)}.{token()}"
                stat = link_or_copy(blob, self.tree, temporary, cancel, link=False)
                self.before_publish(path, stat.st_mtime_ns)
                self.tree.rename_over(temporary, path)
            return local_blob(self.tree, path, stat, blob.xxh3, blob.digest)

    def _link_directly(self, blob: LocalBlob, path: str) -> os.stat_result | None:
        """Make `path` a hard link of `blob`; return its stat, None if these disks cannot, or another file lies there.

        No temporary is made: one that a kill left could not be told from a file of the user's, as both have two names.
        """
        there = self.tree.lstat(path)
        if there is not None and not blob.is_file(there):
            return None
        self.before_publish(path, blob.mtime_ns)
        if there is not None:
            blob.stat()  # raises Vanished where another file is by now
            return there
        with contextlib.suppress(FileExistsError):
            return link_blob(blob, self.tree, path)
        return None

    def _link_over(self, blob: LocalBlob, path: str, cancel: CancelToken) -> os.stat_result | None:
        """Replace what lies at `path` by a hard link of `blob`; return its stat, None if these disks cannot.

        The temporary is made under the root's lock, so that the next commit or clean takes what a kill left: the name
        of a partial would not tell it from a file of the user's.
        """
        temporary = f"{PARTIALS}/put.{token()}"
        with locked(FileLock(self.tree, f"{LOCKS}/root.lock"), cancel):
            stat = link_blob(blob, self.tree, temporary)
            if stat is not None:
                self.before_publish(path, stat.st_mtime_ns)
                self.tree.rename_over(temporary, path)
                self.tree.unlink(temporary)  # rename(2) of two links to one file does nothing
        return stat

    def may_link(self, blob: LocalBlob) -> bool:
        """Whether `blob` is ours, or lies in this hub cache."""
        return blob.ours or blob.tree in (self.tree, self.hub_tree)

    def has_unlisted_blob(self, blob_id: str) -> bool:
        """Whether this blob is marked as ours."""
        return self._is_marked(f"blobs/{blob_id}")

    def may_have_arrived(self, blob_id: str, last_commit_ns: int) -> bool:
        """Whether the blob is there, or any manifest was written: without links, paths show the files themselves."""
        return self.tree.lstat(f"blobs/{blob_id}") is not None or last_commit(self.tree) != last_commit_ns

    def unlisted_candidates(self, planned: PlannedFile) -> Iterator[Candidate]:
        """Yield the blob, and what huggingface_hub put into the snapshot itself, where it makes no links."""
        if planned.file.digest is None or planned.file.encoding:
            return
        blob = self.blob_path(planned.content_id)
        if found := self._blob_bytes(blob):
            yield Candidate(found, "", "", ours=self._is_marked(blob))
        if (found := self.find_bytes(planned.path)) and found.path == planned.path:
            yield Candidate(found, "", "", ours=False)

    def refuse_folders(self, missing: Iterable[PlannedFile]) -> None:
        """Raise DiskError if a folder with files lies where the blob of a missing file is to be."""
        for planned in missing:
            blob = self.blob_path(planned.content_id)
            if self.tree.is_folder(blob) and any(True for _ in self.tree.files_below(blob)):
                raise found_folder(self.tree.path / blob)

    def release_blobs(self, blobs: Iterable[LocalBlob]) -> None:
        """Remove the marks of blobs that a manifest lists now."""
        for blob in blobs:
            self.tree.unlink(_mark_of(blob.path))

    def sweep_blobs(self, owned: Collection[str], recorded: Collection[str] = ()) -> None:
        """Remove the blobs that are marked as ours, and that nothing owns or links to; and marks that say no more."""
        linked: set[str] | None = None
        for name in self.tree.names(PUBLISHED):
            if re.fullmatch(BLOB_ID, name) is None:
                continue
            blob, mark = f"blobs/{name}", f"{PUBLISHED}/{name}"
            if name in recorded or self.tree.lstat(blob) is None:  # a run was killed before it removed the mark
                unlink_unless_locked(self.blob_lock(name), self.tree, mark)
            elif name not in owned:
                linked = self.linked_blobs() if linked is None else linked
                if self._is_marked(blob) and blob not in linked:
                    unlink_unless_locked(self.blob_lock(name), self.tree, blob)
                unlink_unless_locked(self.blob_lock(name), self.tree, mark)

    def removable_blobs(
        self,
        cleaned: Sequence[Manifest],
        used: Collection[str],
        removed_paths: Collection[str],
        is_unowned: Callable[[str], bool],
    ) -> Iterator[tuple[str, str]]:
        """Yield the blobs of ours that the cleaned manifests list, or that are marked, and that no link leads to."""
        linked = self.linked_blobs(removed_paths)
        files = [file for manifest in cleaned for file in manifest.files if file.blob]
        blobs = dict.fromkeys((file.blob for file in files), False) | {f.blob: True for f in files if f.made_blob}
        marked = [f"blobs/{name}" for name in self.tree.names(PUBLISHED) if is_unowned(name)]
        blobs |= {blob: True for blob in marked if self._is_marked(blob)}
        for blob, is_made in sorted(blobs.items()):
            if is_made and os.path.basename(blob) not in used and blob not in linked:
                stat = self.tree.lstat(blob)
                is_shared = stat is not None and S_ISLNK(stat.st_mode)
                yield blob, "shared by huggingface_hub's own store" if is_shared else ""

    def unshown_blobs(self) -> Iterator[tuple[str, str]]:
        """Yield the blobs that are marked as ours: no manifest lists them yet."""
        names = [name for name in self.tree.names(PUBLISHED) if re.fullmatch(BLOB_ID, name)]
        yield from ((f"blobs/{name}", name) for name in names if self._is_marked(f"blobs/{name}"))

    def _is_marked(self, blob: str) -> bool:
        mark, stat = self.tree.lstat(_mark_of(blob)), self.tree.lstat(blob)
        return mark is not None and stat is not None and same_mtime(mark.st_mtime_ns, stat.st_mtime_ns)

    def _blob_bytes(self, blob: str) -> FoundFile | None:
        """Return where the bytes of a blob are: there, or in the store that huggingface_hub shares between repos."""
        stat = self.tree.lstat(blob)
        if stat is None:
            return None
        if S_ISLNK(stat.st_mode):
            shared = _SHARED.fullmatch(self.tree.readlink(blob) or "")
            there = self.hub_tree.lstat(shared[1]) if shared else None
            return found_file(self.hub_tree, shared[1], there, blob) if shared and there else None
        return found_file(self.tree, blob, stat, blob)

    def _blob_of_link(self, path: str) -> str | None:
        """Return the blob that the link at `path` names; None where no link is, or it leads elsewhere."""
        text = self.tree.readlink(path)
        if text is None:
            return None
        target = os.path.normpath(os.path.join(os.path.dirname(path), text))
        folder, _, name = target.rpartition("/")
        return target if folder == "blobs" and name not in ("", ".", "..") else None

    def linked_blobs(self, but: Collection[str] = ()) -> set[str]:
        """Return the blobs that links of the snapshots lead to, save those of the paths `but`."""
        links = (path for path in self.tree.files_below("snapshots") if path not in but)
        return {blob for path in links if (blob := self._blob_of_link(path)) is not None}

    # Visible paths

    def find_bytes(self, path: str) -> FoundFile | None:
        """Return the regular file at `path`, or the one that its link leads to."""
        stat = self.tree.lstat(path)
        if stat is None:
            return None
        if S_ISLNK(stat.st_mode):
            blob = self._blob_of_link(path)
            return None if blob is None else self._blob_bytes(blob)
        return found_file(self.tree, path, stat)

    def stat_files(self, files: Iterable[FileRecord]) -> dict[str, tuple[int, int] | None]:
        """Return path -> (size, mtime in ns) of the bytes that it shows; None where it leads to another blob."""
        found = ((file, self.find_bytes(file.path)) for file in files)
        return {
            file.path: (there.stat.st_size, there.stat.st_mtime_ns)
            if there is not None and there.blob in ("", file.blob)
            else None
            for file, there in found
        }

    def path_of_bytes(self, path: str) -> str:
        """Return the blob that the link at `path` names; `path` itself where no link to a blob is."""
        return self._blob_of_link(path) or path

    def own_file(self, path: str) -> None:
        """Return None: a path shows a link, and a file in its place is found by the plan's digest."""

    def recorded_bytes(self, record: FileRecord, *, is_hidden: bool) -> FoundFile | None:
        """Return the record's blob; where it has none, the file at its path."""
        if record.blob:
            return self._blob_bytes(record.blob)
        return None if is_hidden else self.find_bytes(record.path)

    def made_file(self, record: FileRecord, *, is_hidden: bool) -> str:
        """Return the record's blob; where it has none, its path."""
        if record.blob:
            return record.blob if record.made_blob else ""
        return record.path if record.made_link and not is_hidden else ""

    def has_planned_link(self, planned: PlannedFile) -> bool:
        """Whether the link lies there that huggingface_hub would make."""
        return self.tree.readlink(planned.path) == self._link_text(planned)

    def is_replaceable_link(self, path: str) -> bool:
        """Whether a link of a snapshot to a blob lies there."""
        return self._blob_of_link(path) is not None

    def stage(self, planned: PlannedFile, blob: LocalBlob, in_use: Collection[str], cancel: CancelToken) -> str:
        """Return "": a link is shown."""
        return ""

    def show(
        self, planned: PlannedFile, blob: LocalBlob, staged: str, cancel: CancelToken, *, is_over: bool, is_last: bool
    ) -> os.stat_result:
        """Make the link that huggingface_hub makes; where the disk has none, put the file itself there, as it does."""
        path, text = planned.path, self._link_text(planned)
        try:
            if not is_over:
                self.tree.symlink(text, path)
            else:
                temporary = f"{PARTIALS}/link.{token()}"
                self.tree.symlink(text, temporary)
                self.tree.rename(temporary, path)
        except FileExistsError as exc:
            raise Taken(path) from exc
        except OSError as exc:
            if exc.errno not in NO_LINKS:
                raise
            return self._show_file(path, blob, cancel, is_over=is_over, is_last=is_last)
        if self.tree.readlink(path) != text:
            raise Vanished(path)
        return blob.stat()

    def _show_file(
        self, path: str, blob: LocalBlob, cancel: CancelToken, *, is_over: bool, is_last: bool
    ) -> os.stat_result:
        if blob.ours and is_last:
            return show_file(self.tree, blob.path, path, blob.size, is_over=is_over)
        temporary = f"{PARTIALS}/put.{token()}"  # the blob stays: huggingface_hub made it, or another path needs it
        link_or_copy(blob, self.tree, temporary, cancel)
        stat = show_file(self.tree, temporary, path, blob.size, is_over=is_over)
        self.tree.unlink(temporary)
        return stat

    def record_of_blob(self, planned: PlannedFile, blob: LocalBlob, *, is_made: bool) -> tuple[str, bool]:
        """Return the blob that the link leads to, "" where the file itself is shown, and whether we brought it."""
        path = self.blob_path(planned.content_id)
        return path if self.tree.lstat(path) is not None else "", blob.ours

    def hide(self, record: FileRecord, *, is_regular: bool) -> None:
        """Remove the link; its blob stays."""
        self.tree.unlink(record.path)

    def keep_bytes(self, record: FileRecord) -> None:
        """Do nothing: blobs stay."""

    def _link_text(self, planned: PlannedFile) -> str:
        return os.path.relpath(f"/{self.blob_path(planned.content_id)}", os.path.dirname(f"/{planned.path}"))

    # The root

    @property
    def budget_lock(self) -> FileLock:
        """The lock of the budget of all repos; where scan_cache_dir() does not look."""
        return FileLock(self.hub_tree, BUDGET_LOCK)

    def nested_roots(self, paths: Iterable[str]) -> tuple[list[Path], list[Path]]:
        """Return none: a repo of the hub cache has no other root above or below it."""
        return [], []

    def make_folders(self) -> None:
        """Make `snapshots` before our records: scan_cache_dir() warns of a repo that has none."""
        self.tree.make_folder("snapshots")

    def remove_empty_folders(self) -> None:
        """Remove empty `blobs` and `refs`, and `snapshots` and the repo's folder where nothing else is in it."""
        self.tree.remove_if_empty("blobs")
        self.tree.remove_if_empty("refs")
        if self.tree.names("") in ([], ["snapshots"]):  # with anything else, scan_cache_dir() warns where it is missing
            self.tree.remove_if_empty("snapshots")
            os.rmdir(self.tree.path)

    def remove_empty_root(self) -> None:
        """Remove the repo's folder when nothing but empty folders is left in it, and no process is at work there."""
        known = {"snapshots", "blobs", "refs", "trees", ".no_exist", RECORDS}
        rest = [path for name in ("snapshots", "blobs", "refs", RECORDS) for path in self.tree.files_below(name)]
        rest = [path for path in rest if path != f"{LOCKS}/root.lock"]
        if rest or set(self.tree.names("")) - known or self.tree.path.is_symlink():
            return
        with contextlib.suppress(OSError, DiskError):  # renamed in one step, to where scan_cache_dir() does not look
            self.hub_tree.rename(self.tree.path.name, f"{self._locks}/removed.{token()}")
        self.sweep_removed_roots()

    def sweep_removed_roots(self) -> None:
        """Remove the folders that `remove_empty_root` moved away."""
        with contextlib.suppress(OSError, DiskError):
            for name in self.hub_tree.names(self._locks):
                if REMOVED.fullmatch(name):
                    self.hub_tree.remove_tree(f"{self._locks}/{name}")
            unlink_unless_locked(self.budget_lock, self.hub_tree, BUDGET_LOCK)

    @property
    def _locks(self) -> str:
        return f".locks/{self.tree.path.name}"


def _mark_of(blob: str) -> str:
    return f"{PUBLISHED}/{os.path.basename(blob)}"
