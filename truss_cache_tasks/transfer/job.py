"""The words between `transfer/` and its callers: Job in, Done or Failed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.planning.listing import Digest, Location, RemoteFile


class Partial(Protocol):
    """A temporary that `store/` opened for writing; it stays `store/`'s to close, publish or drop."""

    @property
    def descriptor(self) -> int:
        """An open file descriptor, read and write, at no particular offset."""
        ...


@dataclass(frozen=True)
class Job:
    """One file to move: `locate` is asked when its turn comes, and again when the location expires."""

    file: RemoteFile
    locate: Callable[[], Location]
    partial: Partial


@dataclass(frozen=True)
class Done:
    """All bytes of `job` are in its partial.

    Args:
        digest: the store's digest that the bytes were compared with, equal; None where the store offers none.
        xxh3: our own xxh3-128 of the bytes, hex.
    """

    job: Job
    digest: Digest | None
    xxh3: str


@dataclass(frozen=True)
class Failed:
    """`job` will not come; its partial holds nothing that counts."""

    job: Job
    error: CacheTaskError


class Report(Protocol):
    """Told of every run of bytes that arrived, from any thread."""

    def __call__(self, file: RemoteFile, size: int, /) -> None: ...


def silent(file: RemoteFile, size: int, /) -> None:
    """The report that tells nobody."""
