"""Partials (files that are being fetched) and their journals: opened, left for the next run, resumed, swept."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from stat import S_ISREG

from truss_cache_tasks.errors import IntegrityError, Stopped
from truss_cache_tasks.model.hashing import Hasher
from truss_cache_tasks.model.plan import RECORDS, PlannedFile
from truss_cache_tasks.store.disk import disk_errors, token
from truss_cache_tasks.store.layout import JOURNAL, PARTIAL, TEMPORARIES, CacheRoot, blob_id, is_temporary
from truss_cache_tasks.store.locks import locks_work, try_lock
from truss_cache_tasks.store.tree import FileTree, sync

FOLDER = f"{RECORDS}/partials"
_CHUNK = 1 << 20  # bytes decoded at a time


@dataclass
class Partial:
    """A temporary on its way to become a blob: descriptors for `transfer`, a path for this package alone."""

    descriptor: int
    root: FileTree
    path: str
    has_journal: bool = False
    _journal: int = -1

    @property
    def journal(self) -> int:
        """A descriptor that reads and appends, opened when it is first asked for: small files need none."""
        if self._journal < 0:
            path = _journal_of(self.path)
            with disk_errors(f"cannot write {self.root.path / path}"):
                self._journal = self.root.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                self.has_journal = True
        return self._journal

    @property
    def is_in_place(self) -> bool:
        """Whether its name still leads to its bytes: where locks do not work, another process may have taken it."""
        there, here = self.root.lstat(self.path), os.fstat(self.descriptor)
        return there is not None and (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def close(self) -> None:
        """Give the descriptors back, once."""
        for descriptor in (self.descriptor, self._journal):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._journal = -1

    def drop_journal(self) -> None:
        """Remove the journal: the bytes are whole, or of no use."""
        if self.has_journal:
            self.root.unlink(_journal_of(self.path))

    def discard(self) -> None:
        """Remove what is there."""
        self.close()
        self.drop_journal()
        self.root.unlink(self.path)

    def leave(self) -> None:
        """Leave the parts that are whole for the next run; remove what holds none."""
        self.close()
        if not _is_resumable(self.root, self.path):
            self.discard()


def open_partial(place: CacheRoot, planned: PlannedFile) -> Partial:
    """Open a temporary for these bytes, the one that a dead run left if it holds whole parts.

    The caller holds the blob's lock: any temporary that is there is a dead run's.
    """
    name = blob_id(planned.identity, place.layout)
    with disk_errors(f"cannot write below {place.root}"):
        path = f"{FOLDER}/{name}.{token()}"
        left = [f"{FOLDER}/{one}" for one in place.tree.names(FOLDER) if one.startswith(f"{name}.")]
        dead = [one for one in left if PARTIAL.fullmatch(os.path.basename(one)) and _is_ours(place.tree, one)]
        if dead and locks_work(place.tree, f"{RECORDS}/locks"):
            resumed = _resume(place.tree, dead, path)
            for one in dead:
                place.tree.unlink(one)
                if _is_ours(place.tree, _journal_of(one)):
                    place.tree.unlink(_journal_of(one))
            if resumed is not None:
                return Partial(resumed, place.tree, path, has_journal=True)
        descriptor = place.tree.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Partial(descriptor, place.tree, path)


def _resume(root: FileTree, dead: Iterable[str], path: str) -> int | None:
    """Rename what a dead run left to `path`, and open it; None where nothing is there that resumes.

    It is locked itself too: where locks do not work, its writer may live, and nobody may share its bytes.
    """
    for one in dead:
        if not _is_resumable(root, one):
            continue
        descriptor = root.open(one, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            root.rename(_journal_of(one), _journal_of(path))
            root.rename(one, path)
        except OSError:
            os.close(descriptor)
            continue
        return descriptor
    return None


def decode(place: CacheRoot, planned: PlannedFile, stored: Partial, stopped: Callable[[], bool]) -> tuple[Partial, str]:
    """Decode the gzip bytes of a whole partial into another one, which is synced; return it and its xxh3-128.

    Raises:
        IntegrityError: the bytes are as the store has them, and are no gzip.
    """
    import gzip  # few objects are stored so
    import zlib

    path = f"{FOLDER}/{blob_id(planned.identity, place.layout)}.{token()}"
    with disk_errors(f"cannot write below {place.root}"):
        decoded = Partial(place.tree.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True), place.tree, path)
    try:
        hasher = Hasher(0, None)
        os.lseek(stored.descriptor, 0, os.SEEK_SET)
        with (
            disk_errors(f"cannot decode {planned.file.path}"),
            open(os.dup(stored.descriptor), "rb") as source,
            gzip.GzipFile(fileobj=source, mode="rb") as content,
        ):
            while chunk := content.read(_CHUNK):
                if stopped():
                    raise Stopped(f"stopped while decoding {planned.file.path}")
                hasher.update(chunk)
                _write(decoded.descriptor, chunk)
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


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def left_bytes(place: CacheRoot, files: Iterable[PlannedFile]) -> int:
    """Bytes of these files' disk space that temporaries of dead runs hold already."""
    held: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for name in place.tree.names(FOLDER):
            if (found := PARTIAL.fullmatch(name)) and (stat := place.tree.lstat(f"{FOLDER}/{name}")):
                held[found[1]] += stat.st_blocks * 512
    return sum(min(held[blob_id(planned.identity, place.layout)], planned.file.size) for planned in files)


