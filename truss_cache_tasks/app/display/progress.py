"""Progress: how far an entry is, folded from its events. No I/O and no clock: the caller passes the time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.events import (
    Committed,
    Event,
    Failed,
    Hashing,
    Planned,
    Received,
    Relisting,
    Retrying,
    Started,
    Verified,
    Waiting,
    Warned,
)

Phase = Literal["checking", "listing", "hashing", "fetching", "publishing"]
State = Phase | Literal["waiting", "retrying", "verifying"]

_WINDOW_S = 5.0  # the rate is that of the last seconds
_SAMPLE_S = 0.5  # between two samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far one entry is. Times are of the caller's clock, in seconds; sizes are in bytes.

    Attributes:
        began: when work on it began.
        phase: what it does, unless it waits.
        since: when it began to do that.
        reasons: why it is stale.
        planned: what is fetched; None before that is known.
        received: of what is fetched, the bytes that are there, with those of an earlier run.
        resumed: of these, the bytes of an earlier run.
        fresh: bytes that this run received, also before the store was listed again.
        verified: how many of the files that are fetched are complete and verified.
        hashed, to_hash: of the files on this disk that are hashed now.
        waiting: for which lock; None if for none.
        retrying: the last attempt that failed, until bytes come or something else happens; else None.
        retry_at: when it is repeated.
        samples: (time, fresh) of the last seconds, the oldest first.
        committed, failed: how it ended.
        ended: when it ended; None before that.
    """

    began: float
    phase: Phase = "checking"
    since: float = 0.0
    reasons: tuple[str, ...] = ()
    planned: Planned | None = None
    received: int = 0
    resumed: int = 0
    fresh: int = 0
    verified: int = 0
    hashed: int = 0
    to_hash: int = 0
    waiting: Waiting | None = None
    retrying: Retrying | None = None
    retry_at: float = 0.0
    samples: tuple[tuple[float, int], ...] = ()
    committed: Committed | None = None
    failed: CacheTaskError | None = None
    ended: float | None = None

    # -- what is shown

    def state(self, now: float) -> State:
        """Return what the entry does now."""
        if self.waiting is not None:
            return "waiting"
        if self.retrying is not None:
            return "retrying"
        if self.phase == "fetching" and self.total and self.done >= self.total:
            return "verifying"
        return self.phase

    @property
    def total(self) -> int:
        """Bytes to fetch; 0 before that is known."""
        return max(self.planned.missing_size, self.received) if self.planned else 0

    @property
    def done(self) -> int:
        """Bytes of `total` that are there."""
        return min(self.received, self.total)

    @property
    def files(self) -> int:
        """Files of the entry; 0 before that is known."""
        return self.planned.files if self.planned else 0

    @property
    def files_done(self) -> int:
        """Files that are here: those that were here already, and those that were fetched."""
        here = self.planned.files - self.planned.missing_files if self.planned else 0
        return min(here + self.verified, self.files)

    def rate(self, now: float) -> float:
        """Return the bytes a second of the last seconds; 0.0 before half a second of bytes."""
        before = [sample for sample in self.samples if sample[0] <= now - _WINDOW_S]
        if not self.samples:
            return 0.0
        at, fresh = before[-1] if before else self.samples[0]
        return max(self.fresh - fresh, 0) / (now - at) if now - at >= _SAMPLE_S else 0.0

    def elapsed(self, now: float) -> float:
        """Return the seconds since the entry began, until it ended."""
        return max((self.ended if self.ended is not None else now) - self.began, 0.0)


def fold(progress: Progress, event: Event, now: float) -> Progress:
    """Return the progress after `event`, which happened at `now`."""
    if isinstance(event, Received):
        return _received(progress, event, now)
    if (progress.waiting or progress.retrying) and not isinstance(event, Retrying | Waiting | Warned):
        progress = replace(progress, waiting=None, retrying=None)  # any other event ends a wait
    match event:
        case Retrying():
            progress = replace(progress, retrying=event, retry_at=now + event.delay_s)
        case Waiting():
            since = progress.since if progress.waiting is not None else now
            progress = replace(progress, waiting=event, since=since)
        case Started():
            progress = _begin(replace(progress, reasons=event.reasons), "listing" if event.lists else "checking", now)
        case Relisting():
            progress = _begin(progress, "listing", now)
        case Hashing(size=0):
            progress = replace(_begin(progress, "hashing", now), hashed=0, to_hash=event.total)
        case Hashing():
            hashed = progress.hashed + event.size
            progress = replace(progress, phase="hashing", hashed=hashed, to_hash=max(event.total, hashed))
        case Planned():
            progress = _begin(progress, "fetching" if event.missing_files else "publishing", now)
            progress = replace(progress, planned=event, received=0, resumed=0, verified=0)
        case Verified():
            verified = progress.verified + 1
            is_last = progress.planned is not None and verified >= progress.planned.missing_files
            progress = replace(progress, verified=verified, phase="publishing" if is_last else progress.phase)
        case Committed():
            progress = replace(progress, committed=event, ended=now)
        case Failed():
            progress = replace(progress, failed=event.error, ended=now)
    return progress


def _begin(progress: Progress, phase: Phase, now: float) -> Progress:
    return replace(progress, phase=phase, since=now)


def _received(progress: Progress, event: Received, now: float) -> Progress:
    received = progress.received + event.size
    if event.resumed:
        return replace(progress, received=received, resumed=progress.resumed + event.size)
    fresh = progress.fresh + event.size
    samples = progress.samples
    if not samples or now - samples[-1][0] > _WINDOW_S:
        # The rate is that of what comes from here on; these bytes came since the caller looked last.
        samples = ((max(now - _SAMPLE_S, progress.since), progress.fresh),)
    elif now - samples[-1][0] >= _SAMPLE_S:
        samples = (*_recent(samples, now), (now, fresh))
    return replace(
        progress,
        phase="fetching",
        received=max(received, 0),
        fresh=fresh,
        samples=samples,
        waiting=None,
        retrying=None if event.size > 0 else progress.retrying,
    )


def _recent(samples: tuple[tuple[float, int], ...], now: float) -> tuple[tuple[float, int], ...]:
    """Return the samples of the window, and the last one before it."""
    before = sum(at <= now - _WINDOW_S for at, _ in samples)
    return samples[max(before - 1, 0) :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """How far all entries of the process are together; sizes in bytes.

    Attributes:
        done, total, resumed: bytes of what is fetched.
        rate: bytes a second of the last seconds.
        files, files_done: of the entries whose plan is known.
        entries, entries_done: how many there are, and how many ended.
    """

    done: int
    total: int
    resumed: int
    rate: float
    files: int
    files_done: int
    entries: int
    entries_done: int


def total_of(all_progress: Iterable[Progress], now: float) -> Total:
    """Return how far all entries are together."""
    entries = list(all_progress)
    return Total(
        done=sum(entry.done for entry in entries),
        total=sum(entry.total for entry in entries),
        resumed=sum(entry.resumed for entry in entries),
        rate=sum(entry.rate(now) for entry in entries if entry.ended is None),
        files=sum(entry.files for entry in entries),
        files_done=sum(entry.files if entry.committed else entry.files_done for entry in entries),
        entries=len(entries),
        entries_done=sum(entry.ended is not None for entry in entries),
    )
