"""RunRecord: count the events of one entry's run, for its line in the history and for the text in its lock."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.events import (
    Committed,
    Event,
    Planned,
    Published,
    Received,
    Refetching,
    Relisting,
    Reporter,
    Retrying,
    Verified,
    Waiting,
    ignore_events,
)
from truss_cache_tasks.store.files.locks import HeldLock
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.history import shortened

_DESCRIBED_EVERY_S = 1.0
_MOST_FAULTS = 8  # in a line


class RunRecord:
    """A Reporter that counts what happens in the run of one entry, and passes every event on.

    While an entry's lock is held (`holding`), the lock's file says how far the run is, anew every second.

    Attributes:
        roots: those in which the run held the entry's lock.
    """

    def __init__(self, reporter: Reporter = ignore_events) -> None:
        self.roots: list[CacheRoot] = []
        self._reporter = reporter
        self._held: list[HeldLock] = []
        self._began = time.monotonic()
        self._described = self._began
        self._waits = False  # for another process
        self._done = 0  # bytes that have come, of those that were missing
        self._planned = Planned(files=0, size=0, missing_files=0, missing_size=0)
        self._counts = dict.fromkeys(("received", "resumed", "retries", "refetches", "waits", "relistings"), 0)
        self._fetched = [0, 0]  # files and bytes that were published
        self._verified = 0  # files that had the digest of their store
        self._faults: dict[tuple[str, str], dict[str, Any]] = {}  # by kind and path
        self._lock = threading.Lock()

    def __call__(self, event: Event, /) -> None:
        """Count the event, from any thread, and pass it on."""
        with self._lock:
            self._count(event)
        self._reporter(event)

    @contextlib.contextmanager
    def holding(self, root: CacheRoot, held: HeldLock) -> Iterator[None]:
        """Let the lock of the entry in `root` say how far the run is, in the block."""
        with self._lock:
            self.roots.append(root)
            self._held.append(held)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(held)

    @property
    def brought_bytes(self) -> bool:
        """Whether anything was received or published."""
        return self._counts["received"] > 0 or self._fetched[0] > 0

    def as_line(self, end: Committed | BaseException) -> dict[str, Any]:
        """Return the fields of the run in the history (docs/on-disk-format.md). No query of a URL is in it."""
        with self._lock:
            files, size = self._fetched
            line: dict[str, Any] = {"seconds": round(time.monotonic() - self._began, 3)}
            if isinstance(end, Committed):
                line |= {"files": end.files, "size": end.size, "unverified": end.unverified}
                line |= {"reused_files": end.files - end.fetched_files, "reused_size": end.size - end.fetched_size}
                files, size = end.fetched_files, end.fetched_size
            else:
                line |= {"files": self._planned.files, "size": self._planned.size, "error": _error(end)}
            line |= {"fetched_files": files, "fetched_size": size, "verified": self._verified, **self._counts}
            return {**line, "faults": list(self._faults.values())}

    def _count(self, event: Event) -> None:
        match event:
            case Received():
                self._done += event.size
                kind = "resumed" if event.resumed else "received"
                self._counts[kind] += max(event.size, 0)
                self._describe(waits=False)
            case Planned():
                self._planned, self._done = event, 0
                self._describe(waits=False, at_once=True)
            case Waiting():
                self._counts["waits"] += not event.again
                self._describe(waits=True)
            case Retrying():
                self._fault("retries", event.path, event.cause)
            case Refetching():
                self._fault("refetches", event.path, event.cause)
            case Relisting():
                self._fault("relistings", "", event.cause)
            case Verified():
                self._verified += event.digest != ""
            case Published():
                self._fetched[0] += 1
                self._fetched[1] += event.size

    def _fault(self, kind: str, path: str, cause: str) -> None:
        self._counts[kind] += 1
        fault = self._faults.get((kind, path))
        if fault is not None:
            fault["count"] += 1
        elif len(self._faults) < _MOST_FAULTS:
            found = {"kind": kind, "path": shortened(path), "cause": shortened(cause), "count": 1}
            self._faults[kind, path] = found

    def _describe(self, *, waits: bool, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or waits != self._waits or now - self._described >= _DESCRIBED_EVERY_S:
            self._described, self._waits = now, waits
            for held in self._held:
                held.describe(waits=waits, done=max(self._done, 0), size=self._planned.missing_size)


def _error(error: BaseException) -> dict[str, str]:
    """Return class and message; no message of an error that is not ours, which may hold anything."""
    message = shortened(str(error)) if isinstance(error, CacheTaskError) else ""
    return {"class": type(error).__name__, "message": message}