def dead_partials(place: CacheRoot) -> Iterator[tuple[str, str]]:
    """Yield (blob id, path) of every temporary and journal whose blob's lock is free, with that lock held meanwhile."""
    for name in sorted(place.tree.names(FOLDER)):
        found = PARTIAL.fullmatch(name) or JOURNAL.fullmatch(name)
        if found is None or not _is_ours(place.tree, f"{FOLDER}/{name}"):
            continue
        if release := try_lock(place.blob_lock(found[1])):
            try:
                yield found[1], f"{FOLDER}/{name}"
            finally:
                release()


def is_left_by_a_run(place: CacheRoot, path: str) -> bool:
    """Whether this is a file that a run of this user can have left: regular, with one name."""
    return _is_ours(place.tree, path)


def is_resumable(place: CacheRoot, path: str) -> bool:
    """Whether `path` is a temporary, or a journal, of which the next run can use parts."""
    return _is_resumable(place.tree, path.removesuffix(".parts"))


def sweep_partials(place: CacheRoot, *, older_than_s: float) -> None:
    """Remove the temporaries of dead runs, save those that resume, until they were not written to for so long.

    The caller holds the root's lock.
    """
    oldest = time.time() - older_than_s
    for _, path in dead_partials(place):
        whole = place.tree.lstat(path.removesuffix(".parts"))
        if whole is None or not is_resumable(place, path) or whole.st_mtime < oldest:
            place.tree.unlink(path)


def sweep_temporaries(place: CacheRoot) -> None:
    """Remove the temporaries of dead writers of records and links. The caller holds the root's lock."""
    for folder in TEMPORARIES:
        path = f"{RECORDS}/{folder}".rstrip("/")
        for name in place.tree.names(path):
            if is_temporary(folder, name) and not place.tree.is_folder(f"{path}/{name}"):
                with contextlib.suppress(OSError):
                    place.tree.unlink(f"{path}/{name}")


def _journal_of(path: str) -> str:
    return f"{path}.parts"


def _is_ours(root: FileTree, path: str) -> bool:
    """Whether this is a file that a run of this user can have left: regular, with one name."""
    stat = root.lstat(path)
    return stat is not None and S_ISREG(stat.st_mode) and stat.st_nlink == 1 and stat.st_uid == os.geteuid()


def _is_resumable(root: FileTree, path: str) -> bool:
    """Whether this is a temporary of ours, and its journal lists whole parts."""
    journal = root.lstat(_journal_of(path))
    return journal is not None and journal.st_size > 0 and _is_ours(root, path) and _is_ours(root, _journal_of(path))
