"""CacheRoot, and what the two layouts of a root have in common: the protocol of HubLayout and FlatLayout.

A layout decides where a file's bytes are, how a path shows them, and what is ours to remove. Everything else in
`store/` asks the root's layout and does not know which one it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from truss_cache_tasks.model.records import RECORDS
from truss_cache_tasks.store.files.names import LOCKS

if TYPE_CHECKING:
    from truss_cache_tasks.model.keys import ContentId
    from truss_cache_tasks.model.plan import PlannedFile
    from truss_cache_tasks.model.records import FileRecord, Manifest
    from truss_cache_tasks.network.cancel import CancelToken
    from truss_cache_tasks.store.files.locks import FileLock, OnWait
    from truss_cache_tasks.store.files.tree import FileTree
    from truss_cache_tasks.store.layouts.blob import FoundFile, LocalBlob
    from truss_cache_tasks.store.layouts.refs import Refs


class CacheRoot:
    """A folder that holds files of entries, and in `.truss_cache` our records of them.

    Args:
        path: the model cache, a mount, or the folder of a repo in the hub cache.
        layout: how files are laid out below it.
    """

    def __init__(self, path: Path, layout: RootLayout) -> None:
        self.path = path
        self.layout = layout

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheRoot) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"CacheRoot({str(self.path)!r})"

    @property
    def tree(self) -> FileTree:
        """The root's files: the only way to them."""
        return self.layout.tree

    @cached_property
    def records(self) -> Path:
        """Our own folder."""
        return self.path / RECORDS

    def lock(self, name: str) -> FileLock:
        """Return the lock of this name."""
        from truss_cache_tasks.store.files.locks import FileLock  # not needed by a run of fresh entries

        return FileLock(self.tree, f"{LOCKS}/{name}.lock")

    def entry_lock(self, key: str) -> FileLock:
        """Return the lock that a run of the request `key` holds, from its status to its commit."""
        return self.lock(f"entry-{key}")


class Candidate(NamedTuple):
    """A file that no manifest lists, and that may hold the bytes of a planned file.

    Args:
        xxh3, digest: what its name says of its bytes; "" where it says nothing.
        ours: we brought it.
    """

    file: FoundFile
    xxh3: str
    digest: str
    ours: bool


class BlobLayout(Protocol):
    """Blobs: whole, verified files, by their id."""

    def blob_id(self, content_id: ContentId, /) -> str:
        """Return the file name of these bytes: in the hub cache the ETag (the digest), elsewhere a name of ours."""

    def blob_lock(self, blob_id: str, /) -> FileLock:
        """Return the lock under which this blob is written."""

    def blob_path(self, content_id: ContentId, xxh3: str, digest: str, /) -> str:
        """Return where the blob of these bytes lies until a manifest lists it, relative to the root."""

    def before_publish(self, blob: str, mtime_ns: int, /) -> None:
        """Note that the file that is about to be renamed to `blob` is ours, where its name does not say so."""

    def adopt_blob(self, planned: PlannedFile, blob: LocalBlob, cancel: CancelToken, on_wait: OnWait, /) -> LocalBlob:
        """Return `blob` at a place where a path of this root can show it: links of a Hub repo lead only to its blobs.

        Raises:
            Vanished: it is not there any more.
        """

    def may_link(self, blob: LocalBlob, /) -> bool:
        """Whether a path of this root may be a hard link of `blob`: not if it is a file that the user may write to."""

    def has_unlisted_blob(self, blob_id: str, /) -> bool:
        """Whether a blob of ours lies here that no manifest lists yet, as far as its name and mark tell."""

    def may_have_arrived(self, blob_id: str, last_commit_ns: int, /) -> bool:
        """Whether these bytes may have come since `last_commit_ns`: another process published or committed."""

    def unlisted_candidates(self, planned: PlannedFile, /) -> Iterator[Candidate]:
        """Yield the files that no manifest lists and that may hold the bytes of `planned`.

        A file at the planned path is one of them if the store tells a digest that it can be compared with; such a file
        is not ours.
        """

    def refuse_folders(self, missing: Iterable[PlannedFile], /) -> None:
        """Raise DiskError if a folder with files lies where the blob of a missing file is to be."""

    def release_blobs(self, blobs: Iterable[LocalBlob], /) -> None:
        """Remove the marks or staged names of blobs that a manifest lists now. The caller holds the root's lock."""

    def sweep_blobs(self, owned: Collection[str], recorded: Collection[str] = (), /) -> None:
        """Remove the blobs of ours that nothing owns.

        Args:
            owned: ids of the blobs that a manifest or a note of a fetch lists.
            recorded: ids of the blobs that a manifest lists as made by us.
        """

    def removable_blobs(
        self,
        cleaned: Sequence[Manifest],
        used: Collection[str],
        removed_paths: Collection[str],
        is_unowned: Callable[[str], bool],
    ) -> Iterator[tuple[str, str]]:
        """Yield (path, "" or the reason why it must stay) of the blobs that a clean has to remove.

        Args:
            cleaned: manifests that are removed.
            used: ids of blobs that something else needs.
            removed_paths: visible paths that were removed, or would be in a dry run.
            is_unowned: whether no remaining manifest or note lists the blob of this id, and no process fetches it.
        """

    def unshown_blobs(self) -> Iterator[tuple[str, str]]:
        """Yield (path, blob id) of the blobs of ours that no path needs to show: staged, hidden, or not listed yet."""

    def linked_blobs(self, but: Collection[str], /) -> set[str]:
        """Return the blobs that links of the snapshots lead to, save those at the paths `but`."""


