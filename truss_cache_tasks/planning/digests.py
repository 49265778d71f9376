"""Bytes in, digests out: the store's own digest of a file and our xxh3-128, in one pass over chunks in memory.

Our xxh3-128 of a file is that of its blocks' xxh3-128, joined, so that parts that come in any order need no second
look; of a file of at most one block it is the plain one. The CRCs of parts combine too. Every other digest wants a
file's bytes in order.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from truss_cache_tasks.planning.listing import Digest

BLOCK = 8 << 20  # bytes


class Running(Protocol):
    """A digest that bytes are fed to in order."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """Return the raw digest of the bytes so far."""
        ...


class Span:
    """What can be told of consecutive bytes of a file that begin at a block, whatever lies before and after them."""

    def __init__(self, want: Digest | None, block: int = BLOCK) -> None:
        """Begin with no bytes; `want` is what `settle` will be asked to compare with."""
        import xxhash

        self.size = 0
        self.crc = 0
        self._crc = _crc_function(want.algorithm) if want is not None and combines(want) else None
        self._new: Callable[[], Running] = xxhash.xxh3_128
        self._block = block
        self._closed: list[bytes] = []  # digests of the blocks that are full
        self._open: Running = self._new()
        self._left = block

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, any number of them."""
        self.size += len(data)
        if self._crc is not None:
            self.crc = self._crc(data, self.crc)
        rest = memoryview(data)
        while len(rest) >= self._left:
            self._open.update(rest[: self._left])
            self._closed.append(self._open.digest())
            rest, self._open, self._left = rest[self._left :], self._new(), self._block
        self._open.update(rest)
        self._left -= len(rest)

    @property
    def blocks(self) -> bytes:
        """The xxh3-128 of each block, joined."""
        return b"".join(self._closed) + (self._open.digest() if self._left < self._block else b"")

    def xxh3(self) -> str:
        """Return our xxh3-128 of these bytes: 32 hex digits."""
        return xxh3([self])


def xxh3(spans: Iterable[Span]) -> str:
    """Return our xxh3-128 of a file that `spans` make up, in this order: 32 hex digits."""
    import xxhash

    blocks = b"".join(span.blocks for span in spans)
    return blocks.hex() if len(blocks) == 16 else str(xxhash.xxh3_128_hexdigest(blocks))


def combines(want: Digest) -> bool:
    """Whether this digest of a file follows from those of its spans: a CRC of the whole."""
    return want.algorithm in _CRCS and not want.parts


def combined(want: Digest, spans: Iterable[Span]) -> Digest:
    """Return the digest of a file that `spans` make up, in this order, by the algorithm of `want`, which combines."""
    from awscrt import checksums

    combine, total = getattr(checksums, f"combine_{want.algorithm}"), 0
    for span in spans:
        total = combine(total, span.crc, span.size)
    return Digest(want.algorithm, struct.pack(_CRCS[want.algorithm], total).hex())


def ordered(want: Digest, size: int) -> Running:
    """Begin the digest that `want` is of a file of `size` bytes, to be fed in order.

    A composite digest (`want.parts`) is S3's checksum of checksums: the digest of the parts' raw digests, joined; a
    CRC's raw digest is its big-endian bytes
    (docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html).

    Raises:
        ValueError: `want` has an algorithm that nobody here knows.
    """
    if want.algorithm not in _ALGORITHMS:
        raise ValueError(f"unknown digest algorithm {want.algorithm!r}")
    return _Composite(want) if want.parts else _ALGORITHMS[want.algorithm](size)


class Hasher:
    """Hashes the bytes of one file in order, as they pass by.

    >>> hasher = Hasher(5, Digest("git-sha1", "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"))
    >>> hasher.update(b"hel")
    >>> hasher.update(b"lo")
    >>> hasher.matches
    True
    """

    def __init__(self, size: int, want: Digest | None) -> None:
        """Begin a file of `size` bytes; `want` None computes the xxh3-128 alone. Raises as `ordered`."""
        self.size = size
        self.want = want
        self._span = Span(None)
        self._wanted = ordered(want, size) if want is not None else None

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the file, any number of them."""
        self._span.update(chunk)
        if self._wanted is not None:
            self._wanted.update(chunk)

    @property
    def seen(self) -> int:
        """Bytes hashed so far."""
        return self._span.size

    def xxh3(self) -> str:
        """Return our own xxh3-128 of the bytes so far: 32 hex digits."""
        return self._span.xxh3()

    def digest(self) -> Digest | None:
        """Return the digest of the bytes so far, by the algorithm and parts of `want`; None where nothing is wanted."""
        if self.want is None or self._wanted is None:
            return None
        return Digest(self.want.algorithm, self._wanted.digest().hex(), self.want.parts)

    @property
    def matches(self) -> bool:
        """Whether exactly `size` bytes came, and they have the wanted digest, if there is one."""
        return self.seen == self.size and self.digest() == self.want


class _Composite:
    """The digest of the raw digests of the parts; bytes beyond the last part count as one more, so they never match."""

    def __init__(self, want: Digest) -> None:
        self._start = _ALGORITHMS[want.algorithm]
        self._sizes = list(reversed(want.parts))  # of the parts that have not begun
        self._joined = b""  # raw digests of the complete parts
        self._part: Running | None = None
        self._left = 0  # bytes that the present part still lacks

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        rest = memoryview(data)
        while rest:
            if self._part is None:
                self._left = self._sizes.pop() if self._sizes else len(rest)
                self._part = self._start(self._left)
            taken, rest = rest[: self._left], rest[self._left :]
            self._part.update(taken)
            self._left -= len(taken)
            if not self._left:
                self._joined += self._part.digest()
                self._part = None

    def digest(self) -> bytes:
        joined = self._joined + (self._part.digest() if self._part is not None else b"")
        total = self._start(len(joined))
        total.update(joined)
        return total.digest()


class _Crc:
    """A CRC of `awscrt.checksums` with hashlib's manners; 4 or 8 bytes, big-endian."""

    def __init__(self, function: Callable[[Any, int], int], layout: str) -> None:
        self._function = function
        self._layout = layout
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return struct.pack(self._layout, self._value)


_CRCS = {"crc32": ">I", "crc32c": ">I", "crc64nvme": ">Q"}  # and how their raw digests are laid out


def _crc_function(name: str) -> Callable[[Any, int], int]:
    from awscrt import checksums  # lazily: a file without a CRC needs no awscrt

    function: Callable[[Any, int], int] = getattr(checksums, name)
    return function


def _crc(name: str) -> Callable[[int], Running]:
    return lambda size: _Crc(_crc_function(name), _CRCS[name])


def _git_sha1(size: int) -> Running:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


_ALGORITHMS: dict[str, Callable[[int], Running]] = {
    "sha256": lambda size: hashlib.sha256(),
    "sha1": lambda size: hashlib.sha1(usedforsecurity=False),
    "git-sha1": _git_sha1,
    "md5": lambda size: hashlib.md5(usedforsecurity=False),
    **{name: _crc(name) for name in _CRCS},
}
