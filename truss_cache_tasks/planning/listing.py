"""What a source answers: a pinned Listing of RemoteFiles, and the Location of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Digest:
    """A digest with its algorithm, as the store gives it.

    Args:
        algorithm: `sha256`, `git-sha1` (of ``blob {size}\\0`` + data), `sha1`, `md5`, `crc32`, `crc32c` or `crc64nvme`.
        value: lower-case hex; CRCs big-endian and zero-padded to their width.
        parts: sizes in bytes of the parts of a composite S3 checksum (`value` is then the digest of the parts'
            raw digests, joined); empty for a digest of the whole file.
        part_values: the digest of each part as the store tells it, hex as `value`; empty where it does not. Only
            believed where they make `value`, so two digests are equal whatever these are.
    """

    algorithm: str
    value: str
    parts: tuple[int, ...] = ()
    part_values: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.algorithm}{f' (composite of {len(self.parts)})' if self.parts else ''} {self.value}"


@dataclass(frozen=True)
class RemoteFile:
    """One file of one pinned revision, as the store lists it.

    Args:
        path: relative to the entry's repo or prefix, POSIX, never empty; not yet checked for safety.
        size: bytes.
        version: the store's own name for exactly these bytes (git blob id, ETag, generation, mtime and size).
        key: the full object key, the path in the repo, or the absolute path of a local file.
        digest: what the listing itself tells; None where only `locate` knows (S3) or nobody does.
    """

    path: str
    size: int
    version: str
    key: str
    digest: Digest | None = None


@dataclass(frozen=True)
class Listing:
    """Every file of one pinned revision, unfiltered.

    Args:
        revision: the commit that a Hub revision resolved to; "" for buckets and folders.
        files: 0..N files, in any order, folder markers left out.
        warnings: one sentence each, for people.
        single: the URI names this one object exactly (then `files` has one element).
    """

    revision: str
    files: tuple[RemoteFile, ...]
    warnings: tuple[str, ...] = ()
    single: bool = False


@dataclass(frozen=True, repr=False)
class Location:
    """Where one file can be read by ranges now.

    Args:
        url: http(s), or `file://` + absolute quoted path; holds no secret.
        headers: for every GET, Authorization included; never printed.
        validator: what every answer must carry: an ETag (quoted as on the wire), a generation, or for `file://`
            ``"{mtime_ns}-{size}"``; None where the store has neither.
        validator_header: the response header that carries it (`ETag`, `X-Goog-Generation`).
        expires: seconds since the epoch when url or headers go stale; None for never.
        digest: the store's digest, where the listing had none.
        look: where both have none: asks for the digest of a file that is to come in parts, whose answers tell none.
        digest_of: where both have none: reads the digest out of the headers of an answer that brings the whole file.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    validator: str | None = None
    validator_header: str = "ETag"
    expires: float | None = None
    digest: Digest | None = None
    look: Callable[[], Digest | None] | None = None
    digest_of: Callable[[Mapping[str, str]], Digest | None] | None = None

    def __repr__(self) -> str:
        return f"Location({self.url.partition('?')[0]!r}, headers=***)"
