"""Format the progress of an entry as text: the lines of a log, and the phrases that the block of a terminal shows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import assert_never

from truss_cache_tasks.app.display.progress import Progress, Total
from truss_cache_tasks.app.output import format_bytes, format_count
from truss_cache_tasks.events import (
    Committed,
    Event,
    Evicted,
    Holder,
    Moved,
    Planned,
    Refetching,
    Relisting,
    Retrying,
    Verified,
    Waiting,
    Warned,
)

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_SOON_S = 100.0  # up to here seconds are shown alone


def format_part(done: int, total: int) -> str:
    """Return two sizes in the unit of the larger one.

    >>> format_part(160_400_000, 366_000_000), format_part(3_000_000_000, 40_000_000_000), format_part(5, 12)
    ('160 of 366 MB', '3.0 of 40.0 GB', '5 of 12 B')
    """
    unit, factor = next(((unit, factor) for unit, factor in _UNITS if total >= factor), ("B", 1))
    digits = 0 if factor == 1 or total >= 100 * factor else 1
    return f"{done / factor:.{digits}f} of {total / factor:.{digits}f} {unit}"


def format_percent(done: int, total: int) -> str:
    """Return whole percent, rounded down, so that 100 % means all.

    >>> format_percent(160, 366), format_percent(1999, 2000), format_percent(0, 0)
    ('43 %', '99 %', '')
    """
    return f"{done * 100 // total} %" if total else ""


def format_duration(seconds: float) -> str:
    """Return a duration with one or two units.

    >>> format_duration(11.4), format_duration(125), format_duration(4320), format_duration(200_000)
    ('11 s', '2 min 5 s', '1 h 12 min', '2 d 8 h')
    """
    if seconds < _SOON_S:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    for small, large, factor in (("s", "min", 60), ("min", "h", 60), ("h", "d", 24)):
        low, high = whole % factor, whole // factor
        if large == "d" or high < {"min": 60, "h": 24}[large]:
            return f"{high} {large} {low} {small}"
        whole = high
    raise AssertionError("days have no larger unit")


# -- phrases


def format_state(progress: Progress, now: float) -> tuple[str, ...]:
    """Return what the entry does, such as `rate limited, next try in 12 s`: the longest text, then shorter ones."""
    state = progress.state(now)
    match state:
        case "waiting":
            assert progress.waiting is not None
            return format_waiting(progress.waiting)
        case "retrying":
            assert progress.retrying is not None
            left = progress.retry_at - now
            cause = "rate limited" if progress.retrying.is_requested else "failed"
            if left <= 0:
                return (f"{cause}, trying again",)
            return f"{cause}, next try in {math.ceil(left)} s", f"{cause}, {math.ceil(left)} s"
        case "hashing" if progress.to_hash:
            return f"hashing {format_part(progress.hashed, progress.to_hash)}", "hashing"
        case _:
            return (state,)


def format_waiting(event: Waiting) -> tuple[str, ...]:
    """Return who is waited for, the longest text first, then shorter ones."""
    match event.lock:
        case "entry":
            what = "fetches this entry"
        case "file":
            what = f"fetches {event.path}"
        case "root":
            what = f"changes {event.path}"
        case _:
            assert_never(event.lock)
    holder = event.holder
    if holder is None:
        return f"waiting for another process that {what}", "waiting for another process", "waiting"
    process = f"waiting for pid {holder.pid}"
    who, progress = f"{process} on host {holder.host}", _progress_of(holder)
    return f"{who}, which {what} ({progress})", f"{who} ({progress})", who, process


def _progress_of(holder: Holder) -> str:
    """Return since when a lock is held, by this machine's time zone, and how far its holder is."""
    since, today = time.localtime(holder.since), time.localtime()
    text = f"since {time.strftime('%H:%M' if since[:3] == today[:3] else '%Y-%m-%d %H:%M', since)}"
    if holder.done is not None and holder.size:
        text += f", {format_part(holder.done, holder.size)}"
    return f"{text}, waits itself" if holder.waits else text


def format_rate(rate: float) -> str:
    """Return bytes a second, with three digits or two.

    >>> format_rate(17_900_000), format_rate(835_200)
    ('17.9 MB/s', '835 kB/s')
    """
    number, unit = format_bytes(rate).split(" ")
    return f"{number if len(number) < len('100.0') else number.partition('.')[0]} {unit}/s"


def speed_of(done: int, total: int, rate: float, *, brief: bool = False) -> list[str]:
    """Return the rate and the time left, as far as they are known; brief: in the largest unit alone."""
    if rate < 1:
        return []
    left = format_duration(math.ceil((total - done) / rate))
    left = " ".join(left.split(" ")[:2]) if brief else left
    return [format_rate(rate), *([f"{left} left"] if done < total else [])]


# -- lines of a log


