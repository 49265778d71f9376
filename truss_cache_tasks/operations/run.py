"""RunContext: the run's id, Reporter and CancelToken, which the steps of an entry's run get beside the entry."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from truss_cache_tasks.events import Event, Hashing, Reporter, Waiting, Warned, for_entry, ignore_events
from truss_cache_tasks.network.cancel import NEVER, CancelToken
from truss_cache_tasks.store.locks import LockFile

_HASHING_EVERY = 8 << 20  # bytes between two events


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """One run, of one or more entries.

    Attributes:
        id: of the run: its entries that resolve the same moving revision get the same commit.
        reporter: receives the events, from any thread.
        cancel: ends the run early, with Stopped.
    """

    id: str
    reporter: Reporter = ignore_events
    cancel: CancelToken = NEVER

    def for_entry(self, entry: str) -> RunContext:
        """Return the context whose events carry the name of `entry`."""
        return replace(self, reporter=for_entry(self.reporter, entry))

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

    def waits_for(self, lock: Literal["entry", "file"], path: str) -> Callable[[LockFile], None]:
        """Return a function that reports a wait for the lock of the entry, or of one of its files."""
        return lambda _lock: self.reporter(Waiting(lock=lock, path=path))

    def waits_for_root(self, lock: LockFile) -> None:
        """Report a wait for the lock of a cache root."""
        self.reporter(Waiting(lock="root", path=str(lock.tree.path)))
