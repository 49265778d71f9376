"""The Reporter for people: lines on stderr about one entry while it is fetched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import assert_never

from truss_cache_tasks.app.output import format_bytes, format_count, notify
from truss_cache_tasks.events import (
    Committed,
    Event,
    Evicted,
    Holder,
    Received,
    Refetching,
    Relisting,
    Retrying,
    Started,
    Waiting,
    Warned,
)

_EVERY_S = 10.0
_EVERY_RETRY_S = 5.0


class EntryDisplay:
    """A Reporter that writes lines about one entry: at its start and end, every 10 s, and for waits and warnings."""

    def __init__(
        self,
        label: str,
        *,
        write: Callable[..., object] = notify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock; write nothing before the first event.

        Args:
            label: the name at the start of each line.
            write: takes lines, from any thread.
            clock: in seconds.
        """
        self._label = label
        self._write = write
        self._clock = clock
        self._received = 0  # bytes
        self._began = clock()
        self._next_retry = self._began  # the time from which a line about a retry may be written
        self._next_tick = self._began  # likewise, for the lines every 10 s: a line about a wait stands for one
        self._closed = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, event: Event, /) -> None:
        """Show `event`, from any thread."""
        match event:
            case Received():
                with self._lock:
                    self._received += event.size
            case Started():
                self._say(_started(event))
                threading.Thread(target=self._tick, name="truss-cache-display", daemon=True).start()
            case Retrying():
                if self._is_time_for_a_retry():
                    self._say(_retrying(event))
            case Waiting():
                self._next_tick = self._clock() + _EVERY_S
                self._say(_waiting(event))
            case Refetching():
                if self._is_time_for_a_retry():
                    self._say(f"fetching {event.path} again: {_cause(event)}")
            case Relisting():
                self._say("the source changed meanwhile: listing it again")
            case Evicted():
                self._say(f"evicted {format_bytes(event.size)} that no claim lists from {event.path}")
            case Warned():
                self._say(f"warning: {event.message}")
            case Committed():
                self._say(*_committed(event, max(self._clock() - self._began, 1e-3)))

    def close(self) -> None:
        """Stop the lines every 10 s."""
        self._closed.set()

    def _say(self, *lines: str) -> None:
        self._write(*(f"{self._label}: {line}" for line in lines))

    def _is_time_for_a_retry(self) -> bool:
        """Return True at most once in 5 s, since a failing server causes retries of many files at once."""
        with self._lock:
            now = self._clock()
            if now < self._next_retry:
                return False
            self._next_retry = now + _EVERY_RETRY_S
            return True

    def _tick(self) -> None:
        """Write a line every 10 s, until `close`."""
        while not self._closed.wait(_EVERY_S):
            if self._clock() >= self._next_tick:
                self._say(f"{format_bytes(self._received)} after {self._clock() - self._began:.0f} s")


def _started(event: Started) -> str:
    why = "forced: everything is hashed again" if event.forced else "; ".join(event.reasons) or "fresh"
    return f"{'fetching' if event.lists else 'checking'} ({why})"


def _retrying(event: Retrying) -> str:
    what = f"retrying {event.path}" if event.path else "listing again"
    return f"{what} in {event.delay_s:.1f} s: {_cause(event)}"


def _cause(event: Retrying | Refetching) -> str:
    return event.cause.removeprefix(f"{event.entry}: ").removeprefix(f"{event.path}: ")


def _waiting(event: Waiting) -> str:
    match event.lock:
        case "entry":
            what = "fetches this entry"
        case "file":
            what = f"fetches {event.path}"
        case "root":
            what = f"changes {event.path}"
        case _:
            assert_never(event.lock)
    if event.holder is None:
        return f"waiting for another process that {what}"
    return f"waiting for pid {event.holder.pid} on host {event.holder.host}, which {what} ({_progress(event.holder)})"


def _progress(holder: Holder) -> str:
    """Return since when a lock is held, by this machine's time zone, and how far its holder is."""
    since, today = time.localtime(holder.since), time.localtime()
    text = f"since {time.strftime('%H:%M' if since[:3] == today[:3] else '%Y-%m-%d %H:%M', since)}"
    if holder.done is not None and holder.size:
        text += f", {format_bytes(holder.done)} of {format_bytes(holder.size)}"
    return f"{text}, waits itself" if holder.waits else text


def _committed(event: Committed, seconds: float) -> list[str]:
    """Return the last lines of an entry: what was done, and what was fetched."""
    done = {
        "claimed": ["whole already: claimed, nothing fetched"],
        "repaired": ["whole already: records put right, nothing fetched"],
    }
    rate = f", {format_bytes(event.fetched_size / seconds)}/s" if event.fetched_size else ""
    trust = f"{event.unverified} unverified: the store has no digest" if event.unverified else "all verified"
    total = f"{format_count(event.files, 'file')}, {format_bytes(event.size)} ({trust})"
    came = f"{format_count(event.fetched_files, 'file')}, {format_bytes(event.fetched_size)} in {seconds:.1f} s{rate}"
    return [*done.get(event.how, []), f"{total}; fetched {came}"]
