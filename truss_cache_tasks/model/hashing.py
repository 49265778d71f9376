"""Compute the store's digest of a file and our xxh3-128, in one pass over chunks in memory.

Our xxh3-128 of a file is the xxh3-128 of the joined xxh3-128 of its blocks. So each part is hashed once, in whatever
order the parts come. For a file of at most one block it is the plain xxh3-128 of the bytes. The CRC of a file follows
from those of its parts too. Every other digest takes the bytes in order.

The store's digest is of the whole file or, as S3's composite ones, of the joined raw digests of its consecutive pieces;
a CRC's raw digest is its big-endian bytes
(docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html).
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

from truss_cache_tasks.model.listing import Digest

BLOCK = 8 << 20  # bytes
_BEYOND_ANY_FILE = 1 << 63  # bytes


class RunningDigest(Protocol):
    """A digest under way, which takes the bytes in order."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """Return the raw digest of the bytes so far."""
        ...


class Piece(NamedTuple):
    """The bytes from `start` up to `end` of a file, which have a digest of their own."""

    start: int
    end: int


def pieces_of(want: Digest, size: int) -> list[Piece]:
    """Return the 1..N consecutive pieces of a file of `size` bytes that the digest `want` is computed from.

    Bytes beyond the last part count as one more piece, so that a file that is too long never matches.

    >>> pieces_of(Digest("crc32", "", (3, 3)), 7)
    [Piece(start=0, end=3), Piece(start=3, end=6), Piece(start=6, end=7)]
    """
    ends = [min(end, size) for end in accumulate(want.parts)]
    if not ends or ends[-1] < size:
        ends.append(size)
    return [Piece(start, end) for start, end in pairwise([0, *ends])]


def join_digests(want: Digest, raws: Sequence[bytes]) -> Digest:
    """Return the digest of a file whose pieces have the raw digests `raws`; algorithm and parts are those of `want`."""
    raw = _raw(want.algorithm, b"".join(raws)) if want.parts else raws[0]
    return Digest(want.algorithm, raw.hex(), want.parts)


def find_wrong_pieces(want: Digest, raws: Sequence[bytes]) -> list[int]:
    """Return the indices in `raws` of the pieces whose raw digests differ from the store's `part_values`.

    Empty where the store has none, or those that it has do not join to `want`.
    """
    expected = [bytes.fromhex(value) for value in want.part_values]
    if len(expected) != len(raws) or join_digests(want, expected) != want:
        return []
    return [index for index, (raw, value) in enumerate(zip(raws, expected, strict=True)) if raw != value]


class Span:
    """Hashes consecutive bytes of a file, the first of which begins a block: the xxh3-128 of each block, and CRCs.

    What comes before and after these bytes does not matter; `xxh3` and `combine_crcs` join spans to a file.
    """

    def __init__(self, want: Digest | None, block: int = BLOCK, start: int = 0, ends: Sequence[int] = ()) -> None:
        """Begin with no bytes.

        Args:
            want: what the file is compared with; only a CRC is computed here.
            block: bytes of a block.
            start: offset of the first byte in the file.
            ends: where the pieces of the file end, ascending; a new CRC begins there.
        """
        import xxhash

        self.size = 0
        self.crcs: list[tuple[int, int]] = []  # (size, CRC) of what each piece has of these bytes
        self._crc = _crc_function(want.algorithm) if want is not None and is_crc(want) else None
        self._start = start
        self._ends = ends
        self._edge = start  # where the next CRC begins
        self._new_block: Callable[[], RunningDigest] = xxhash.xxh3_128
        self._block = block
        self._closed: list[bytes] = []  # digests of the blocks that are full
        self._open: RunningDigest = self._new_block()  # the block under way
        self._left = block  # bytes until it is full

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, any number of them."""
        rest = memoryview(data)
        if self._crc is not None:
            self._update_crcs(self._crc, rest)
        self.size += len(rest)
        while len(rest) >= self._left:
            self._open.update(rest[: self._left])
            self._closed.append(self._open.digest())
            rest, self._open, self._left = rest[self._left :], self._new_block(), self._block
        self._open.update(rest)
        self._left -= len(rest)

    def _update_crcs(self, crc: Callable[[Any, int], int], rest: memoryview) -> None:
        """Add the next bytes to the CRC of their piece, and begin another where a piece ends."""
        at = self._start + self.size
        while rest:
            if at == self._edge:
                following = bisect_right(self._ends, at)
                self._edge = self._ends[following] if following < len(self._ends) else _BEYOND_ANY_FILE
                self.crcs.append((0, 0))
            taken, rest = rest[: self._edge - at], rest[self._edge - at :]
            size, value = self.crcs[-1]
            self.crcs[-1] = (size + len(taken), crc(taken, value))
            at += len(taken)

    @property
    def blocks(self) -> bytes:
        """The xxh3-128 of each block, joined."""
        return b"".join(self._closed) + (self._open.digest() if self._left < self._block else b"")

    def xxh3(self) -> str:
        """Return our xxh3-128 of these bytes: 32 hex digits."""
        return xxh3([self])


def xxh3(spans: Iterable[Span]) -> str:
    """Return our xxh3-128 of the file that consists of `spans`, in this order: 32 hex digits."""
    import xxhash

    blocks = b"".join(span.blocks for span in spans)
    return blocks.hex() if len(blocks) == 16 else str(xxhash.xxh3_128_hexdigest(blocks))


