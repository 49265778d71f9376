"""commit(): from held bytes to a visible, recorded and claimed entry, in an order that is safe to stop at any line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from truss_cache_tasks.model.keys import canonical, request_key
from truss_cache_tasks.model.plan import Plan
from truss_cache_tasks.model.records import Claim, FileRecord, Manifest, Pin, Project
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.store import blobs, claims, links
from truss_cache_tasks.store.held import LocalBlob, Vanished
from truss_cache_tasks.store.layout import CacheRoot, pin_name
from truss_cache_tasks.store.locks import OnWait, locked
from truss_cache_tasks.store.manifest import note_hidden, read_all, write_manifest
from truss_cache_tasks.store.neighbours import contested, neighbours, settle
from truss_cache_tasks.store.ownership import own_paths, paths_in_use, roots_locked, seen_from, way_between
from truss_cache_tasks.store.sight import look
from truss_cache_tasks.store.sweep import sweep
from truss_cache_tasks.store.unfinished import forget_paths, keep_unfinished, note_unfinished, read_unfinished


class Overtaken(Exception):
    """The common pin moved while this entry fetched: list again at `commit`."""

    def __init__(self, commit: str) -> None:
        super().__init__(commit)
        self.commit = commit


@dataclass(frozen=True)
class Author:
    """Who commits.

    Args:
        claim: the name of the claim.
        entry: the entry's own name, for people.
        fingerprint: of the credential file that was used, or None.
        run: id of this run.
        resolved: this run asked the store what the revision stands for.
        replace: files at our paths that are not ours may be replaced.
    """

    project: Project
    claim: str
    entry: str
    fingerprint: str | None
    run: str
    resolved: bool = False
    replace: bool = False

    @property
    def owner(self) -> tuple[str, str]:
        """Whose an unfinished fetch is: project and claim."""
        return self.project.id, self.claim


def commit(
    place: CacheRoot,
    plan: Plan,
    held: Mapping[str, LocalBlob],
    author: Author,
    *,
    pinned: Pin | None,
    stopped: Callable[[], bool],
    on_wait: OnWait = lambda _lock: None,
) -> Manifest | None:
    """Make the plan visible, record it, pin it and claim it: under the locks of all roots that its paths lie in.

    1. Decide again what was decided before the locks: the pin, the held files, collisions with other entries.
    2. Look at every path, and refuse what is not ours.
    3. Take out of sight what stands in the way, and give every file that is to come a name in our folder.
    4. Note which paths are about to be shown; show each in one step, and look at it.
    5. Take out of sight what this entry showed before.
    6. Write the manifest, the pin and the claim; forget the note; sweep what nothing owns any more.

    Args:
        held: every file of the plan, by identity.
        pinned: the pin as it was when the revision was listed.

    Returns:
        The manifest; None if a held file vanished meanwhile (another project's `clean`): take stock again.

    Raises:
        Overtaken: another run pinned another commit meanwhile.
        Collision: another entry of this config put other bytes at one of these paths meanwhile.
        ForeignFile: a file that is not ours lies at one of these paths.
    """

    def paths() -> set[str]:
        return {file.path for file in plan.files}.union(*(manifest.paths for manifest in read_all(place)))

    with roots_locked(place, paths, stopped, on_wait) as around:
        moving = pin_name(plan.request)
        pin = claims.read_pins(place).get(moving) if moving else None
        if pin is not None and pin != pinned and pin.commit != plan.revision:
            raise Overtaken(pin.commit)
        if not all(one.is_unchanged for one in held.values()):
            return None
        if place.layout is not Layout.HUB:  # entries that run side by side could not see each other before
            others = neighbours(place, author.project, (author.claim,))
            settle(place, plan, contested(place, plan, others), others, held)
        known = read_all(place)
        try:
            files = _show(place, plan, held, author, known=known, around=around, stopped=stopped)
        except Vanished:
            return None
        key = request_key(plan.request)
        manifest = Manifest(key, canonical(plan.request), plan.revision, plan.folder, files)
        write_manifest(place, manifest)
        if moving and (pin is None or pin.commit != plan.revision or (author.resolved and pin.run != author.run)):
            claims.write_pin(place, moving, Pin(plan.revision, author.entry, author.run))
        _claim(place, manifest, author)
        blobs.settle_in(place, held.values())
        _forget_notes(place, key, author)
        sweep(place)
        return manifest


def _show(
    place: CacheRoot,
    plan: Plan,
    held: Mapping[str, LocalBlob],
    author: Author,
    *,
    known: Sequence[Manifest],
    around: Sequence[CacheRoot],
    stopped: Callable[[], bool],
) -> tuple[FileRecord, ...]:
    owned = own_paths(place, around)
    hidden = _hidden(place, plan, author, known, around)
    first = links.in_the_way(hidden, plan)
    stray = _stray(place, plan, author, around)
    leaving = stray.union(record.path for record in first if record.made_link)
    sight = look(place, plan, held, owned, leaving=leaving, replace=author.replace, stopped=stopped)
    key = request_key(plan.request)
    noted = {path for one in read_unfinished(place) if one.key == key for path in one.paths}

    def failed(empty: Collection[str]) -> None:  # what comes there meanwhile is not ours
        forget_paths(place, key, set(empty) - noted)

    def before() -> None:
        note_unfinished(place, key, author.owner, paths=sight.coming)  # whose the manifest is, before it is claimed
        if place.layout is not Layout.HUB:
            _keep_replaced(place, plan, held, [r for m in known if m.key != key for r in m.shown])
            # A record is believed by size and time, which two files may share: it must not be one of what comes now
            # (nothing may lie there now, of a file that was removed by hand, or that its user brought)
            _note_hidden(place, around, {f.path: held[f.identity].xxh3 for f in plan.files})
        links.remove(place, stray)
        gone.update(links.hide(place, first))

    gone: set[str] = set()
    files = links.expose(place, plan, held, sight, owned=owned, before=before, failed=failed, stopped=stopped)
    gone |= links.hide(place, [record for record in hidden if record not in first])  # while the records still say so
    _note_hidden(place, around, dict.fromkeys(gone - {planned.path for planned in plan.files}, ""))
    return files


def _note_hidden(place: CacheRoot, around: Iterable[CacheRoot], paths: Mapping[str, str]) -> None:
    """Note in all roots which paths show no more what their manifests list; see `note_hidden`."""
    for root in around if paths else ():
        there = way_between(root, place)
        note_hidden(root, {seen: xxh3 for path, xxh3 in paths.items() if (seen := there(path)) is not None})


def _stray(place: CacheRoot, plan: Plan, author: Author, around: Iterable[CacheRoot]) -> set[str]:
    """Return what an unfinished commit of this request, or of this claim, showed and no manifest lists."""
    key = request_key(plan.request)
    noted = [one for one in read_unfinished(place) if one.key == key or one.claims == {author.owner}]
    paths = {path for one in noted for path in one.paths} - {planned.path for planned in plan.files}
    for root in around if paths else ():
        paths -= seen_from(place, root, {file.path for manifest in read_all(root) for file in manifest.shown})
    return paths


def _keep_replaced(place: CacheRoot, plan: Plan, held: Mapping[str, LocalBlob], others: Iterable[FileRecord]) -> None:
    """Keep the bytes of another request that this plan will replace, so that undoing the edit fetches nothing."""
    coming = {planned.path: held[planned.identity].xxh3 for planned in plan.files}
    for record in others:
        if coming.get(record.path, record.xxh3) != record.xxh3 and blobs.is_as_recorded(place, record):
            blobs.keep(place, record)


def _forget_notes(place: CacheRoot, key: str, author: Author) -> None:
    """Forget what fetches of this request, and earlier ones of this claim, noted: the manifest owns it, or nothing."""
    for noted in read_unfinished(place):
        if noted.key == key or not noted.key:
            keep_unfinished(place, noted, ())
        elif author.owner in noted.claims:
            keep_unfinished(place, noted, noted.claims - {author.owner})


def claim_only(
    place: CacheRoot,
    manifest: Manifest,
    author: Author,
    is_whole: Callable[[], bool],
    on_wait: OnWait = lambda _lock: None,
) -> bool:
    """Claim a manifest that is whole as it is; False if it is not any more, which only the root's lock can tell.

    Args:
        is_whole: judges the entry again.
    """
    with locked(place.lock("root"), on_wait=on_wait):
        if not is_whole():
            return False
        _claim(place, manifest, author)
        return True


def _claim(place: CacheRoot, manifest: Manifest, author: Author) -> None:
    project, fingerprint = author.project, author.fingerprint
    mine = claims.read_claims(place, project.id)
    old = claims.claims_of(place, project).entries.get(author.claim)
    if fingerprint is None and old is not None and old.request == manifest.key:
        fingerprint = old.fingerprint  # the file is absent now, which is not a change
    claim = Claim(manifest.key, manifest.request, fingerprint, time.time(), project.config, os.uname().nodename)
    claim = replace(claim, snapshot=manifest.snapshot)
    claims.write_claims(place, project.id, claims.add_claim(mine, author.claim, claim, project))


def _hidden(
    place: CacheRoot, plan: Plan, author: Author, known: Sequence[Manifest], around: Sequence[CacheRoot]
) -> list[FileRecord]:
    """What this entry showed before and no claim shows from now on: narrowed patterns, another revision or folder.

    A hub snapshot of the same request stays when its revision moved: a reader may have it open (`clean` takes it).
    """
    project = author.project
    old = claims.claims_of(place, project).entries.get(author.claim)
    if old is None:
        return []
    key = request_key(plan.request)
    before = [m for m in known if m.key == old.request and (m.key != key or place.layout is not Layout.HUB)]
    kept = {planned.path for planned in plan.files}
    if any(manifest.paths - kept for manifest in before):
        kept |= paths_in_use(place, around, project, but={(place.root, author.claim)})
    return [record for manifest in before for record in manifest.shown if record.path not in kept]
