"""Find the damage in a cache: files that differ from what a manifest lists, and records that cannot be read.

Offline. The files of all manifests are compared at once by threads that share one list of spans of 64 MiB, those of the
largest file first: so the blocks of one large file are hashed on all cores (docs/adr/0008), and no thread waits for
another at the end of an entry. A file with several names is read once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.hashing import BLOCK, Span, xxh3
from truss_cache_tasks.model.records import FileRecord
from truss_cache_tasks.model.safetensors import find_header_fault
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.store.files.disk import OnHashed, OnHashing
from truss_cache_tasks.store.files.record_file import Unreadable
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records import claims, manifest
from truss_cache_tasks.store.records.evidence import describe_loss

_SPAN = 8 * BLOCK  # bytes that a thread hashes before it takes the next span
_BUFFER = 1 << 20  # bytes read at a time: 11 GB/s a core; 256 KiB: 9, 4 MiB: 11


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that a manifest of `root` lists.

    Args:
        is_hidden: another entry shows other bytes at its path.
    """

    root: CacheRoot
    record: FileRecord
    is_hidden: bool = False


def find_damaged_files(
    files: Sequence[ListedFile],
    cancel: CancelToken,
    *,
    quick: bool,
    on_hashing: OnHashing = lambda _total: lambda _size: None,
) -> list[str]:
    """Return for each of `files`, in their order, what is wrong with it; "" for a good one.

    Bytes are compared by our xxh3-128, which was computed from the very bytes that the store's digest confirmed.

    Args:
        quick: compare the sizes alone, and the headers of safetensors files; only a file whose header is wrong is
            hashed, because it may be so in the store.
        on_hashing: called with the bytes of all files that are to be hashed, if there are any.

    Raises:
        Stopped: `cancel` was cancelled.
    """
    faults = [""] * len(files)
    same: dict[tuple[int, int, str], list[int]] = {}  # (device, inode, xxh3) -> indices in `files`
    with _kept_open(files):
        for index, file in enumerate(files):
            cancel.check()
            with _Fault(faults, index):
                stat = _stat(file)
                if not quick or _has_odd_header(file):
                    same.setdefault((stat.st_dev, stat.st_ino, file.record.xxh3), []).append(index)
    largest_first = sorted(same.values(), key=lambda indices: -files[indices[0]].record.size)
    found = _hash_all([files[indices[0]] for indices in largest_first], cancel, on_hashing)
    for indices, fault in zip(largest_first, found, strict=True):
        for index in indices:
            faults[index] = fault
    return faults


@contextmanager
def _kept_open(files: Iterable[ListedFile]) -> Iterator[None]:
    """Keep folders of the files' roots open within the block, for this thread."""
    with ExitStack() as opened:
        for root in {id(file.root): file.root for file in files}.values():
            opened.enter_context(root.tree.kept_open())
        yield


class _Damaged(Exception):
    """A file is not as its record says; the text says how."""


class _Fault:
    """Catches what a look at the file `index` raises, and notes it in `faults`."""

    def __init__(self, faults: list[str], index: int) -> None:
        self.faults = faults
        self.index = index

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        match exc:
            case _Damaged() | DiskError():
                self.faults[self.index] = str(exc)
            case OSError():
                self.faults[self.index] = f"cannot be read ({exc.strerror or exc})"
            case _:
                return False
        return True


def _stat(file: ListedFile) -> os.stat_result:
    """Return the stat of the bytes of a file of the recorded size. Raises _Damaged for any other."""
    found = file.root.layout.find_bytes(file.record.path)
    if found is None:
        raise _Damaged(describe_loss(file.root, file.record.path))
    if file.is_hidden:
        raise _Damaged("replaced by another entry")
    _check_size(found.stat, file.record)
    return found.stat


def _check_size(stat: os.stat_result, record: FileRecord) -> None:
    if stat.st_size != record.size:
        raise _Damaged(f"found {stat.st_size:,} bytes, expected {record.size:,}")


def _open(file: ListedFile) -> int:
    found = file.root.layout.find_bytes(file.record.path)
    if found is None:
        raise _Damaged(describe_loss(file.root, file.record.path))
    return found.tree.open(found.path, os.O_RDONLY | os.O_NONBLOCK)


