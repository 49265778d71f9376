"""RunContext: what the steps of an entry's run get beside the entry: the run's id, its Reporter, how it is ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from truss_cache_tasks.events import Event, Hashing, Reporter, Waiting, Warned, for_entry, ignore_events
from truss_cache_tasks.model.keys import RequestKey
from truss_cache_tasks.model.plan import PlannedFile
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.operations.run_record import RunRecord
from truss_cache_tasks.store.files.locks import FileLock, OnWait
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.fetch_notes import fetcher_of

_HASHING_EVERY = 8 << 20  # bytes between two events


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """One run, of one or more entries.

    Attributes:
        id: of the run: its entries that resolve the same moving revision get the same commit.
        reporter: receives the events, from any thread.
        cancel: ends the run early, with Stopped.
        record: of what happens to one entry (`for_entry`).
    """

    id: str
    reporter: Reporter = ignore_events
    cancel: CancelToken = NEVER
    record: RunRecord = field(default_factory=RunRecord)

    def for_entry(self, entry: str) -> RunContext:
        """Return the context whose events carry the name of `entry`, with a record of its own."""
        record = RunRecord(for_entry(self.reporter, entry))
        return replace(self, reporter=record, record=record)

    def report(self, event: Event) -> None:
        """Pass `event` to the Reporter."""
        self.reporter(event)

    def warn(self, message: str) -> None:
        """Report a warning, one line without `warning: `."""
        self.reporter(Warned(message=message))

    def hashes(self, total: int) -> Callable[[int], None]:
        """Report that files are hashed; return a function, to be called from any thread with each size in bytes.

        Args:
            total: bytes of all these files.
        """
        self.reporter(Hashing(size=0, total=total))
        lock = threading.Lock()
        unreported = 0

        def hashed(size: int) -> None:
            nonlocal unreported
            with lock:
                unreported += size
                if unreported < _HASHING_EVERY:
                    return
                size, unreported = unreported, 0
            self.reporter(Hashing(size=size, total=total))

        return hashed

    def waits_for_entry(self, lock: FileLock, again: bool) -> None:
        """Report a wait for the lock of the entry: an OnWait."""
        self.report(Waiting(lock="entry", path=str(lock.tree.path), holder=lock.read_holder(), again=again))

    def waits_for_root(self, lock: FileLock, again: bool) -> None:
        """Report a wait for the lock of a cache root: an OnWait."""
        self.report(Waiting(lock="root", path=str(lock.tree.path), holder=lock.read_holder(), again=again))

    def waits_for_file(self, root: CacheRoot, planned: PlannedFile, key: RequestKey) -> OnWait:
        """Return the OnWait that reports a wait for the lock of a file that the request `key` fetches into `root`."""
        blob_id, path = root.layout.blob_id(planned.content_id), planned.file.path

        def report(lock: FileLock, again: bool) -> None:
            self.report(Waiting(lock="file", path=path, holder=fetcher_of(root, blob_id, but=key), again=again))

        return report
