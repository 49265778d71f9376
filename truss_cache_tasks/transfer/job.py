"""What `transfer/` and its callers exchange: Job in, Done or Failed out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.model.listing import Digest, Location, RemoteFile


class Partial(Protocol):
    """A file that `store/` opened for writing, and that `store/` closes, publishes or drops."""

    @property
    def descriptor(self) -> int:
        """An open file descriptor, read and write, at no particular offset."""
        ...

    @property
    def journal(self) -> int | None:
        """A descriptor of the list of complete parts, for reading and appending; None where no part is kept."""
        ...


Explain = Callable[[RemoteFile, int, Mapping[str, str], bytes], CacheTaskError]


@dataclass(frozen=True)
class Job:
    """One file to fetch.

    Args:
        file: what is wanted; exactly `file.size` bytes.
        locate: called in a worker thread when the job begins, and again when the location expires or its credential is
            refused. What it raises fails the job, except TransientError, which is retried.
        partial: where the bytes go, from offset 0.
        explain: makes the error of a refused GET: (file, status, headers of any case, at most the first 4 KiB of the
            body) -> the error. A TransientError is retried. None for a plain message.
        accept_unverified: whether the file is accepted unverified if the store's digest is a guess (`Digest.is_guess`)
            and two complete fetches brought equal bytes that have another digest.
    """

    file: RemoteFile
    locate: Callable[[], Location]
    partial: Partial
    explain: Explain | None = None
    accept_unverified: bool = False


@dataclass(frozen=True)
class Done:
    """All bytes of `job` are in its partial.

    Args:
        digest: the store's digest, which the bytes have; None where the store offers none, or where its digest was a
            guess that turned out wrong (`Job.accept_unverified`).
        xxh3: our own xxh3-128 of the bytes, hex.
    """

    job: Job
    digest: Digest | None
    xxh3: str


@dataclass(frozen=True)
class Failed:
    """The fetch of `job` failed. Of its partial only the parts that its journal lists may be resumed."""

    job: Job
    error: CacheTaskError
