"""What a source returns: a pinned Listing of RemoteFiles, and the Location of one.

Everything in a server's answer is checked by `listed_file` and `listed_digest`, and nowhere else: its names and numbers
become paths, headers and offsets later on.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from truss_cache_tasks.errors import CacheTaskError, WrongAnswer
from truss_cache_tasks.model.credentials import Secret
from truss_cache_tasks.model.records import DIGITS

_MOST_PAGES_WITHOUT_NEWS = 1000  # in a row; the filter of a store may empty some pages, but not so many

UNVERSIONED = "none:"  # begins a version that its source made up
_VERSION = re.compile(r"[!-~]+")  # becomes part of headers and URLs
_HINT = "Check the endpoint variables, and what is on the way: a mirror or a proxy may have changed the answer."


@dataclass(frozen=True)
class Digest:
    """A digest with its algorithm, as the store gives it.

    Attributes:
        algorithm: `sha256`, `git-sha1` (of ``blob {size}\\0`` + data), `sha1`, `md5`, `crc32`, `crc32c` or `crc64nvme`;
            `xxh3-128`, which is ours, only in a listing in detail of a folder.
        value: lower-case hex; CRCs big-endian and zero-padded to their width.
        parts: sizes in bytes of the parts of a composite S3 checksum (`value` is then the digest of the parts'
            raw digests, joined); empty for a digest of the whole file.
        part_values: the digest of each part as the store gives it, hex as `value`; empty where it does not. Only used
            where they join to `value`, so two digests are equal whatever these are.
        is_guess: the store did not say that this is a digest: an ETag that looks like an MD5. Some servers with the S3
            API make such ETags of something else.
    """

    algorithm: str
    value: str
    parts: tuple[int, ...] = ()
    part_values: tuple[str, ...] = field(default=(), compare=False, repr=False)
    is_guess: bool = field(default=False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.algorithm}{f' (composite of {len(self.parts)})' if self.parts else ''} {self.value}"


@dataclass(frozen=True)
class RemoteFile:
    """One file of one pinned revision, as the store lists it.

    Attributes:
        path: relative to the entry's repo or prefix, POSIX, never empty; not yet checked for safety.
        size: bytes.
        version: the store's name for exactly these bytes (git blob id, ETag, generation, mtime and size). Where the
            store has none, UNVERSIONED and a text that no other listing has: nothing tells what bytes these are.
        key: the full object key, the path in the repo, or the absolute path of a local file.
        digest: from the listing; None where only `locate` gives it (S3), or the store has none.
        encoding: `gzip` where the stored bytes are gzip (`size` and `digest` are of these) and readers see the decoded
            content; else "".
        version_id: S3: the version id, by which a bucket with versioning returns these bytes also after they were
            replaced; "" where it was not asked for.
    """

    path: str
    size: int
    version: str
    key: str
    digest: Digest | None = None
    encoding: str = ""
    version_id: str = ""

    @property
    def is_unversioned(self) -> bool:
        """Whether the store names no version of it."""
        return self.version.startswith(UNVERSIONED)


@dataclass(frozen=True)
class FilePin:
    """The version of one file that a listing has to contain.

    Attributes:
        key: as in RemoteFile; of a `file://` source the path below the folder.
        version: as in RemoteFile: a generation, an ETag; "" for any.
        version_id: as in RemoteFile; "" for the current one.
        digest: as the store or an earlier fetch gave it; None for any.
    """

    key: str
    version: str = ""
    version_id: str = ""
    digest: Digest | None = None


@dataclass(frozen=True)
class Pins:
    """What an earlier listing of a request found, and another one has to find again. Each store uses what it can.

    Attributes:
        revision: the full commit that the request's revision stands for at the Hub; "": the store resolves it.
        files: the files, each in exactly this version; None for all that are there now. Not read with a `revision`,
            which fixes all files.
        in_detail: each of `files` is returned with its digest and its version id, where asking for it gives these.
        known: the whole listing, where a lock file has it. A source whose files need no listing to be located returns
            it without a request, at least those of the Hub, GCS and S3; any other reads `revision` and `files`.
    """

    revision: str = ""
    files: tuple[FilePin, ...] | None = None
    in_detail: bool = False
    known: Listing | None = None


UNPINNED = Pins()


@dataclass(frozen=True)
class Listing:
    """All files of one pinned revision, before the entry's patterns are applied.

    Attributes:
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
    """How the bytes of one file are read, by ranges.

    Attributes:
        url: http(s), or `file://` + absolute quoted path; holds no secret.
        headers: for every GET, Authorization included; never printed.
        validator: names the version in every answer: an ETag (quoted as on the wire), a generation, or for `file://`
            ``"{mtime_ns}-{size}"``; None where the store has neither. An answer with another one is of another version;
            one without is accepted where a digest is known, or `pins_version`.
        validator_header: the response header that carries it (`ETag`, `X-Goog-Generation`); "" where none is compared:
            several servers have the same bytes under ETags of their own.
        pins_version: the URL itself names the version (`generation=`, a commit).
        expires: seconds since the epoch when url or headers go stale; None for never.
        digest: the store's digest, where the listing had none.
        fetch_digest: where listing and location have no digest: asks the store for it. Used for a file that is fetched
            in parts, as the headers of a part tell no digest of the file.
        root: of a local file: the folder, free of links, from which `url` is reached; below it no link is followed.
        digest_from_headers: where listing and location have no digest: returns the one that the headers of an answer
            with the whole file tell.
        elsewhere: where other servers have the same bytes: called when this one is unavailable; returns whether
            `locate` gives another place now.
        explain: in place of the source's own, for a place whose refusals mean something else.
        secret_query: what is added to the query of `url` when a request is sent, such as a signature, as it is on the
            wire; not sent to where a redirect leads.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    validator: str | None = None
    validator_header: str = "ETag"
    pins_version: bool = False
    expires: float | None = None
    digest: Digest | None = None
    fetch_digest: Callable[[], Digest | None] | None = None
    digest_from_headers: Callable[[Mapping[str, str]], Digest | None] | None = None
    root: str | None = None
    elsewhere: Callable[[], bool] | None = None
    explain: Callable[[RemoteFile, int, Mapping[str, str], bytes], CacheTaskError] | None = None
    secret_query: Secret | None = None

    @property
    def secret_url(self) -> str:
        """`url` with `secret_query`: only for the request itself, never for a message or a log."""
        return with_query(self.url, self.secret_query.reveal()) if self.secret_query is not None else self.url

    def __repr__(self) -> str:
        return f"Location({self.url.partition('?')[0]!r}, headers=***)"


def with_query(url: str, query: str) -> str:
    """Return `url` with `query` added to its query.

    >>> with_query("https://h/p", "a=1"), with_query("https://h/p?b=2", "a=1"), with_query("https://h/p", "")
    ('https://h/p?a=1', 'https://h/p?b=2&a=1', 'https://h/p')
    """
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


# Checks of a server's answer


def listed_file(
    store: str,
    *,
    path: object,
    size: object,
    version: object,
    key: object,
    digest: Digest | None = None,
    encoding: str = "",
) -> RemoteFile:
    """Check the fields of a listed file, which may be any JSON or XML value, and return its RemoteFile.

    Whether the path is safe on a disk is checked by the plan, for the selected files only.

    Args:
        store: what was listed, for people (`org/name`, `s3://bucket/prefix`).

    Raises:
        WrongAnswer: a field has a wrong type or an impossible value.
    """
    if fault := fault_of_file(path=path, size=size, version=version, key=key):
        raise wrong_answer(store, *fault)
    assert isinstance(path, str)
    assert isinstance(key, str)
    assert isinstance(size, int)
    assert isinstance(version, str)
    return RemoteFile(path=path, size=size, version=version, key=key, digest=digest, encoding=encoding)


def listed_digest(store: str, of: object, algorithm: str, value: object, parts: Iterable[object] = ()) -> Digest:
    """Check the digest that a store gives for the file `of`, and return it. Its value becomes a file name.

    Args:
        algorithm: one of DIGITS.
        value: lower-case hex of exactly the algorithm's width; anything else is refused.
        parts: as in Digest.

    Raises:
        WrongAnswer: the value is no such digest, or the size of a part is none.
    """
    sizes = tuple(parts)
    if fault := fault_of_digest(algorithm, value, sizes):
        raise wrong_answer(store, f"path {quoted(of)}: {fault[0]}", fault[1])
    assert isinstance(value, str)
    return Digest(algorithm, value, tuple(size for size in sizes if isinstance(size, int)))


def fault_of_file(*, path: object, size: object, version: object, key: object) -> tuple[str, str] | None:
    """Return what is wrong with the fields of a file, as (what was found, what was expected); None if nothing is.

    Whether the path is safe on a disk is not looked at.
    """
    if not isinstance(path, str) or not path or not isinstance(key, str) or not key:
        return f"path {quoted(path)}" + ("" if key == path else f" of the key {quoted(key)}"), "text"
    if not _is_size(size):
        return f"path {quoted(path)}: size {quoted(size)}", "a number of bytes"
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        return f"path {quoted(path)}: version {quoted(version)}", "printable ASCII"
    return None


def fault_of_digest(algorithm: str, value: object, parts: Iterable[object] = ()) -> tuple[str, str] | None:
    """Return what is wrong with a digest, as `fault_of_file` does.

    Args:
        algorithm: one of DIGITS.
    """
    digits = DIGITS[algorithm]
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
        return f"{algorithm} {quoted(value)}", f"{digits} lower-case hex digits"
    for size in parts:
        if not _is_size(size):
            return f"a part of size {quoted(size)}", "a number of bytes"
    return None


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63  # a bool is an int too


def wrong_answer(store: str, found: str, want: str) -> WrongAnswer:
    """Return the error for an answer of `store` that cannot be right."""
    return WrongAnswer(f"{store}: the store's answer is wrong: {found}, expected {want}", hint=_HINT)


class PaginationGuard:
    """Checks the pages of a listing, and refuses one that does not end."""

    def __init__(self, store: str, first: Hashable = None) -> None:
        """Begin before the first page of `store`; `first` is the cursor that requests it."""
        self._store = store
        self._cursors = {first}
        self._names: set[str] = set()
        self._without_news = 0

    def check(self, names: Iterable[str], following: Hashable | None) -> None:
        """Check one page.

        Args:
            names: of all its files.
            following: the cursor that requests the next page; None on the last one.

        Raises:
            WrongAnswer: an earlier page had the same cursor, or too many pages in a row had no new name.
        """
        known = len(self._names)
        self._names.update(names)
        self._without_news = 0 if len(self._names) > known else self._without_news + 1
        if following is None:
            return
        if following in self._cursors:
            raise wrong_answer(self._store, f"a page names an earlier one as the next: {quoted(following)}", "an end")
        if self._without_news >= _MOST_PAGES_WITHOUT_NEWS:
            raise wrong_answer(self._store, f"{self._without_news} pages in turn without a new name", "an end")
        self._cursors.add(following)


def quoted(value: object) -> str:
    """Return the repr of any value of an answer, shortened and without control characters, for a message."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