class PathLayout(Protocol):
    """Visible paths: what lies there, and how they are shown and hidden."""

    def find_bytes(self, path: str, /) -> FoundFile | None:
        """Return where the bytes of a visible path are: there, or in the hub cache where its link leads.

        None where nothing is there, a link that leads elsewhere, or what this user may not read.
        """

    def stat_files(self, files: Iterable[FileRecord], /) -> dict[str, tuple[int, int] | None]:
        """Return path -> (size, mtime in ns) of the bytes that it shows; None where these are not the recorded ones."""

    def path_of_bytes(self, path: str, /) -> str:
        """Return the path that holds the bytes of a visible path: that itself, or the blob that its link names."""

    def own_file(self, path: str, /) -> FoundFile | None:
        """Return the file at `path` in a layout whose paths show files of their own; None in the hub cache."""

    def recorded_bytes(self, record: FileRecord, /, *, is_hidden: bool) -> FoundFile | None:
        """Return where a manifest says that the bytes of `record` are; None where they are not."""

    def made_file(self, record: FileRecord, /, *, is_hidden: bool) -> str:
        """Return the path of the file with the bytes of `record`, if we made it; else ""."""

    def has_planned_link(self, planned: PlannedFile, /) -> bool:
        """Whether the planned path is a link to the planned blob, as this layout makes it."""

    def is_replaceable_link(self, path: str, /) -> bool:
        """Whether a link lies at `path` that may be replaced even if we did not make it: to a blob of its repo."""

    def stage(self, planned: PlannedFile, blob: LocalBlob, in_use: Collection[str], cancel: CancelToken, /) -> str:
        """Give `blob` a name in our folder, from which `show` makes it visible; "" if paths show links.

        Args:
            in_use: names that were given already.
        """

    def show(
        self,
        planned: PlannedFile,
        blob: LocalBlob,
        staged: str,
        cancel: CancelToken,
        /,
        *,
        is_over: bool,
        is_last: bool,
    ) -> os.stat_result:
        """Make `blob` visible in one step; return the stat of its bytes.

        Args:
            staged: what `stage` returned.
            cancel: ends a copy early, where the disk has no links.
            is_over: something lies at the path that is to be replaced; else nothing may be replaced.
            is_last: no later path of the plan needs these bytes.

        Raises:
            Vanished: the disk has changed since it was looked at. Taken: another process put something there.
        """

    def record_of_blob(self, planned: PlannedFile, blob: LocalBlob, /, *, is_made: bool) -> tuple[str, bool]:
        """Return `blob` and `made_blob` of the record of a path that is shown."""

    def hide(self, record: FileRecord, /, *, is_regular: bool) -> None:
        """Make a path of ours invisible; the bytes stay, as a blob."""

    def keep_bytes(self, record: FileRecord, /) -> None:
        """Keep the bytes of a path that is about to be replaced as a blob, where the disk has hard links."""


class RootLayout(BlobLayout, PathLayout, Protocol):
    """How files are laid out below one root.

    Attributes:
        tree: the root's files.
        refs: its refs/REVISION.
        paths_name_bytes: a path always shows the same bytes (`snapshots/{commit}/...`): entries cannot collide, and
            files of an earlier revision stay beside the new ones.
        maker: who made the files that we did not make.
        top: the visible folder that is kept even if it is empty; "" for the root.
    """

    tree: FileTree
    refs: Refs
    paths_name_bytes: bool
    maker: str
    top: str

    @property
    def hub(self) -> Path | None:
        """The hub cache that the root lies in."""

    @property
    def budget_lock(self) -> FileLock:
        """The lock under which it is decided whether a fetch fits into the budget that this root counts for."""

    def nested_roots(self, paths: Iterable[str], /) -> tuple[list[Path], list[Path]]:
        """Return the other roots with records of ours in which any of `paths` lies: above this one, and below it.

        The outermost first; all of them have the flat layout.
        """

    def make_folders(self) -> None:
        """Make the folders that must be there before our records are."""

    def remove_empty_folders(self) -> None:
        """Remove the folders of the layout that are empty, and the root where nothing else is in it."""

    def remove_empty_root(self) -> None:
        """Remove the root if nothing but empty folders is left in it, and no process is at work there."""

    def sweep_removed_roots(self) -> None:
        """Remove what an earlier `remove_empty_root` that was killed left."""
