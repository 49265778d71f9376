"""What a dead run left of a file: the parts that its journal lists and whose bytes are still right."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from truss_cache_tasks.transfer.journal import Entry, Journal
from truss_cache_tasks.transfer.parts import Part


def adopt(
    parts: Sequence[Part],
    journal: Journal,
    descriptor: int,
    validator: str | None,
    *,
    buffer: memoryview,
    check: Callable[[], None],
) -> tuple[str | None, str]:
    """Mark those of `parts` complete that are there; clear the journal where it tells of another version.

    Args:
        validator: what the location promises, or None.
        buffer: scratch memory.
        check: called now and then; may raise.

    Returns:
        The validator of what was adopted (None for none); and the one that the journal has instead of `validator`, ""
        where they agree.
    """
    entries = journal.read()
    names = {entry.validator for entry in entries}
    wanted = validator or (entries[-1].validator if entries else "")
    if names - {wanted}:
        journal.clear()
        return None, ", ".join(sorted(names - {wanted}))
    by_span = {(entry.start, entry.end): entry for entry in entries}
    for part in parts:
        entry = by_span.get((part.start, part.end))
        if entry is not None and _is_right(entry, descriptor, buffer, check):
            part.at, part.taken = part.end, True
    return wanted or None, ""


def _is_right(entry: Entry, descriptor: int, buffer: memoryview, check: Callable[[], None]) -> bool:
    import xxhash

    hasher, at = xxhash.xxh3_128(), entry.start
    while at < entry.end:
        check()
        size = os.preadv(descriptor, [buffer[: entry.end - at]], at)
        if not size:
            return False
        hasher.update(buffer[:size])
        at += size
    return bool(hasher.hexdigest() == entry.xxh3)
