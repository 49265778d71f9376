"""Plan: the exact files of one pinned revision, each with the path where it will be visible."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import assert_never

from truss_cache_tasks.errors import Collision, NothingSelected, UnsafeName
from truss_cache_tasks.model.keys import ContentId
from truss_cache_tasks.model.listing import Listing, RemoteFile
from truss_cache_tasks.model.patterns import matcher, select
from truss_cache_tasks.model.records import RECORDS
from truss_cache_tasks.model.request import Layout, Request, SourceRef

FIX_PATTERNS = "Fix the patterns in config.yaml."  # a hint
_WILDCARDS = frozenset("*?[]!")
_MOST_UNMATCHED = 5  # patterns that are named
_MOST_IGNORED = 20  # patterns that are compared with names, which takes long


@dataclass(frozen=True)
class PlannedFile:
    """One file of a plan.

    Attributes:
        file: as the store lists it.
        path: where it will be visible, relative to the cache root, POSIX, safe.
        content_id: names these bytes: equal ids are equal bytes (equal bytes may have different ids).
        origin: the object that they come from, without its version.
    """

    file: RemoteFile
    path: str
    content_id: ContentId
    origin: str


@dataclass(frozen=True)
class Plan:
    """What an entry will have: 1..N files of one pinned revision.

    Attributes:
        folder: what users open, relative to the cache root ("" for the root itself): the snapshot, the prefix's
            folder, the volume, the mount, or the one file.
    """

    request: Request
    revision: str
    files: tuple[PlannedFile, ...]
    folder: str
    warnings: tuple[str, ...] = ()


def make_plan(request: Request, listing: Listing) -> Plan:
    """Return the plan of a request: the listed files that its patterns select, each with its visible path.

    Raises:
        NothingSelected: the patterns select no file; names the patterns and the most similar paths.
        UnsafeName: a selected key holds `..` or NUL, is absolute, or lies in our own folder.
        Collision: two selected keys want one path (`file` and `file/x`, `p//y` and `p/y`).
    """
    prefix = "" if listing.single else request.source.prefix
    by_path = {file.path: file for file in listing.files}
    chosen = select(by_path, request.allow, request.ignore, prefix=prefix, dialect=request.dialect)
    if not chosen:
        raise _nothing_selected(request, sorted(by_path))
    folder = _folder(request, listing)
    files = tuple(
        PlannedFile(
            by_path[path],
            _visible_path(request, folder, path),
            content_id(request.source, by_path[path]),
            origin(request.source, by_path[path]),
        )
        for path in chosen
    )
    _refuse_collisions(files)
    warnings = listing.warnings + _warnings_of_truss_v1(request, prefix, by_path, chosen)
    return Plan(request, listing.revision, files, folder, warnings)


def origin(source: SourceRef, file: RemoteFile) -> str:
    """Return the object's URI; for a local file the folder as the user wrote it, without a path of this machine."""
    if source.store.is_local:
        return f"{source}/{file.path}"
    return f"{SourceRef(source.scheme, source.root)}/{file.key}"


def content_id(source: SourceRef, file: RemoteFile) -> ContentId:
    """Return a name for exactly these bytes: a cryptographic digest where there is one, else object and version."""
    if file.digest is not None and file.digest.algorithm in ("sha256", "git-sha1"):
        return ContentId(f"{file.digest.algorithm}:{file.digest.value}")
    if file.encoding:
        return ContentId(f"{origin(source, file)}@{file.version} decoded")
    if source.store.is_local:  # the same URI beside another config may name another file
        return ContentId(f"file:{hashlib.sha256(file.key.encode()).hexdigest()[:16]}@{file.version}")
    return ContentId(f"{origin(source, file)}@{file.version}")


def _folder(request: Request, listing: Listing) -> str:
    source = request.source
    match request.layout:
        case Layout.HUB:
            return f"snapshots/{listing.revision}"
        case Layout.VOLUME:
            return request.folder
        case Layout.MOUNT:
            return ""
        case Layout.BUCKET:
            return source.cache_path.rpartition("/")[0] if listing.single else source.cache_path
        case _:
            assert_never(request.layout)


