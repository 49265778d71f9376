"""The events of a run, as values, and the Reporter that receives them.

The core formats no text for people. It passes events to a Reporter; the display (`app/display/`), tests and callers
of `fetch` decide what to show. Code that does not know the name of an entry leaves `entry` empty; `for_entry` sets it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from truss_cache_tasks.errors import CacheTaskError

How = Literal["fetched", "claimed", "repaired", "fresh"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to an entry.

    Attributes:
        entry: the entry's name, "" until `for_entry` sets it.
    """

    entry: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started(Event):
    """Work on a stale entry began.

    Attributes:
        reasons: why the entry is stale, one clause each; () where the run is forced, or the entry is fresh meanwhile.
        lists: whether the store is certainly listed; else the files on disk may suffice.
        forced: whether everything is hashed and resolved again.
    """

    reasons: tuple[str, ...]
    lists: bool
    forced: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned(Event):
    """What has to be fetched is known.

    Attributes:
        files, size: of the whole entry; size in bytes.
        missing_files, missing_size: of these, what is not on this machine.
    """

    files: int
    size: int
    missing_files: int
    missing_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved(Event):
    """The run moved a pin: the commit that this machine has of a moving revision. Other entries of it are stale now.

    Attributes:
        revision: as in config.yaml, such as `main`.
        before, after: commits.
    """

    revision: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashing(Event):
    """Files that are on this disk are hashed: once at the start with `size` 0, then for every 8 MiB or more.

    Attributes:
        size: bytes that were hashed since the event before.
        total: bytes of all files that are to be hashed; where one has several copies, more may be hashed.
    """

    size: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Received(Event):
    """Bytes of a file were written to its partial.

    Attributes:
        path: of the file in its store's listing.
        size: bytes; negative for bytes that were counted before and have to be fetched again.
        resumed: whether an earlier run had received them.
    """

    path: str
    size: int
    resumed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrying(Event):
    """An attempt failed and will be repeated.

    Attributes:
        path: of the file; "" for a listing.
        cause: one line, no secret.
        attempt: 1 is the first retry.
        delay_s: seconds until it begins.
        is_requested: the server asked for a wait (`Retry-After`), as one that limits the rate does.
    """

    path: str = ""
    cause: str
    attempt: int
    delay_s: float
    is_requested: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a lock, as its holder says. Host and pid may be those of another machine or container.

    Attributes:
        since: seconds since the epoch, UTC, by the holder's clock.
        waits: whether it waits for another process itself.
        done, size: bytes that have come for the entry that it fetches, of all that were missing; None where it does
            not say.
    """

    host: str
    pid: int
    since: float
    waits: bool = False
    done: int | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting(Event):
    """Another process, or another entry of this one, holds a lock that is needed: reported after 1 s, then every 10 s.

    Attributes:
        lock: what it protects: the entry, one file that is being fetched, or the records of a cache root.
        path: if `lock` is "file", the path of that file in its store's listing; else the cache root.
        holder: who holds it; None where that is not known (as where huggingface_hub holds it).
        again: whether this wait was reported before.
    """

    lock: Literal["entry", "file", "root"]
    path: str
    holder: Holder | None = None
    again: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified(Event):
    """All bytes of a file are there, and have the store's digest if it has one.

    Attributes:
        size: bytes.
        digest: `algorithm:hex` of the store's digest; "" where it has none, and the file is unverified.
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Published(Event):
    """A file that was fetched is in the cache under its final name, not yet visible in its entry.

    Attributes:
        size: bytes.
    """

    path: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed(Event):
    """The entry is fresh.

    Attributes:
        how: `fetched` from its store (or found whole after a listing), `claimed` as it was, `repaired` offline, or
            `fresh`: another process had done it.
        files, size, unverified: of the whole entry; size in bytes, `unverified` files without a digest of the store.
        fetched_files, fetched_size: of these, what this run received.
        path: the folder to open.
    """

    how: How
    files: int
    size: int
    unverified: int
    fetched_files: int = 0
    fetched_size: int = 0
    path: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refetching(Event):
    """Wrong bytes of a file arrived: they are fetched once more.

    Attributes:
        cause: one line, no secret.
    """

    path: str
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evicted(Event):
    """Unclaimed files of a cache root were removed, so that the fetch fits into TRUSS_CACHE_MAX_BYTES.

    Attributes:
        path: of the cache root.
        files, size: files and links; bytes that were freed on the disk.
    """

    path: str
    files: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Relisting(Event):
    """An object was replaced after it was listed: the store is listed once more."""

    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Warned(Event):
    """A warning; the run continues.

    Attributes:
        message: one line without `warning: `, no secret.
    """

    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed(Event):
    """The entry failed; what was good before is still in place."""

    error: CacheTaskError


class Reporter(Protocol):
    """Receives events, from any thread. An exception that it raises ends the run of the entry.

    `fetch` raises it after the other entries ended.
    """

    def __call__(self, event: Event, /) -> None:
        """Take note of `event`."""
        ...


def ignore_events(event: Event, /) -> None:
    """Ignore the event: the default Reporter."""


def for_entry(reporter: Reporter, entry: str) -> Reporter:
    """Return a Reporter that passes events on with the name of their entry."""
    if reporter is ignore_events:
        return reporter
    return lambda event: reporter(replace(event, entry=entry))
