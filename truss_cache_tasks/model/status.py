"""Decide whether an entry is fresh: offline, from values that `store/` gathered by stat alone."""

# No `from __future__ import annotations`: of each annotation that is a text, NamedTuple compiles a ForwardRef

from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from truss_cache_tasks.model.keys import RequestKey, canonical, request_key
from truss_cache_tasks.model.records import LOCK_NAME, Claim, Manifest
from truss_cache_tasks.model.request import Request

if TYPE_CHECKING:
    from truss_cache_tasks.model.lockfile import Locked


class Need(IntEnum):
    """What a run would have to do at the least, in growing order of cost."""

    NOTHING = 0  # fresh
    CLAIM = 1  # complete, but not claimed by this project: write a claim, read no store
    REPAIR = 2  # put links and refs back, re-hash what was touched: reads no store if all bytes are on this machine
    PROVE = 3  # list once and request one byte, which proves that the credential may read these files
    FETCH = 4  # list, and fetch what is missing


class Verdict(NamedTuple):
    """Whether one entry is fresh, and why not.

    Attributes:
        need: NOTHING where it is fresh.
        reasons: why it is not, one clause each.
        unproven: the credential file that is there now has not yet been used to read these bytes.
    """

    need: Need
    reasons: tuple[str, ...] = ()
    unproven: bool = False

    @property
    def fresh(self) -> bool:
        """Whether a run would do nothing."""
        return self.need is Need.NOTHING

    def __str__(self) -> str:
        return "fresh" if self.fresh else "; ".join(self.reasons)


class Evidence(NamedTuple):
    """What was found on the disk, as values.

    Attributes:
        claim: of this project, under this name or (after entries swapped names) with this entry's request; None without
            one.
        manifest: of this entry's request key, None without a readable one.
        unreadable: why the manifest that exists cannot be read; "" where it can, or there is none.
        stats: path of every manifest file -> (size in bytes, mtime in ns) of what it leads to; None where it shows no
            file of this cache.
        lost: path -> what is the matter with a file whose stat is None ("missing", "replaced by a folder").
        fingerprint: of the credential file that is there now, None if there is none.
        known_fingerprints: of all present and former claims on this manifest; without a manifest, of all claims in
            this root on any manifest of the same source.
        pin: (commit, who moved it) of this repo and revision in this root, where it moves.
        pin_damage: why that pin cannot be read; "" if it can, or there is none.
        ref: the commit that refs/REVISION names, "" without that file; None where no such file is expected (other
            layouts, a revision that is a commit).
        writable: whether a claim can be written.
    """

    claim: Claim | None = None
    manifest: Manifest | None = None
    unreadable: str = ""
    stats: Mapping[str, tuple[int, int] | None] | None = None
    lost: Mapping[str, str] = {}
    fingerprint: str | None = None
    known_fingerprints: frozenset[str] = frozenset()
    pin: tuple[str, str] | None = None
    pin_damage: str = ""
    ref: str | None = None
    writable: bool = True


class Status(NamedTuple):
    """What was found on the disk of one entry, and what follows from it.

    Only valid while the locks are held under which it was read: what was read before a lock is read again under it.
    """

    evidence: Evidence
    verdict: Verdict

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of the entry's request, None without a readable one."""
        return self.evidence.manifest

    @property
    def fresh_manifest(self) -> Manifest | None:
        """The manifest if a run would do nothing, else None."""
        return self.evidence.manifest if self.verdict.fresh else None