def is_crc(want: Digest) -> bool:
    """Return whether `want` is a CRC, which follows from the CRCs of the spans, in whatever order these were read."""
    return want.algorithm in _CRCS


def combine_crcs(want: Digest, pieces: Iterable[Piece], spans: Iterable[Span]) -> list[bytes]:
    """Return the raw CRC of each of `pieces`, computed from the CRCs of the spans.

    Args:
        want: a CRC; only its algorithm is used.
        pieces: all of a file, in order.
        spans: all of the file, in order; each was made with the `ends` of these pieces.
    """
    from awscrt import checksums

    combine, layout = getattr(checksums, f"combine_{want.algorithm}"), _CRCS[want.algorithm]
    crcs = (crc for span in spans for crc in span.crcs)
    raws = []
    for start, end in pieces:
        at, total = start, 0
        while at < end:
            size, crc = next(crcs)
            at, total = at + size, combine(total, crc, size)
        raws.append(struct.pack(layout, total))
    return raws


class SequentialDigests:
    """Computes raw digests of pieces of a file, by an algorithm that takes the bytes of each in order."""

    def __init__(self, want: Digest, size: int, pieces: Iterable[Piece]) -> None:
        """Begin before the first piece.

        Args:
            want: only its algorithm is used.
            size: of the file.
            pieces: some or all of it, in order.

        Raises:
            ValueError: the algorithm is unknown.
        """
        if want.algorithm not in _IN_ORDER:
            raise ValueError(f"unknown digest algorithm {want.algorithm!r}")
        self.raws: dict[Piece, bytes] = {}  # of the pieces that are complete
        self.at = 0  # offset of the byte that is wanted next; `size` at the end
        self._new = _IN_ORDER[want.algorithm]
        self._size = size
        self._ahead = iter(pieces)
        self._begin_next_piece()

    def update(self, data: memoryview, offset: int) -> None:
        """Take the bytes of `data` that are wanted next: none unless `offset`, where `data` begins, is `at`."""
        while data and offset == self.at < self._size:
            taken, data = data[: self._piece.end - offset], data[self._piece.end - offset :]
            self._running.update(taken)
            offset += len(taken)
            if offset == self._piece.end:
                self.raws[self._piece] = self._running.digest()
                self._begin_next_piece()
            else:
                self.at = offset

    def _begin_next_piece(self) -> None:
        for piece in self._ahead:
            self._piece, self._running = piece, self._new(piece.end - piece.start)
            if piece.start < piece.end:
                self.at = piece.start
                return
            self.raws[piece] = self._running.digest()
        self.at = self._size


class Hasher:
    """Hashes the bytes of one file in order.

    >>> hasher = Hasher(5, Digest("git-sha1", "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"))
    >>> hasher.update(b"hel")
    >>> hasher.update(b"lo")
    >>> hasher.matches
    True
    """

    def __init__(self, size: int, want: Digest | None) -> None:
        """Begin a file of `size` bytes; `want` None computes the xxh3-128 alone. Raises as `SequentialDigests`."""
        self.size = size
        self.want = want
        self._pieces = pieces_of(want, size) if want is not None else []
        self._span = Span(want, ends=[piece.end for piece in self._pieces])
        self._in_order = SequentialDigests(want, size, self._pieces) if want is not None and not is_crc(want) else None

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the file, any number of them."""
        if self._in_order is not None:
            self._in_order.update(memoryview(chunk), self._span.size)
        self._span.update(chunk)

    @property
    def seen(self) -> int:
        """Bytes hashed so far."""
        return self._span.size

    def xxh3(self) -> str:
        """Return our xxh3-128 of the bytes so far: 32 hex digits."""
        return self._span.xxh3()

    def digest(self) -> Digest | None:
        """Return the digest by the algorithm and parts of `want`; None where nothing is wanted or bytes are missing."""
        if self.want is None or self.seen < self.size:
            return None
        if self._in_order is None:
            return join_digests(self.want, combine_crcs(self.want, self._pieces, [self._span]))
        return join_digests(self.want, [self._in_order.raws[piece] for piece in self._pieces])

    @property
    def matches(self) -> bool:
        """Whether exactly `size` bytes came, and they have the wanted digest, if there is one."""
        return self.seen == self.size and self.digest() == self.want


_CRCS = {"crc32": ">I", "crc32c": ">I", "crc64nvme": ">Q"}  # algorithm -> struct format of its raw digest


def _crc_function(name: str) -> Callable[[Any, int], int]:
    from awscrt import checksums  # lazily: a file without a CRC needs no awscrt

    function: Callable[[Any, int], int] = getattr(checksums, name)
    return function


def _git_sha1(size: int) -> RunningDigest:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


_IN_ORDER: dict[str, Callable[[int], RunningDigest]] = {  # each takes the number of bytes that it will get
    "sha256": lambda size: hashlib.sha256(),
    "sha1": lambda size: hashlib.sha1(usedforsecurity=False),
    "git-sha1": _git_sha1,
    "md5": lambda size: hashlib.md5(usedforsecurity=False),
}


def _raw(algorithm: str, data: bytes) -> bytes:
    if algorithm in _CRCS:
        return struct.pack(_CRCS[algorithm], _crc_function(algorithm)(data, 0))
    running = _IN_ORDER[algorithm](len(data))
    running.update(data)
    return running.digest()