def _visible_path(request: Request, folder: str, path: str) -> str:
    """Return the path below the root, without empty and `.` components, which no disk has. Raises UnsafeName."""
    parts = [part for part in f"{folder}/{path}".split("/") if part not in ("", ".")]
    # our own folder is refused at any depth: a mount may lie inside a mount
    if not is_safe(path) or any(part.casefold() == RECORDS for part in parts):
        raise UnsafeName(
            f"{request.source}: refusing the name {path!r}: it would be written outside this entry's folder",
            hint="Add it to ignore_patterns, or rename it in the store.",
        )
    return "/".join(parts)


def is_safe(path: str) -> bool:
    """Return whether a file of this name, as a store has it, would be written below its entry's folder."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    outside = path.startswith("/") or ".." in parts or not parts or any(part.casefold() == RECORDS for part in parts)
    return not outside and "\0" not in path and _is_text(path)


def _is_text(path: str) -> bool:
    """Return whether `path` can be encoded as a file name: JSON can carry half a surrogate pair, UTF-8 cannot."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_collisions(files: Sequence[PlannedFile]) -> None:
    """Raise Collision where two files have one path, or the path of one is a folder of the other's."""
    seen: dict[str, str] = {}
    for planned in files:
        if other := seen.get(planned.path):
            raise Collision(
                f"{planned.file.path!r} and {other!r} would both be written to {planned.path!r}",
                hint="Drop one of them with ignore_patterns.",
            )
        seen[planned.path] = planned.file.path
    for path, name in seen.items():
        parents = path.split("/")
        for depth in range(1, len(parents)):
            if other := seen.get("/".join(parents[:depth])):
                raise Collision(
                    f"{other!r} is a file, and {name!r} needs a folder of that name",
                    hint="Drop one of them with ignore_patterns.",
                )


def _nothing_selected(request: Request, paths: Sequence[str]) -> NothingSelected:
    patterns = f"allow_patterns {list(request.allow) if request.allow is not None else 'not set'}"
    if request.ignore:
        patterns += f", ignore_patterns {list(request.ignore)}"
    if not paths:
        return NothingSelected(f"{request.source} holds no file", hint="Check the name, and that it was uploaded.")
    near = _nearest(request.allow or request.ignore, paths)
    names = f"the nearest are {', '.join(near)}" if near else f"it holds {', '.join(paths[:3])}"
    return NothingSelected(
        f"{request.source}: no file of {len(paths)} is selected by {patterns}; {names}",
        hint=FIX_PATTERNS,
    )


def find_unmatched(plan: Plan, listing: Listing) -> list[str]:
    """Return a message for each pattern that matches no listed file, naming the most similar paths.

    An ignore pattern often guards against files that a source does not have. It counts only if it looks like a misspelt
    name of something that the plan has (`_is_nearly_there`).

    Args:
        listing: the one that was planned: all that the source has, not the files of a lock file.
    """
    request = plan.request
    prefix, paths = "" if listing.single else request.source.prefix, sorted(file.path for file in listing.files)

    def is_matched(pattern: str) -> bool:
        matches = matcher(pattern, prefix, request.dialect)
        return any(matches(path) for path in paths)

    found = [("allow_patterns", one) for one in dict.fromkeys(request.allow or ()) if not is_matched(one)]
    ignored = [one for one in dict.fromkeys(request.ignore) if not is_matched(one)]
    chosen = [planned.file.path for planned in plan.files]
    names = {name for path in chosen for name in path.split("/")} if ignored else set()
    found += [("ignore_patterns", one) for one in ignored[:_MOST_IGNORED] if _is_nearly_there(one, names)]
    lines = [
        _unmatched(request, field, pattern, prefix, paths, near=paths if field == "allow_patterns" else chosen)
        for field, pattern in found[:_MOST_UNMATCHED]
    ]
    more = [f"{len(found) - len(lines)} more patterns match no file"] if found[len(lines) :] else []
    return lines + more


