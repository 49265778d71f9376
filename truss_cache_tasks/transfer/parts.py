"""The parts that a file is cut into, and the journal from which a later run resumes those that are complete."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from truss_cache_tasks.model.hashing import Span
from truss_cache_tasks.transfer.limits import Limits

_NO_XXH3 = "0" * 32  # of a part that is revoked; no bytes have it
_PARTS = 32  # of a file, unless `part_min` or `part_max` leads to fewer or more


class Part:
    """The bytes `start` to `end` of a file.

    Attributes:
        at: offset up to which the bytes are written. Grows in the one worker that has the part, under the lock of its
            Download; read without it, on purpose: it only grows, and other workers wait for `complete`.
        taken: whether a worker has it, or had it.
        span: the digests of the bytes that are written.
    """

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.at = start
        self.taken = False
        self.span: Span | None = None

    @property
    def complete(self) -> bool:
        """Whether all its bytes are written."""
        return self.at == self.end

    def again(self) -> Part:
        """Return the same part without a byte."""
        return Part(self.start, self.end)


def part_size(size: int, limits: Limits) -> int:
    """Return the length of the parts of a file of `size` bytes: `size` itself where it is not worth a second request.

    >>> [part_size(size << 20, Limits()) >> 20 for size in (5, 100, 1000, 100_000)]
    [5, 8, 32, 64]
    """
    if size <= limits.part_min:
        return size
    steps = -(-size // (_PARTS * limits.part_min))
    return min(steps * limits.part_min, limits.part_max)


def cut(size: int, length: int) -> list[Part]:
    """Return the 1..N parts of a file of `size` bytes, in order; all but the last are `length` long."""
    return [Part(start, min(start + length, size)) for start in range(0, size, length)] if size else [Part(0, 0)]


class Stretch(Protocol):
    """Consecutive bytes of a file."""

    @property
    def start(self) -> int:
        """Offset of the first one."""
        ...


S = TypeVar("S", bound=Stretch)


def overlapping(stretches: Sequence[S], start: int, end: int) -> Sequence[S]:
    """Return those of `stretches`, which make up a file in this order, that hold bytes of `start` to `end`."""
    first = bisect_right(stretches, start, key=lambda stretch: stretch.start) - 1
    return stretches[first : max(first + 1, bisect_left(stretches, end, key=lambda stretch: stretch.start))]


def prefix(parts: Sequence[Part], at: int) -> int:
    """Return the offset where the complete parts that follow `at` without a gap end; `at` if there are none."""
    for part in parts:
        if part.start <= at < part.end and part.complete:
            at = part.end
    return at


# -- the journal


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A part that was complete once.

    Attributes:
        start, end: the part, as offsets in the file.
        xxh3: of its bytes, hex.
        validator: of the answer that brought it; "" for none.
    """

    start: int
    end: int
    xxh3: str
    validator: str


class Journal:
    """The file that lists complete parts, one line each, by a descriptor that appends.

    A line has start, end, xxh3-128 and validator. A later line with an xxh3 of zeros, which no bytes have, revokes a
    part. Nothing is synced: after a power cut the xxh3 shows which parts were lost.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> list[JournalEntry]:
        """Return the last entry of each part, and remove an incomplete last line from the file."""
        text = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            os.ftruncate(self._descriptor, len(whole))
        entries = (_parse(line) for line in whole.decode("latin-1").split("\n"))
        return list({(entry.start, entry.end): entry for entry in entries if entry is not None}.values())

    def note(self, entry: JournalEntry) -> None:
        """Append a line."""
        line = f"{entry.start} {entry.end} {entry.xxh3} {entry.validator}\n".encode("latin-1", "replace")
        while line:  # a disk that is nearly full takes a part of it
            line = line[os.write(self._descriptor, line) :]

    def forget(self, start: int, end: int, validator: str) -> None:
        """Append a line that revokes a part."""
        self.note(JournalEntry(start, end, _NO_XXH3, validator))

    def clear(self) -> None:
        """Remove all lines."""
        os.ftruncate(self._descriptor, 0)


def _parse(line: str) -> JournalEntry | None:
    start, _, rest = line.partition(" ")
    end, _, rest = rest.partition(" ")
    xxh3, _, validator = rest.partition(" ")
    if not (start.isdecimal() and end.isdecimal() and len(xxh3) == len(_NO_XXH3)):
        return None
    return JournalEntry(int(start), int(end), xxh3, validator)


# -- resuming


def resume(
    journal: Journal,
    descriptor: int,
    parts: Sequence[Part],
    validator: str | None,
    *,
    begin: Callable[[int], Span],
    buffer: memoryview,
    check: Callable[[], None],
) -> tuple[str | None, str | None]:
    """Mark those of `parts` complete that the journal lists and whose bytes still have the listed xxh3.

    A journal of another version is cleared.

    Args:
        descriptor: of the partial.
        validator: that the location promises, or None.
        begin: returns the new Span of the part that begins at an offset.
        buffer: scratch memory.
        check: called now and then; may raise.

    Returns:
        The validator of what was resumed, or None; and a sentence that says what was dropped and why, or None.
    """
    entries = journal.read()
    wanted = validator or (entries[-1].validator if entries else "")
    if others := {entry.validator for entry in entries} - {wanted}:
        journal.clear()
        other = ", ".join(sorted(others))
        return None, f"what an earlier run left is of {other}, not of {wanted}: dropped" if other else None
    by_span = {(entry.start, entry.end): entry for entry in entries}
    for part in parts:
        entry = by_span.get((part.start, part.end))
        if entry is not None and (span := _read_again(entry, begin(part.start), descriptor, buffer, check)):
            part.at, part.taken, part.span = part.end, True, span
    return wanted or None, None


def _read_again(
    entry: JournalEntry, span: Span, descriptor: int, buffer: memoryview, check: Callable[[], None]
) -> Span | None:
    """Add the bytes of `entry` to `span`, and return it if they still have the listed xxh3; else None."""
    while span.size < entry.end - entry.start:
        check()
        at = entry.start + span.size
        size = os.preadv(descriptor, [buffer[: entry.end - at]], at)
        if not size:
            return None
        span.update(buffer[:size])
    return span if span.xxh3() == entry.xxh3 else None