def verdict_of(request: Request, seen: Evidence, locked: "Locked | None" = None) -> Verdict:
    """Compare a request with what is on disk. The costliest need counts; every reason is kept.

    Args:
        locked: what the lock file says of the request; None without one.
    """
    found: list[tuple[Need, str]] = []
    unproven = False
    if seen.claim is not None and seen.claim.cleaned:
        found.append((Need.FETCH, "cleaned: the next run resolves it again" if locked is None else "cleaned"))
    elif seen.claim is not None and seen.claim.request != request_key(request) and (seen.writable or not seen.manifest):
        need = Need.REPAIR if seen.manifest else Need.FETCH
        found.extend((need, change) for change in changes(seen.claim.form, canonical(request)))
    if seen.manifest is None:
        if not found or seen.unreadable:
            found.append((Need.FETCH, seen.unreadable or "not fetched yet"))
        unproven = seen.fingerprint is not None and seen.fingerprint not in seen.known_fingerprints
    else:
        if request.source.store.is_local:
            found.extend(_find_other_owner(seen, seen.manifest))
        found.extend(_check_claim(seen, request_key(request)))
        differences = _compare_lock(locked, seen.manifest, request) if locked is not None else []
        found.extend((Need.FETCH, difference) for difference in differences)
        if not differences:
            found.extend(_compare_pin(seen, seen.manifest, is_locked=locked is not None and bool(locked.commit)))
        found.extend(_compare_files(seen.manifest, seen.stats or {}, seen.lost))
    need = max((need for need, _ in found), default=Need.NOTHING)
    unproven = unproven or any(need is Need.PROVE for need, _ in found)
    return Verdict(need, tuple(dict.fromkeys(reason for _, reason in found)), unproven)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two canonical forms, one clause for each field, by its name in config.yaml.

    >>> changes({"revision": "v1", "allow": None}, {"revision": "v2", "allow": ["*.bin"]})
    ["revision: 'v1' -> 'v2'", "allow_patterns: None -> ['*.bin']"]
    """
    words = {"allow": "allow_patterns", "ignore": "ignore_patterns", "form": "layout", "folder": "volume_folder"}
    fields = sorted(set(before) | set(now), key=lambda name: (name != "source", name != "revision", name))
    return [
        f"{words.get(name, name)}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in fields
        if before.get(name) != now.get(name)
    ]


def _find_other_owner(seen: Evidence, manifest: Manifest) -> list[tuple[Need, str]]:
    """Return whether another project put the files of a `file://` entry here, as a need and reason.

    The same `file://` URI names another folder beside another config, so these may be other files.
    """
    if seen.claim is None and seen.writable:
        return [(Need.FETCH, "put here by another project: the folder is read anew")]
    if seen.claim is not None and seen.claim.request == manifest.key and seen.claim.snapshot != manifest.snapshot:
        return [(Need.FETCH, "another project put other files here, of a folder with the same name")]
    return []


def _check_claim(seen: Evidence, key: RequestKey) -> list[tuple[Need, str]]:
    """Return what is missing of a claim that this credential file has proven, as needs and reasons.

    A credential file that is absent now is not a change: secrets are often mounted for the fetch only.
    """
    if seen.claim is not None and not seen.claim.cleaned and seen.claim.request == key:
        if seen.fingerprint in (None, seen.claim.fingerprint):
            return []
        return [(Need.PROVE, "the credential file changed")]
    proven = seen.fingerprint is None or seen.fingerprint in seen.known_fingerprints
    if not proven:
        return [(Need.PROVE, "fetched by someone else, and not yet proven with this project's credential file")]
    if seen.claim is not None or not seen.writable:
        return []
    return [(Need.CLAIM, "whole, but not yet claimed by this project")]


def _compare_lock(locked: "Locked", manifest: Manifest, request: Request) -> list[str]:
    from truss_cache_tasks.model.lockfile import find_differences  # not needed without a lock file

    return find_differences(locked, manifest, request)


def _compare_pin(seen: Evidence, manifest: Manifest, *, is_locked: bool) -> list[tuple[Need, str]]:
    """Return how the pinned commit and the file below refs/ differ from the manifest, as a need and reason.

    Args:
        is_locked: the lock names the commit of the manifest: a pin that moved is moved back.
    """
    commit, by = seen.pin or (manifest.revision, "")
    if commit != manifest.revision:
        who = f" by {by}" if by else ""
        if is_locked:
            back = f"the pinned commit moved{who} to {commit[:12]}; {LOCK_NAME} names {manifest.revision[:12]}"
            return [(Need.REPAIR, back)]
        return [(Need.FETCH, f"the pinned commit moved{who}: {manifest.revision[:12]} -> {commit[:12]}")]
    if seen.pin_damage and seen.writable:
        return [(Need.REPAIR, f"pins.json cannot be used: {seen.pin_damage}")]
    if seen.ref is not None and seen.ref != commit:
        named = f"names {seen.ref[:12]}" if len(seen.ref) == len(commit) else "is damaged"
        there = named if seen.ref else "is missing"
        return [(Need.REPAIR, f"refs/{manifest.request['revision']} {there}; the pin is {commit[:12]}")]
    return []


def _compare_files(
    manifest: Manifest, stats: Mapping[str, tuple[int, int] | None], lost: Mapping[str, str]
) -> list[tuple[Need, str]]:
    """Return how sizes and mtimes differ from the manifest, as needs and reasons."""
    absent: dict[str, list[str]] = {}  # what is the matter -> paths
    replaced, resized, touched = [], [], []
    for file in manifest.files:
        stat = stats.get(file.path)
        if stat is not None and file.path in manifest.hidden:
            replaced.append(file.path)
        elif stat is None:
            absent.setdefault(lost.get(file.path, "missing"), []).append(file.path)
        elif stat[0] != file.size:
            resized.append(file.path)
        elif not same_mtime(stat[1], file.mtime_ns):
            touched.append(file.path)
    kinds = (
        *sorted(absent.items()),
        ("replaced by another entry", replaced),
        ("of another size", resized),
        ("touched since it was hashed", touched),
    )
    return [
        (Need.REPAIR, f"{_few(paths)} {'is' if len(paths) == 1 else 'are'} {what}") for what, paths in kinds if paths
    ]


def same_mtime(one_ns: int, other_ns: int) -> bool:
    """Return whether two mtimes are equal; one of whole seconds equals any that is less than a second away.

    `tar` and image layers cut the fraction off, buildah rounds it.
    """
    second = 1_000_000_000
    is_whole = 0 in (one_ns % second, other_ns % second)
    return one_ns == other_ns or (is_whole and abs(one_ns - other_ns) < second)


def _few(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
