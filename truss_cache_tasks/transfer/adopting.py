"""What a dead run left of a file: the parts that its journal lists and whose bytes are still right."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from truss_cache_tasks.model.hashing import Span
from truss_cache_tasks.transfer.job import Job
from truss_cache_tasks.transfer.journal import Entry, Journal
from truss_cache_tasks.transfer.parts import Part


def adopt(
    job: Job,
    parts: Sequence[Part],
    validator: str | None,
    *,
    begin: Callable[[int], Span],
    buffer: memoryview,
    check: Callable[[], None],
) -> tuple[Journal | None, str | None]:
    """Mark those of `parts` complete that are there; clear the journal, and say so, where it tells of another version.

    Args:
        validator: what the location promises, or None.
        begin: makes the digests of the part at an offset.
        buffer: scratch memory.
        check: called now and then; may raise.

    Returns:
        The journal to go on with, None where nothing is to be kept; and the validator of what was adopted, or None.
    """
    if job.partial.journal is None:
        return None, None
    journal = Journal(job.partial.journal)
    entries = journal.read()
    wanted = validator or (entries[-1].validator if entries else "")
    if others := {entry.validator for entry in entries} - {wanted}:
        journal.clear()
        if other := ", ".join(sorted(others)):
            job.say(f"{job.file.path}: what an earlier run left is of {other}, not of {wanted}: dropped")
        return journal, None
    by_span = {(entry.start, entry.end): entry for entry in entries}
    for part in parts:
        entry = by_span.get((part.start, part.end))
        if entry is not None and (span := _read_again(entry, begin(part.start), job.partial.descriptor, buffer, check)):
            part.at, part.taken, part.span = part.end, True, span
    return journal, wanted or None


def _read_again(
    entry: Entry, span: Span, descriptor: int, buffer: memoryview, check: Callable[[], None]
) -> Span | None:
    """Feed the bytes of `entry` to `span`, and return it if they are still right."""
    while span.size < entry.end - entry.start:
        check()
        at = entry.start + span.size
        size = os.preadv(descriptor, [buffer[: entry.end - at]], at)
        if not size:
            return None
        span.update(buffer[:size])
    return span if span.xxh3() == entry.xxh3 else None