def lines_of_event(progress: Progress, event: Event, *, block: bool, verbose: bool = False) -> list[str]:
    """Return the lines about `event`, after which the entry is at `progress`, without the entry's name.

    Args:
        block: a block on the terminal shows the state; only what is to stay there becomes a line.
        verbose: a file that is verified becomes a line too.
    """
    lines: list[str] = []
    match event:
        case Planned():
            lines = [f"{_planned(event)}{_reasons(progress)}"]
        case Relisting():
            lines = ["the source changed meanwhile: listing it again"]
        case Refetching():
            lines = [f"fetching {event.path} again: {_cause(event)}"]
        case Moved():
            lines = [f"{event.revision} moved: {event.before[:12]} -> {event.after[:12]}"]
        case Evicted():
            lines = [f"evicted {format_bytes(event.size)} that no claim lists from {event.path}"]
        case Verified() if verbose:
            lines = [f"{event.path}: {format_bytes(event.size)}, {event.digest or 'unverified by the store'}"]
        case Warned():
            lines = [f"warning: {event.message}"]
        case Committed():
            lines = _committed(progress, event)
        case Waiting() if not (block or event.again):  # the lines about progress say the rest
            lines = [format_waiting(event)[0]]
        case Retrying() if not block:
            lines = [_retrying(event)]
    return lines


def line_of_progress(progress: Progress, now: float) -> str:
    """Return the line about an entry that is under way, such as `160 of 366 MB, 44 %, 17.9 MB/s, 11 s left`."""
    done, total = progress.done, progress.total
    amount = [format_part(done, total), format_percent(done, total)] if total else []
    if progress.state(now) == "fetching":
        speed = speed_of(done, total, progress.rate(now)) or ["no bytes in the last seconds"]
        resumed = [f"{format_bytes(progress.resumed)} by an earlier run"] if progress.resumed else []
        return ", ".join([*amount, *speed, *resumed])
    state = format_state(progress, now)[0]
    since = [] if progress.retrying else [f"for {format_duration(now - progress.since)}"]
    return ", ".join([" ".join([state, *since]), *amount])


def line_of_total(entries: Iterable[Progress], total: Total, seconds: float) -> str:
    """Return the line about all entries of a run, after they ended.

    Args:
        seconds: from the first event to the last.
    """
    entries = list(entries)
    ends = [entry.committed for entry in entries if entry.committed is not None]
    failed = sum(entry.failed is not None for entry in entries)
    line = _fetched(
        sum(end.fetched_files for end in ends),
        sum(end.fetched_size for end in ends),
        total.resumed,
        sum(entry.fresh for entry in entries),
        seconds,
    )
    count = format_count(len(entries), "entry", "entries")
    return f"{count}{f' ({failed} failed)' if failed else ''}: {line}"


def _planned(event: Planned) -> str:
    here = event.files - event.missing_files
    whole = f"{format_count(here, 'file')}, {format_bytes(event.size - event.missing_size)}"
    if not event.missing_files:
        return f"{whole}, here already"
    coming = f"fetching {format_count(event.missing_files, 'file')}, {format_bytes(event.missing_size)}"
    return f"{coming}; {whole} here already" if here else coming


def _reasons(progress: Progress) -> str:
    return f" ({'; '.join(progress.reasons)})" if progress.reasons else ""


def _retrying(event: Retrying) -> str:
    what = f"retrying {event.path}" if event.path else "listing again"
    return f"{what} in {event.delay_s:.1f} s: {_cause(event)}"


def _cause(event: Retrying | Refetching) -> str:
    return event.cause.removeprefix(f"{event.entry}: ").removeprefix(f"{event.path}: ")


def _committed(progress: Progress, event: Committed) -> list[str]:
    """Return the last lines of an entry: what was done, what it is worth, and where it is."""
    trust = f"{event.unverified:,} unverified: the store has no digest" if event.unverified else "all verified"
    whole = f"{format_count(event.files, 'file')}, {format_bytes(event.size)}"
    match event.how:
        case "claimed":
            first = f"fetched 0 files, whole already: claimed{_reasons(progress)}; {whole} ({trust})"
        case "repaired":
            first = f"fetched 0 files, put right from this disk{_reasons(progress)}; {whole} ({trust})"
        case "fresh":
            first = f"whole already: {whole} ({trust})"
        case "fetched":
            assert progress.ended is not None
            seconds = progress.ended - progress.began
            came = _fetched(event.fetched_files, event.fetched_size, progress.resumed, progress.fresh, seconds)
            reused = event.files - event.fetched_files
            size = format_bytes(event.size - event.fetched_size)
            first = came + (f"; reused {format_count(reused, 'file')}, {size}" if reused else "") + f" ({trust})"
        case _:
            assert_never(event.how)
    return [first, f"in {event.path}"] if event.path else [first]


def _fetched(files: int, size: int, resumed: int, fresh: int, seconds: float) -> str:
    rate = f", {format_rate(fresh / seconds)}" if fresh and seconds > 0 else ""
    earlier = f" ({format_bytes(resumed)} by an earlier run)" if resumed else ""
    took = f"{seconds:.1f} s" if seconds < _SOON_S else format_duration(seconds)
    return f"fetched {format_count(files, 'file')}, {format_bytes(size)}{earlier} in {took}{rate}"
