"""Compares the bytes of one file with the store's digest, whatever order its parts come in."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence

from truss_cache_tasks.errors import RUN_AGAIN, IntegrityError
from truss_cache_tasks.model.hashing import (
    BLOCK,
    Piece,
    SequentialDigests,
    Span,
    combine_crcs,
    find_wrong_pieces,
    is_crc,
    join_digests,
    pieces_of,
    xxh3,
)
from truss_cache_tasks.model.listing import Digest, RemoteFile
from truss_cache_tasks.transfer.body import BadResponse
from truss_cache_tasks.transfer.limits import Limits
from truss_cache_tasks.transfer.parts import Part, overlapping, prefix

_HINT = f"{RUN_AGAIN} See docs/reference/errors.md."
_ACCEPT = "Add --accept-unverified (TRUSS_CACHE_ACCEPT_UNVERIFIED=1) to take the file without a checksum of the store."


class OrderedHasher:
    """Hashes the bytes of a file in order, each once, from all threads that receive them.

    SHA-256, SHA-1 and MD5 need a file's bytes in order. Bytes that come next are hashed from memory; bytes that came
    earlier than their turn are read back from the page cache (about 0.2 CPU seconds a GiB: docs/adr/0007).
    """

    def __init__(self, digests: SequentialDigests, descriptor: int) -> None:
        self.digests = digests
        self._descriptor = descriptor
        self._lock = threading.Lock()

    @property
    def at(self) -> int:
        """Offset of the byte that is hashed next; the file's size at the end.

        Read without the lock, on purpose: it only grows. A thread that finds it too small looks again under the lock.
        """
        return self.digests.at

    @property
    def is_busy(self) -> bool:
        """Whether a thread is hashing now."""
        return self._lock.locked()

    def update(self, chunk: memoryview, offset: int) -> None:
        """Hash `chunk` if it comes next."""
        if self.at != offset:  # checked without the lock first: usual where a file has several connections
            return
        with self._lock:
            self.digests.update(chunk, offset)

    def catch_up(self, end: int, buffer: memoryview, check: Callable[[], None]) -> None:
        """Hash the bytes up to `end`, all of which are written.

        Args:
            buffer: scratch memory.
            check: called now and then; may raise.
        """
        with self._lock:
            while (at := self.at) < end:
                check()
                size = os.preadv(self._descriptor, [buffer[: end - at]], at)
                if not size:
                    raise OSError(f"the temporary is shorter than {end} bytes")
                self.digests.update(buffer[:size], at)


class Verifier:
    """Compares the bytes of one file with the digest that is wanted. Called from all threads of the file.

    It reads back bytes that could not be hashed when they came, so most methods may raise an OSError of the disk.
    """

    def __init__(self, file: RemoteFile, descriptor: int, limits: Limits, *, accept_unverified: bool) -> None:
        """Begin without a wanted digest.

        Args:
            descriptor: of the partial.
            accept_unverified: as in Job.
        """
        self.want: Digest | None = None
        self._hasher: OrderedHasher | None = None  # where the wanted digest takes the bytes in order
        self._pieces: list[Piece] = []
        self._ends: list[int] = []
        self._raws: dict[Piece, bytes] = {}  # the latest digest of each piece that was hashed in order
        self._file = file
        self._descriptor = descriptor
        self._block = min(BLOCK, limits.part_min)
        self._accept_unverified = accept_unverified
        self._refuted_by: str | None = None  # xxh3-128 of the last bytes that did not have a guessed digest

    def expect(self, want: Digest | None) -> None:
        """Set the digest to compare with. Call it before the first byte is hashed."""
        self.want = want
        self._pieces = pieces_of(want, self._file.size) if want is not None else []
        self._ends = [piece.end for piece in self._pieces]
        self._hash_in_order(self._pieces)

    def forget(self, lost: Iterable[Part]) -> None:
        """Expect all pieces that hold bytes of `lost` to be hashed again. With the file's lock held."""
        again = {piece for part in lost for piece in overlapping(self._pieces, part.start, part.end)}
        empty = {piece for piece in self._pieces if piece.start == piece.end}  # no part overlaps them
        self._hash_in_order(sorted(again | empty))

    def _hash_in_order(self, pieces: Sequence[Piece]) -> None:
        if self.want is not None and not is_crc(self.want):
            self._hasher = OrderedHasher(SequentialDigests(self.want, self._file.size, pieces), self._descriptor)

    def new_span(self, start: int) -> Span:
        """Return the digests, without a byte yet, of the part that begins at `start`."""
        return Span(self.want, self._block, start, self._ends)

    def hashed_to(self, at: int) -> int:
        """Return the offset up to which bytes are hashed in order; `at` where the digest needs no order."""
        return at if self._hasher is None else self._hasher.at

    def update(self, part: Part, chunk: memoryview, offset: int, buffer: memoryview, check: Callable[[], None]) -> None:
        """Hash `chunk`, which is written at `offset` of `part`, if its turn has come; `compare` hashes the rest."""
        hasher = self._hasher
        if hasher is None:
            return
        if part.start <= hasher.at < offset:  # the part's turn came while its bytes were coming
            hasher.catch_up(offset + len(chunk), buffer, check)
        else:
            hasher.update(chunk, offset)

    def catch_up(self, parts: Sequence[Part], buffer: memoryview, check: Callable[[], None]) -> None:
        """Hash the complete parts that come next, unless another thread is hashing; `compare` does the rest."""
        hasher = self._hasher
        while hasher is not None and not hasher.is_busy and (end := prefix(parts, hasher.at)) > hasher.at:
            hasher.catch_up(end, buffer, check)

    def compare(self, parts: Sequence[Part], buffer: memoryview, check: Callable[[], None]) -> str:
        """Return the xxh3-128 of the file, whose `parts` are all complete.

        Afterwards `want` is None if it was a guess, two fetches brought equal bytes with another digest, and the job
        accepts that.

        Args:
            buffer: scratch memory.
            check: called now and then; may raise.

        Raises:
            BadResponse: the bytes have another digest; names the pieces, where the store tells their digests.
        """
        spans = [part.span or self.new_span(part.start) for part in parts]
        if self.want is not None:
            raws = self._raws_of(self.want, spans, buffer, check)
            got = join_digests(self.want, raws)
            if got != self.want:
                self._refuse(self.want, got, raws, xxh3(spans))
        return xxh3(spans)

    def _refuse(self, want: Digest, got: Digest, raws: Sequence[bytes], ours: str) -> None:
        """Raise BadResponse; but forget `want` if it is a guess, the same bytes came twice, and the job accepts that.

        Args:
            raws: the digests of the pieces that came.
            ours: xxh3-128 of the bytes.
        """
        before, self._refuted_by = self._refuted_by, ours
        if not want.is_guess or ours != before:
            raise self._mismatch(want, got, raws)
        if not self._accept_unverified:
            said = (
                f"two fetches brought the same bytes, of {got}, expected {want} by the ETag: it is no MD5 of the bytes"
            )
            raise BadResponse(IntegrityError(f"{self._file.path}: {said}", hint=_ACCEPT))
        self.want = None

    def _raws_of(
        self, want: Digest, spans: Sequence[Span], buffer: memoryview, check: Callable[[], None]
    ) -> list[bytes]:
        hasher = self._hasher
        if hasher is None:
            return combine_crcs(want, self._pieces, spans)
        hasher.catch_up(self._file.size, buffer, check)
        self._raws |= hasher.digests.raws
        return [self._raws[piece] for piece in self._pieces]

    def _mismatch(self, want: Digest, got: Digest, raws: Sequence[bytes]) -> BadResponse:
        numbers, where = find_wrong_pieces(want, raws), ""
        if numbers:
            first = numbers[0]
            start, end = self._pieces[first]
            got, want = (Digest(want.algorithm, value) for value in (raws[first].hex(), want.part_values[first]))
            where = f" in bytes {start}-{end - 1}"
        error = IntegrityError(f"{self._file.path}: got {got}, expected {want}{where}", hint=_HINT)
        return BadResponse(error, [self._pieces[number] for number in numbers])
