"""Partials (files that are being fetched) and their journals: opened, resumed, published as blobs, swept."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from stat import S_ISREG

from truss_cache_tasks.errors import IntegrityError
from truss_cache_tasks.model.hashing import Hasher
from truss_cache_tasks.model.listing import Digest
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.model.records import RECORDS, digest_text
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store.files.disk import allocate, disk_errors, token, write_all
from truss_cache_tasks.store.files.locks import close_in_children, close_locked, locks_work, try_lock
from truss_cache_tasks.store.files.names import JOURNAL, LOCKS, PARTIAL, PARTIALS, TEMPORARIES, is_temporary
from truss_cache_tasks.store.files.tree import FileTree, sync
from truss_cache_tasks.store.layouts.blob import LocalBlob, local_blob
from truss_cache_tasks.store.layouts.layout import CacheRoot

_CHUNK = 1 << 20  # bytes decoded at a time


@dataclass
class Partial:
    """A file that is being fetched: `transfer` gets its descriptors, only `store/` uses its path."""

    descriptor: int
    tree: FileTree
    path: str
    has_journal: bool = False
    _journal: int = -1

    @property
    def journal(self) -> int:
        """A descriptor that reads and appends, opened when it is first asked for: small files need none."""
        if self._journal < 0:
            path = _journal_of(self.path)
            with disk_errors(f"cannot write {self.tree.path / path}"):
                self._journal = self.tree.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                self.has_journal = True
        return self._journal

    @property
    def is_in_place(self) -> bool:
        """Whether its name still leads to its bytes: where locks do not work, another process may have taken it."""
        there, here = self.tree.lstat(self.path), os.fstat(self.descriptor)
        return there is not None and (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def close(self) -> None:
        """Close the descriptors. A second call does nothing."""
        if self.descriptor >= 0:
            close_locked(self.descriptor)
        if self._journal >= 0:
            os.close(self._journal)
        self.descriptor = self._journal = -1

    def drop_journal(self) -> None:
        """Remove the journal: the bytes are whole, or of no use."""
        if self.has_journal:
            self.tree.unlink(_journal_of(self.path))

    def discard(self) -> None:
        """Remove the partial and its journal."""
        self.close()
        self.drop_journal()
        self.tree.unlink(self.path)

    def leave(self) -> None:
        """Close the partial: leave one that has whole parts for the next run, remove any other."""
        self.close()
        if not _is_resumable(self.tree, self.path):
            self.discard()


def open_partial(root: CacheRoot, planned: PlannedFile) -> Partial:
    """Open a partial for these bytes: the one that a dead run left, if it has whole parts, else a new one.

    The caller holds the blob's lock, so any partial that is there is a dead run's. It has the space that it needs, as
    far as the disk can allocate.
    """
    name = root.layout.blob_id(planned.content_id)
    with disk_errors(f"cannot write below {root.path}"):
        path = f"{PARTIALS}/{name}.{token()}"
        left = [f"{PARTIALS}/{one}" for one in root.tree.names(PARTIALS) if one.startswith(f"{name}.")]
        dead = [one for one in left if PARTIAL.fullmatch(os.path.basename(one)) and is_left_by_a_run(root.tree, one)]
        if dead and locks_work(root.tree, LOCKS):
            resumed = _resume(root.tree, dead, path)
            for one in dead:
                root.tree.unlink(one)
                if is_left_by_a_run(root.tree, _journal_of(one)):
                    root.tree.unlink(_journal_of(one))
            if resumed is not None:
                return _with_space(Partial(resumed, root.tree, path, has_journal=True), planned)
        descriptor = root.tree.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        close_in_children(descriptor)
        return _with_space(Partial(descriptor, root.tree, path), planned)


def _with_space(partial: Partial, planned: PlannedFile) -> Partial:
    """Give the partial the space of all its bytes; leave it as a dead run would if the disk refuses."""
    try:
        allocate(partial.tree, partial.descriptor, planned.file.size)
    except BaseException:
        partial.leave()
        raise
    return partial


def _resume(tree: FileTree, dead: Iterable[str], path: str) -> int | None:
    """Rename the first partial of `dead` that can be resumed to `path`; return a descriptor, None where there is none.

    The file itself is locked too: where the locks of blobs do not work, its writer may be alive, and must stay the
    only one. If a partial cannot be renamed, its journal gets its name back: neither is lost, nor taken for another's.
    """
    for one in dead:
        if not _is_resumable(tree, one):
            continue
        try:
            os.close(tree.open(_journal_of(one), os.O_RDWR))
            descriptor = tree.open(one, os.O_RDWR)
        except (PermissionError, FileNotFoundError):  # the rights of a file: it is removed, and fetched anew
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tree.rename(_journal_of(one), _journal_of(path))
            try:
                tree.rename(one, path)
            except OSError:
                tree.rename(_journal_of(path), _journal_of(one))
                raise
        except (BlockingIOError, FileNotFoundError):  # its writer is alive, or another process took it
            os.close(descriptor)
            continue
        except OSError:
            os.close(descriptor)
            raise
        close_in_children(descriptor)
        return descriptor
    return None


def publish(
    root: CacheRoot,
    planned: PlannedFile,
    partial: Partial,
    digest: Digest | None,
    *,
    xxh3: str,
    cancel: CancelToken = NEVER,
) -> LocalBlob | None:
    """Make a complete, verified and synced partial a blob; its name survives a power cut after `sync_names`.

    What the store has as gzip is decoded first; its digest is of the stored bytes.

    Returns:
        None where another process took the partial, as it can where locks do not work.
    """
    if planned.file.encoding:
        stored = partial
        partial, xxh3 = _decode(root, planned, stored, cancel)
        stored.discard()
    confirmed = digest_text(digest, planned.file.encoding)
    with disk_errors(f"cannot publish {planned.file.path}"):
        stat, is_in_place = os.fstat(partial.descriptor), partial.is_in_place
        partial.close()
        if not is_in_place:
            return None
        blob = root.layout.blob_path(planned.content_id, xxh3, confirmed)
        root.layout.before_publish(blob, stat.st_mtime_ns)
        try:
            root.tree.rename_over(partial.path, blob)
        except FileNotFoundError:
            return None
        partial.drop_journal()
    if root.tree.reserve is not None:
        root.tree.reserve.written(stat.st_size)
    return local_blob(root.tree, blob, stat, xxh3, confirmed)


def sync_names(root: CacheRoot, blobs: Iterable[LocalBlob]) -> None:
    """Make the names of published blobs survive a power cut, which a manifest that lists them relies on."""
    folders = {os.path.dirname(blob.path) for blob in blobs}
    for folder in sorted(folders | {os.path.dirname(folder) for folder in folders}):
        with disk_errors(f"cannot sync {root.path / folder}"), contextlib.suppress(FileNotFoundError):
            root.tree.sync_folder(folder)  # missing: another project's clean removed it, and the commit will find that


def _decode(root: CacheRoot, planned: PlannedFile, stored: Partial, cancel: CancelToken) -> tuple[Partial, str]:
    """Decode the gzip bytes of a whole partial into another one, which is synced; return it and its xxh3-128.

    Raises:
        IntegrityError: the bytes are as the store has them, and are no gzip.
    """
    import gzip  # few objects are stored so
    import zlib

    path = f"{PARTIALS}/{root.layout.blob_id(planned.content_id)}.{token()}"
    with disk_errors(f"cannot write below {root.path}"):
        decoded = Partial(root.tree.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True), root.tree, path)
    try:
        hasher = Hasher(0, None)
        if root.tree.reserve is not None:  # how long the decoded bytes are is not known
            with root.tree.reserve.given(planned.file.size):
                pass
        os.lseek(stored.descriptor, 0, os.SEEK_SET)
        with (
            disk_errors(f"cannot decode {planned.file.path}"),
            open(os.dup(stored.descriptor), "rb") as source,
            gzip.GzipFile(fileobj=source, mode="rb") as content,
        ):
            while chunk := content.read(_CHUNK):
                cancel.check()
                hasher.update(chunk)
                write_all(decoded.descriptor, chunk)
            sync(decoded.descriptor)
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        decoded.discard()
        raise IntegrityError(
            f"{planned.file.path}: stored as gzip, found bytes that are none ({type(exc).__name__})",
            hint="Upload it again, or correct its Content-Encoding.",
        ) from exc
    except BaseException:
        decoded.discard()
        raise
    return decoded, hasher.xxh3()


def bytes_of_partials(root: CacheRoot) -> Counter[str]:
    """Return how many bytes of the disk the partials of each blob hold already, by its id."""
    held: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for path, blob_id in list_partials(root):
            if stat := root.tree.lstat(path):
                held[blob_id] += stat.st_blocks * 512
    return held


def list_partials(root: CacheRoot) -> Iterator[tuple[str, str]]:
    """Yield (path, blob id) of every partial, of dead runs and of living ones."""
    for name in root.tree.names(PARTIALS):
        if found := PARTIAL.fullmatch(name):
            yield f"{PARTIALS}/{name}", found[1]


def dead_partials(root: CacheRoot) -> Iterator[tuple[str, str]]:
    """Yield (blob id, path) of every partial and journal whose blob's lock is free, with that lock held meanwhile."""
    for name in sorted(root.tree.names(PARTIALS)):
        found = PARTIAL.fullmatch(name) or JOURNAL.fullmatch(name)
        if found is None or not is_left_by_a_run(root.tree, f"{PARTIALS}/{name}"):
            continue
        if release := try_lock(root.layout.blob_lock(found[1])):
            try:
                yield found[1], f"{PARTIALS}/{name}"
            finally:
                release()