def _unmatched(
    request: Request, field: str, pattern: str, prefix: str, paths: Sequence[str], *, near: Sequence[str]
) -> str:
    found = f"{field}: {pattern!r} matches no file of {len(paths)}, expected one at least"
    if request.layout is Layout.BUCKET and prefix:
        matches = matcher(pattern, "", request.dialect)
        full = sum(1 for path in paths if matches(f"{prefix}/{path}"))
        if full:
            return f"{found}; on the full key, as Truss without use_volume reads it, it matches {full}"
    nearest = _nearest([pattern], near)
    return f"{found}; the nearest are {', '.join(nearest)}" if nearest else found


def _is_nearly_there(pattern: str, names: Collection[str]) -> bool:
    """Whether a part of an ignore pattern looks like a misspelt name, or a misspelt ending of names.

    >>> names = {"original", "model.bin", "model.safetensors"}
    >>> [_is_nearly_there(pattern, names) for pattern in ("orignal/*", "*.safetensor", "*.h5", "original/*.pth")]
    [True, True, False, False]
    """
    from difflib import get_close_matches

    endings = {name[name.rfind(".") :] for name in names if "." in name}
    for part in pattern.split("/"):
        ending = part.lstrip("*")
        known = endings if ending != part and ending.startswith(".") else names if ending == part else ()
        if not ending or ending in known or not _WILDCARDS.isdisjoint(ending):
            continue
        compared = [name[:80].casefold() for name in sorted(known)[:2000]]
        if get_close_matches(ending[:80].casefold(), compared, n=1, cutoff=0.8):
            return True
    return False


def _nearest(patterns: Iterable[str], paths: Sequence[str], most: int = 3) -> list[str]:
    """Return the `most` paths with a name that is most similar to a pattern without its wildcards, ignoring case.

    Of a pattern its last part counts that is more than wildcards, of a path each of its last names.
    """
    from difflib import SequenceMatcher

    # Only 10 patterns and 80 characters: the time of a comparison is the product of the lengths.
    no_wildcards = dict.fromkeys(map(ord, _WILDCARDS))
    parts = [pattern.translate(no_wildcards).casefold().rstrip("/") for pattern in islice(patterns, 10)]
    wanted = [want for part in parts if (want := part.rpartition("/")[2][-80:])]
    known: dict[str, float] = {}  # of names: many paths have the same folders

    def likeness(name: str) -> float:
        if name not in known:
            ratios = (SequenceMatcher(None, want, name[-80:].casefold()).ratio() for want in wanted)
            known[name] = max(ratios, default=0.0)
        return known[name]

    scored = [(max(map(likeness, path.split("/")[-3:])), path) for path in paths[:2000]]
    return [path for score, path in sorted(scored, key=lambda pair: -pair[0])[:most] if score > 0.4]


def _warnings_of_truss_v1(
    request: Request, prefix: str, paths: Iterable[str], chosen: tuple[str, ...]
) -> tuple[str, ...]:
    """Return a warning where Truss without use_volume, which matches patterns on the full key, selects other files."""
    if request.layout is not Layout.BUCKET or not prefix:
        return ()
    keys = {f"{prefix}/{path}": path for path in paths}
    v1 = select(keys, request.allow, request.ignore)
    if {keys[key] for key in v1} == set(chosen):
        return ()
    return (
        f"{request.source}: patterns are matched on the path below the prefix and select {len(chosen)} files; "
        f"Truss without use_volume matches the full key and would select {len(v1)}",
    )


def case_clashes(files: Iterable[PlannedFile]) -> tuple[str, str] | None:
    """Return two paths that differ in case only, or None: on a case-insensitive disk they are one file."""
    seen: dict[str, str] = {}
    for planned in files:
        other = seen.setdefault(planned.path.casefold(), planned.path)
        if other != planned.path:
            return other, planned.path
    return None
