"""What the bytes of one file are compared with, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from truss_cache_tasks.errors import IntegrityError
from truss_cache_tasks.model.hashing import (
    BLOCK,
    InOrder,
    Piece,
    Span,
    combined,
    combines,
    joined,
    pieces_of,
    wrong_pieces,
    xxh3,
)
from truss_cache_tasks.model.listing import Digest, RemoteFile
from truss_cache_tasks.transfer.answers import Wrong
from truss_cache_tasks.transfer.disk import disk_errors
from truss_cache_tasks.transfer.following import Follower
from truss_cache_tasks.transfer.limits import Limits
from truss_cache_tasks.transfer.parts import Part, overlapping, prefix

_AGAIN = "Run it again; see docs/reference/errors.md."
_ACCEPT = "Add --accept-unverified (TRUSS_CACHE_ACCEPT_UNVERIFIED=1) to take the file without a checksum of the store."


class Judge:
    """Knows which digest is wanted, and whether the bytes have it. Called from all threads of the file."""

    def __init__(self, file: RemoteFile, descriptor: int, limits: Limits, *, accept_unverified: bool) -> None:
        """Begin without a wanted digest.

        Args:
            descriptor: of the partial.
            accept_unverified: as in Job.
        """
        self.want: Digest | None = None
        self._follower: Follower | None = None  # where that one wants the bytes in order
        self._pieces: list[Piece] = []
        self._ends: list[int] = []
        self._raws: dict[Piece, bytes] = {}  # what followers found, the latest
        self._file = file
        self._descriptor = descriptor
        self._block = min(BLOCK, limits.part_min)
        self._accept_unverified = accept_unverified
        self._refuted_by: str | None = None  # xxh3-128 of the last bytes that a guessed digest is not of

    def expect(self, want: Digest | None) -> None:
        """Compare the bytes, of which none was seen yet, with `want`."""
        self.want = want
        self._pieces = pieces_of(want, self._file.size) if want is not None else []
        self._ends = [piece.end for piece in self._pieces]
        self._follow(self._pieces)

    def forget(self, lost: Iterable[Part]) -> None:
        """Hash all pieces that hold bytes of `lost` again, when these come. With the file's lock held."""
        again = {piece for part in lost for piece in overlapping(self._pieces, part.start, part.end)}
        self._follow(
            sorted(again | {piece for piece in self._pieces if piece.start == piece.end})
        )  # these cost nothing

    def _follow(self, pieces: Sequence[Piece]) -> None:
        if self.want is not None and not combines(self.want):
            self._follower = Follower(InOrder(self.want, self._file.size, pieces), self._descriptor)

    def span(self, start: int) -> Span:
        """Begin the digests of the part that begins at `start`."""
        return Span(self.want, self._block, start, self._ends)

    def seen(self, at: int) -> int:
        """Return up to where the bytes are hashed, before `at` or beyond; `at` itself where no order is wanted."""
        return at if self._follower is None else self._follower.at

    def see(self, part: Part, chunk: memoryview, offset: int, buffer: memoryview, check: Callable[[], None]) -> None:
        """Hash `chunk`, which is written at `offset` of `part`, if its turn has come; see `compare` for the rest."""
        follower = self._follower
        if follower is None:
            return
        if part.start <= follower.at < offset:  # its turn came while it was under way
            with disk_errors(self._file):
                follower.catch_up(offset + len(chunk), buffer, check)
        else:
            follower.pass_on(chunk, offset)

    def follow(self, parts: Sequence[Part], buffer: memoryview, check: Callable[[], None]) -> None:
        """Hash what became the prefix by a part's last bytes, unless another thread is at it; see `compare`."""
        follower = self._follower
        with disk_errors(self._file):
            while follower is not None and not follower.is_busy and (end := prefix(parts, follower.at)) > follower.at:
                follower.catch_up(end, buffer, check)

    def compare(self, parts: Sequence[Part], buffer: memoryview, check: Callable[[], None]) -> str:
        """Return the xxh3-128 of the file, whose `parts` are all complete.

        Afterwards `want` is None where it was a guess that two whole fetches refuted, and the job accepts that.

        Args:
            buffer: scratch memory.
            check: called now and then; may raise.

        Raises:
            Wrong: the bytes have another digest than the wanted one; names the pieces, where the store tells theirs.
        """
        spans = [part.span or self.span(part.start) for part in parts]
        if self.want is not None:
            raws = self._raws_of(self.want, spans, buffer, check)
            got = joined(self.want, raws)
            if got != self.want:
                self._refuse(self.want, got, raws, xxh3(spans))
        return xxh3(spans)

    def _refuse(self, want: Digest, got: Digest, raws: Sequence[bytes], ours: str) -> None:
        """Raise Wrong; or forget `want` where it is a guess that the same bytes refuted twice, and the job takes them.

        Args:
            raws: of the pieces, as they came.
            ours: xxh3-128 of the bytes.
        """
        before, self._refuted_by = self._refuted_by, ours
        if not want.is_guess or ours != before:
            raise self._wrong(want, got, raws)
        if not self._accept_unverified:
            said = (
                f"two fetches brought the same bytes, of {got}, expected {want} by the ETag: it is no MD5 of the bytes"
            )
            raise Wrong(IntegrityError(f"{self._file.path}: {said}", hint=_ACCEPT))
        self.want = None

    def _raws_of(
        self, want: Digest, spans: Sequence[Span], buffer: memoryview, check: Callable[[], None]
    ) -> list[bytes]:
        follower = self._follower
        if follower is None:
            return combined(want, self._pieces, spans)
        with disk_errors(self._file):
            follower.catch_up(self._file.size, buffer, check)
        self._raws |= follower.digests.raws
        return [self._raws[piece] for piece in self._pieces]

    def _wrong(self, want: Digest, got: Digest, raws: Sequence[bytes]) -> Wrong:
        numbers, where = wrong_pieces(want, raws), ""
        if numbers:
            first = numbers[0]
            start, end = self._pieces[first]
            got, want = (Digest(want.algorithm, value) for value in (raws[first].hex(), want.part_values[first]))
            where = f" in bytes {start}-{end - 1}"
        error = IntegrityError(f"{self._file.path}: got {got}, want {want}{where}", hint=_AGAIN)
        return Wrong(error, [self._pieces[number] for number in numbers])
