"""Temporaries on their way to become blobs, and their journals: opened, left for the next run, adopted, swept."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from truss_cache_tasks.planning.plan import PlannedFile
from truss_cache_tasks.store.disk import disk_errors, named, open_in, sweep, token
from truss_cache_tasks.store.layout import Place, blob_id
from truss_cache_tasks.store.locks import try_lock


@dataclass
class Partial:
    """A temporary on its way to become a blob: descriptors for `transfer`, a path for this room alone."""

    descriptor: int
    path: Path
    has_journal: bool = False
    _journal: int = -1

    @property
    def journal(self) -> int:
        """A descriptor that reads and appends, opened when it is first asked for: small files need none."""
        if self._journal < 0:
            with disk_errors(f"cannot write {self._journal_path}"):
                self._journal = os.open(self._journal_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
                self.has_journal = True
        return self._journal

    @property
    def _journal_path(self) -> Path:
        return _journal_of(self.path)

    def close(self) -> None:
        """Give the descriptors back, once."""
        for descriptor in (self.descriptor, self._journal):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._journal = -1

    def drop_journal(self) -> None:
        """Remove the journal: the bytes are whole, or of no use."""
        if self.has_journal:
            self._journal_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what is there."""
        self.close()
        self.drop_journal()
        self.path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Leave the parts that are whole for the next run; remove what holds none."""
        self.close()
        if not _is_resumable(self.path):
            self.discard()


def open_partial(place: Place, planned: PlannedFile) -> Partial:
    """Open a temporary for these bytes, the one that a dead run left if it holds whole parts.

    The caller holds the blob's lock: any temporary that is there is a dead run's.
    """
    name = blob_id(planned.identity, place.form)
    folder = f"{place.records}/partials"
    with disk_errors(f"cannot write below {place.root}"):
        path = Path(f"{folder}/{name}.{token()}")
        left = named(folder, name)
        adopted = _adopt(left, path)
        for dead in left:
            dead.unlink(missing_ok=True)
        if adopted is not None:
            return Partial(adopted, path, has_journal=True)
        descriptor = open_in(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Partial(descriptor, path)


def _adopt(left: Sequence[Path], path: Path) -> int | None:
    """Rename what a dead run left to `path`, and open it; None where nothing is there that resumes.

    It is locked itself too: where locks do not work, its writer may live, and nobody may share its bytes.
    """
    for dead in left:
        if not _is_resumable(dead):
            continue
        descriptor = os.open(dead, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(_journal_of(dead), _journal_of(path))
            os.rename(dead, path)
        except OSError:
            os.close(descriptor)
            continue
        return descriptor
    return None


def left_bytes(place: Place, files: Iterable[PlannedFile]) -> int:
    """Bytes of these files' disk space that temporaries of dead runs hold already."""
    held: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for path in (place.records / "partials").iterdir():
            held[path.name.partition(".")[0]] += path.stat().st_blocks * 512
    return sum(min(held[blob_id(planned.identity, place.form)], planned.file.size) for planned in files)


def _journal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _is_resumable(path: Path) -> bool:
    """Whether this is a temporary, and its journal lists whole parts."""
    try:
        return _journal_of(path).stat().st_size > 0
    except FileNotFoundError:
        return False


def sweep_partials(place: Place, *, older_than_s: float = 0.0) -> None:
    """Remove the temporaries of dead runs: those whose lock is free. The caller holds the root's lock.

    Args:
        older_than_s: leave those that resume, until nobody wrote to them for so long.
    """
    oldest = time.time() - older_than_s
    for path in list((place.records / "partials").glob("*.*")):
        whole = path.with_suffix("") if path.suffix == ".parts" else path
        if release := try_lock(place.blob_lock(path.name.partition(".")[0])):
            with contextlib.suppress(FileNotFoundError):
                if not (older_than_s and _is_resumable(whole) and whole.stat().st_mtime > oldest):
                    path.unlink(missing_ok=True)
            release()
    sweep(place.records, "link.*", "ref.*", "*.tmp", "*/*.tmp")
