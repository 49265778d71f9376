"""The lock file `model_cache.lock` as values: what is locked, and how a config and a manifest differ from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from truss_cache_tasks.errors import RUN_AGAIN, CacheTaskError
from truss_cache_tasks.model.keys import ContentId, RequestKey, SnapshotKey, request_key, snapshot_key
from truss_cache_tasks.model.listing import (
    Digest,
    FilePin,
    Listing,
    Pins,
    RemoteFile,
)
from truss_cache_tasks.model.patterns import select
from truss_cache_tasks.model.plan import origin
from truss_cache_tasks.model.records import DIGITS, LOCK_NAME, Manifest
from truss_cache_tasks.model.request import Request, SourceRef

OURS = "xxh3-128"  # the algorithm of our own digest, for files of which the store has none
PinKey = tuple[str, str]  # source and revision of a request, as its canonical form has them


def pin_key(request: Request) -> PinKey:
    """Return what all requests have in common that share a pin."""
    return str(request.source), request.revision


def format_pin(pin: PinKey) -> str:
    """Return a source and its revision for people.

    >>> format_pin(("hf://org/name", "main")), format_pin(("gs://bucket/m", ""))
    ('hf://org/name@main', 'gs://bucket/m')
    """
    return "@".join(filter(None, pin))


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedFile:
    """One file of a lock: a line.

    Attributes:
        path, size, version, version_id, encoding: as in RemoteFile. `version` is "" for a file of this machine, whose
            version means nothing on another one.
        digest: `algorithm:hex` of the store's digest, as a manifest has it; `xxh3-128:hex` is our own, where the store
            has none; "" where neither is known, and size and version alone tell the bytes.
    """

    path: str
    size: int
    digest: str = ""
    version: str = ""
    version_id: str = ""
    encoding: str = ""

    @property
    def store_digest(self) -> Digest | None:
        """The store's digest, where the bytes of the object can be compared with it alone."""
        algorithm, _, value = self.digest.partition(":")
        algorithm = algorithm.removesuffix("-gzip")
        return Digest(algorithm, value) if algorithm in DIGITS else None

    def is_met_by(self, *, digest: str, xxh3: str, content_id: ContentId) -> bool:
        """Return whether bytes of the same size are the locked ones.

        Digests of two algorithms cannot be compared: then the version of the object decides.

        Args:
            digest: of the bytes, `algorithm:hex` of the store's digest; "" for none.
            xxh3: our xxh3-128 of them; "" if it is not known.
            content_id: names them, with their version.
        """
        algorithm = self.digest.partition(":")[0]
        if algorithm == OURS and xxh3:
            return self.digest == f"{OURS}:{xxh3}"
        if algorithm and algorithm == digest.partition(":")[0]:
            return self.digest == digest
        return bool(self.version) and content_id.removesuffix(" decoded").endswith(f"@{self.version}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedEntry:
    """The files that one request resolved to.

    Attributes:
        source, revision: of the request, as its canonical form has them.
        single: the URI names one object (`Listing.single`).
        files: 1..N, sorted by path.
    """

    source: str
    revision: str
    single: bool
    files: tuple[LockedFile, ...]

    @property
    def pin(self) -> PinKey:
        """Source and revision."""
        return self.source, self.revision


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """What a lock file says of one request.

    Attributes:
        commit: of the Hub; "" for other stores.
        single: as in LockedEntry.
        files: of the request; where `is_complete` is False, those of other requests to this source and revision.
        is_complete: the lock has this very request, so `files` are all its files.
    """

    commit: str
    single: bool
    files: tuple[LockedFile, ...]
    is_complete: bool

    def listing(self, source: SourceRef) -> Listing:
        """Return the listing that the lock stands for."""
        return Listing(
            self.commit, tuple(remote_file(file, source, self.single) for file in self.files), (), self.single
        )

    def pins(self, source: SourceRef) -> Pins:
        """Return what `Source.listing` has to find, for a complete lock."""
        known = self.listing(source)
        pins = (FilePin(file.key, file.version, file.version_id, file.digest) for file in known.files)
        return Pins(revision=self.commit, files=tuple(pins), known=known)

    @property
    def snapshot(self) -> SnapshotKey:
        """A key that changes with what is locked."""
        return snapshot_key(self.commit, [(file.path, file.size, file.digest or file.version) for file in self.files])


@dataclass(frozen=True, kw_only=True)  # no slots: they exclude a cached_property
class LockFile:
    """A whole lock file.

    Attributes:
        pins: source and revision of the Hub -> commit: one for all requests to this revision.
        entries: by request key.
    """

    pins: Mapping[PinKey, str] = field(default_factory=dict)
    entries: Mapping[RequestKey, LockedEntry] = field(default_factory=dict)

    @cached_property
    def _by_pin(self) -> Mapping[PinKey, list[LockedEntry]]:
        found: dict[PinKey, list[LockedEntry]] = {}
        for entry in self.entries.values():
            found.setdefault(entry.pin, []).append(entry)
        return found

    def find(self, request: Request) -> Locked | None:
        """Return what the file says of `request`: by its key, else by its source and revision; None for nothing."""
        pin = pin_key(request)
        commit = self.pins.get(pin, "")
        if (entry := self.entries.get(request_key(request))) is not None:
            return Locked(commit=commit, single=entry.single, files=entry.files, is_complete=True)
        others = self._by_pin.get(pin, [])
        if not commit and not others:
            return None
        files = {file.path: file for entry in others for file in entry.files}
        single = any(entry.single for entry in others)
        chosen = _selected(files, request, single=single)
        return Locked(commit=commit, single=single, files=tuple(files[path] for path in chosen), is_complete=False)

    def find_outdated(self, requests: Mapping[str, Request]) -> list[str]:
        """Return how this file differs from a config, a clause each; nothing if it has exactly the config's requests.

        Args:
            requests: of all entries of the config, by name.
        """
        found = []
        for name, request in requests.items():
            if request_key(request) not in self.entries:
                parts = (
                    "its digest, patterns or folder" if request.source.store.is_web else "its patterns or its folder"
                )
                changed = f": {parts} changed" if self.find(request) is not None else ""
                found.append(f"{name} is not in it{changed}")
        keys = {request_key(request) for request in requests.values()}
        gone = {format_pin(entry.pin) for key, entry in self.entries.items() if key not in keys}
        kept = {format_pin(pin_key(request)) for request in requests.values()}
        # an entry whose patterns changed is named above
        found += [f"{pin} is not in the config any more" for pin in sorted(gone - kept)]
        if not found and len(self.entries) > len(keys):
            found.append("it has files of patterns that are not in the config any more")
        return found

    def changed(self, requests: Iterable[Request], resolved: Mapping[RequestKey, tuple[str, LockedEntry]]) -> LockFile:
        """Return this file with `resolved` (request key -> commit, entry), and without all that no request names.

        Raises:
            CacheTaskError: `resolved` moves the pin of a request that it does not have.
        """
        asked = set(map(request_key, requests))
        entries = {**self.entries, **{key: entry for key, (_, entry) in resolved.items()}}
        entries = {key: entry for key, entry in entries.items() if key in asked}
        pins = {**self.pins, **{entry.pin: commit for commit, entry in resolved.values() if commit}}
        kept = {entry.pin for entry in entries.values()}
        for key, entry in entries.items():
            if key not in resolved and pins.get(entry.pin) != self.pins.get(entry.pin):
                raise CacheTaskError(
                    f"{format_pin(entry.pin)}: another command moved its pin meanwhile", hint=RUN_AGAIN
                )
        return LockFile(pins={pin: commit for pin, commit in pins.items() if pin in kept}, entries=entries)


def remote_file(file: LockedFile, source: SourceRef, single: bool) -> RemoteFile:
    """Return the file as its store lists it."""
    key = file.path
    if source.prefix:
        key = source.prefix if single else f"{source.prefix}/{file.path}"
    return RemoteFile(file.path, file.size, file.version, key, file.store_digest, file.encoding, file.version_id)


def find_differences(locked: Locked, manifest: Manifest, request: Request) -> list[str]:
    """Return how a manifest of `request` differs from the lock, a clause each; nothing if it has what is locked."""
    if locked.commit != manifest.revision:
        return [f"{LOCK_NAME}: commit {manifest.revision[:12]} -> {locked.commit[:12]}"]
    source = request.source
    files = {origin(source, remote_file(file, source, locked.single)): file for file in locked.files}
    here = {record.origin: record for record in manifest.files}
    changed, gone, more = [], [], []
    for name, record in here.items():
        file = files.get(name)
        if file is None:
            more.append(_short(name, source))
            continue
        size = record.size if record.stored_size is None else record.stored_size
        if size != file.size:
            changed.append((file.path, f"{size:,} bytes", f"{file.size:,} bytes"))
        elif not file.is_met_by(digest=record.digest, xxh3=record.xxh3, content_id=record.content_id):
            now = f"{OURS}:{record.xxh3}" if file.digest.startswith(OURS) else record.digest
            changed.append((file.path, now or record.content_id.rpartition("@")[2], file.digest or file.version))
    if locked.is_complete and len(files) > len(here) - len(more):
        absent = [file.path for name, file in files.items() if name not in here]
        gone = _selected(absent, request, single=locked.single)  # an edited lock may list more
    found = [f"{LOCK_NAME}: {path}: {before} -> {after}{_and_more(changed)}" for path, before, after in changed[:1]]
    found += [f"{LOCK_NAME}: {path} is to be added{_and_more(gone)}" for path in gone[:1]]
    if locked.is_complete:
        found += [f"{LOCK_NAME}: {path} is not in it{_and_more(more)}" for path in more[:1]]
    return found


def _selected(paths: Iterable[str], request: Request, *, single: bool) -> list[str]:
    """Return those of the paths that the request selects."""
    prefix = "" if single else request.source.prefix
    return list(select(list(paths), request.allow, request.ignore, prefix=prefix, dialect=request.dialect))


def _short(name: str, source: SourceRef) -> str:
    return name.removeprefix(f"{source}/")


def _and_more(items: list[Any]) -> str:
    return f", and {len(items) - 1:,} more" if len(items) > 1 else ""
