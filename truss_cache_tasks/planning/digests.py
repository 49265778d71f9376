"""Bytes in, digests out: the store's own digest of a file and our xxh3-128, in one pass over chunks in memory."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any, Protocol

from truss_cache_tasks.planning.listing import Digest


class Hasher:
    """Hashes the bytes of one file in order, as they pass by.

    A composite digest (`want.parts`) is S3's checksum of checksums: the digest of the parts' raw digests, joined; a
    CRC's raw digest is its big-endian bytes
    (docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html).

    >>> hasher = Hasher(5, Digest("git-sha1", "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"))
    >>> hasher.update(b"hel")
    >>> hasher.update(b"lo")
    >>> hasher.matches
    True
    """

    def __init__(self, size: int, want: Digest | None) -> None:
        """Begin a file of `size` bytes; `want` None computes the xxh3-128 alone.

        Raises:
            ValueError: `want` has an algorithm that nobody here knows.
        """
        import xxhash

        if want is not None and want.algorithm not in _ALGORITHMS:
            raise ValueError(f"unknown digest algorithm {want.algorithm!r}")
        self.size = size
        self.want = want
        self.seen = 0  # bytes hashed so far
        self._xxh3: _Running = xxhash.xxh3_128()
        self._wanted: _Running | None = None
        if want is not None:
            self._wanted = _Composite(want) if want.parts else _ALGORITHMS[want.algorithm](size)

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the file, any number of them."""
        self.seen += len(chunk)
        self._xxh3.update(chunk)
        if self._wanted is not None:
            self._wanted.update(chunk)

    def xxh3(self) -> str:
        """Return our own xxh3-128 of the bytes so far: 32 hex digits."""
        return self._xxh3.digest().hex()

    def digest(self) -> Digest | None:
        """Return the digest of the bytes so far, by the algorithm and parts of `want`; None where nothing is wanted."""
        if self.want is None or self._wanted is None:
            return None
        return Digest(self.want.algorithm, self._wanted.digest().hex(), self.want.parts)

    @property
    def matches(self) -> bool:
        """Whether exactly `size` bytes came, and they have the wanted digest, if there is one."""
        return self.seen == self.size and self.digest() == self.want


class _Running(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> object: ...
    def digest(self) -> bytes: ...


class _Composite:
    """The digest of the raw digests of the parts; bytes beyond the last part count as one more, so they never match."""

    def __init__(self, want: Digest) -> None:
        self._start = _ALGORITHMS[want.algorithm]
        self._sizes = list(reversed(want.parts))  # of the parts that have not begun
        self._joined = b""  # raw digests of the complete parts
        self._part: _Running | None = None
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


def _crc(name: str, layout: str) -> Callable[[int], _Running]:
    def start(size: int) -> _Running:
        from awscrt import checksums  # lazily: a file without a CRC needs no awscrt

        return _Crc(getattr(checksums, name), layout)

    return start


def _git_sha1(size: int) -> _Running:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


_ALGORITHMS: dict[str, Callable[[int], _Running]] = {
    "sha256": lambda size: hashlib.sha256(),
    "sha1": lambda size: hashlib.sha1(usedforsecurity=False),
    "git-sha1": _git_sha1,
    "md5": lambda size: hashlib.md5(usedforsecurity=False),
    "crc32": _crc("crc32", ">I"),
    "crc32c": _crc("crc32c", ">I"),
    "crc64nvme": _crc("crc64nvme", ">Q"),
}