def sweep_partials(root: CacheRoot, *, older_than_s: float) -> None:
    """Remove the partials of dead runs, except resumable ones that were written to within the last `older_than_s`.

    The caller holds the root's lock.
    """
    oldest = time.time() - older_than_s
    for _, path in dead_partials(root):
        whole = root.tree.lstat(path.removesuffix(".parts"))
        if whole is None or not _is_resumable(root.tree, path.removesuffix(".parts")) or whole.st_mtime < oldest:
            root.tree.unlink(path)


def sweep_temporaries(root: CacheRoot) -> None:
    """Remove the temporaries of dead writers of records, links and refs. The caller holds the root's lock."""
    for folder in TEMPORARIES:
        path = f"{RECORDS}/{folder}".rstrip("/")
        for name in root.tree.names(path):
            if is_temporary(folder, name) and not root.tree.is_folder(f"{path}/{name}"):
                with contextlib.suppress(OSError):
                    root.tree.unlink(f"{path}/{name}")


def _journal_of(path: str) -> str:
    return f"{path}.parts"


def is_left_by_a_run(tree: FileTree, path: str) -> bool:
    """Whether this is a file that a run of this user can have left: regular, with one name."""
    stat = tree.lstat(path)
    return stat is not None and S_ISREG(stat.st_mode) and stat.st_nlink == 1 and stat.st_uid == os.geteuid()


def _is_resumable(tree: FileTree, path: str) -> bool:
    """Whether this is a partial of ours, and its journal lists whole parts."""
    journal = tree.lstat(_journal_of(path))
    return (
        journal is not None
        and journal.st_size > 0
        and is_left_by_a_run(tree, path)
        and is_left_by_a_run(tree, _journal_of(path))
    )
