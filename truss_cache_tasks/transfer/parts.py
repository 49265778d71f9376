"""How a file is cut into parts, and what is known of each while it comes."""

from __future__ import annotations

from typing import Protocol

from truss_cache_tasks.transfer.limits import Limits

_PARTS = 64  # of a file, where the bounds of a part's length leave a choice


class Running(Protocol):
    """A digest that bytes are fed to."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """Return the digest of the bytes so far."""
        ...


class Part:
    """The bytes `start` to `end` of a file; those before `at` are written, and nobody else's business."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.at = start
        self.taken = False
        self.xxh3: Running | None = None  # of the bytes that are written, where a journal keeps it

    @property
    def complete(self) -> bool:
        """Whether all its bytes are written."""
        return self.at == self.end


def part_size(size: int, limits: Limits) -> int:
    """Return the length of the parts of a file of `size` bytes: `size` itself where it is not worth a second request.

    >>> [part_size(size << 20, Limits()) >> 20 for size in (5, 100, 1000, 100_000)]
    [5, 8, 16, 64]
    """
    if size <= limits.part_min:
        return size
    steps = -(-size // (_PARTS * limits.part_min))
    return min(steps * limits.part_min, limits.part_max)


def cut(size: int, length: int) -> list[Part]:
    """Return the 1..N parts of a file of `size` bytes, in order; all but the last are `length` long."""
    return [Part(start, min(start + length, size)) for start in range(0, size, length)] if size else [Part(0, 0)]


def xxh3_128() -> Running:
    """Begin an xxh3-128."""
    import xxhash

    running: Running = xxhash.xxh3_128()
    return running
