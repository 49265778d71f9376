"""How a file is cut into parts, and what is known of each while it comes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Protocol, TypeVar

from truss_cache_tasks.model.hashing import Span
from truss_cache_tasks.transfer.limits import Limits

_PARTS = 32  # of a file, where the bounds of a part's length leave a choice


class Part:
    """The bytes `start` to `end` of a file; those before `at` are written, and nobody else's business."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.at = start
        self.taken = False
        self.span: Span | None = None  # of the bytes that are written

    @property
    def complete(self) -> bool:
        """Whether all its bytes are written."""
        return self.at == self.end

    def again(self) -> Part:
        """Return it as it was before any byte came."""
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
    """Return where the complete ones of `parts` end that follow `at` without a gap."""
    for part in parts:
        if part.start <= at < part.end and part.complete:
            at = part.end
    return at