def _has_odd_header(file: ListedFile) -> bool:
    """Whether it is called a safetensors file and has no header of one."""
    if not file.record.path.endswith(".safetensors"):
        return False
    with open(_open(file), "rb", buffering=0) as opened:
        return bool(find_header_fault(file.record.size, lambda at, size: os.pread(opened.fileno(), size, at)))


def _hash_all(files: Sequence[ListedFile], cancel: CancelToken, on_hashing: OnHashing) -> list[str]:
    """Return for each file what is wrong with its bytes, "" for nothing."""
    if not files:
        return []
    from concurrent.futures import ThreadPoolExecutor

    hashing = _Hashing(files, cancel, on_hashing(sum(file.record.size for file in files)))
    threads = min(_count_cores(), hashing.count)
    with ThreadPoolExecutor(threads) as pool:
        for ended in [pool.submit(hashing.work) for _ in range(threads)]:
            ended.result()
    return hashing.faults


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Hashing:
    """Hashes many files at once; any number of threads call `work`.

    Attributes:
        count: of all spans.
        faults: for each file what is wrong, "" for nothing.
    """

    def __init__(self, files: Sequence[ListedFile], cancel: CancelToken, on_hashed: OnHashed) -> None:
        self.files = files
        self.cancel = cancel
        self.on_hashed = on_hashed
        self.faults = [""] * len(files)
        self.count = sum(map(self._spans_of, range(len(files))))
        self._lock = threading.Lock()  # of what follows
        self._ahead = ((index, number) for index in range(len(files)) for number in range(self._spans_of(index)))
        self._hashed: dict[int, dict[int, Span]] = {}  # by file, of those under way: its spans that are hashed

    def _spans_of(self, index: int) -> int:
        return max(1, -(-self.files[index].record.size // _SPAN))

    def work(self) -> None:
        """Hash one span after the other, until none is left. Raises Stopped."""
        buffer = memoryview(bytearray(_BUFFER))
        with _kept_open(self.files):
            while (following := self._take()) is not None:
                index, number = following
                with _Fault(self.faults, index):
                    if not self.faults[index]:
                        self._finish(index, number, self._hash(self.files[index], number * _SPAN, buffer))

    def _take(self) -> tuple[int, int] | None:
        with self._lock:
            return next(self._ahead, None)

    def _hash(self, file: ListedFile, start: int, buffer: memoryview) -> Span:
        span = Span(None, start=start)
        descriptor = _open(file)
        try:
            _check_size(os.fstat(descriptor), file.record)
            while (left := min(_SPAN, file.record.size - start) - span.size) > 0:
                self.cancel.check()
                size = os.preadv(descriptor, [buffer[:left]], start + span.size)
                if not size:
                    _check_size(os.fstat(descriptor), file.record)  # it was cut meanwhile
                    raise _Damaged("changed while it was read")
                span.update(buffer[:size])
                self.on_hashed(size)
        finally:
            os.close(descriptor)
        return span

    def _finish(self, index: int, number: int, span: Span) -> None:
        with self._lock:
            spans = self._hashed.setdefault(index, {})
            spans[number] = span
            if len(spans) < self._spans_of(index):
                return
            del self._hashed[index]
        found, expected = xxh3(spans[at] for at in range(len(spans))), self.files[index].record.xxh3
        if found != expected:
            raise _Damaged(f"got xxh3-128 {found[:16]}…, expected {expected[:16]}…")


def find_damaged_records(root: CacheRoot, project: str, key: str) -> list[str]:
    """Return a line for each record of a project and of a request key in this root that cannot be used, and why.

    These are the manifests of the request, the claims of the project, and the pins.

    Raises:
        OSError: the disk fails. DiskError: a link lies where a folder of ours is to be.
    """
    readers = (
        *((path, manifest.parse) for path in manifest.paths_of(root, key)),
        (claims.path_of(project), claims.parse),
        (claims.PINS, claims.parse_pins),
    )
    found = []
    for path, parse in readers:
        try:
            parse(root.tree, path)
        except Unreadable as exc:
            found.append(f"{path}: {exc}")
    return found
