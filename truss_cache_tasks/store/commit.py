"""commit(): from held bytes to a visible, recorded and claimed entry, in an order that is safe to stop at any line."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from truss_cache_tasks.planning.keys import canonical, request_key
from truss_cache_tasks.planning.plan import Plan
from truss_cache_tasks.planning.records import Claim, FileRecord, Manifest, Pin, Project
from truss_cache_tasks.planning.request import Form
from truss_cache_tasks.store import blobs, claims, links, partials
from truss_cache_tasks.store.blobs import Held
from truss_cache_tasks.store.layout import Place, pin_name
from truss_cache_tasks.store.locks import locked
from truss_cache_tasks.store.manifest import read_all, write_manifest
from truss_cache_tasks.store.neighbours import contested, neighbours, settle

_RESUMABLE_S = 7 * 86400.0  # a failed download of another entry waits so long for its next run


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
    """

    project: Project
    claim: str
    entry: str
    fingerprint: str | None
    run: str
    resolved: bool = False


def commit(
    place: Place,
    plan: Plan,
    held: Mapping[str, Held],
    author: Author,
    *,
    pinned: Pin | None,
    stopped: Callable[[], bool],
) -> Manifest | None:
    """Make the plan visible, record it, pin it and claim it.

    Args:
        held: every file of the plan, by identity.
        pinned: the pin as it was when the revision was listed.

    Returns:
        The manifest; None if a held file vanished meanwhile (another project's `clean`): take stock again.

    Raises:
        Overtaken: somebody pinned another commit meanwhile.
        Collision: another entry of this config put other bytes at one of these paths meanwhile.
    """
    with contextlib.ExitStack() as locks:
        for root in _roots_above(place, author.project):  # outermost first: nested roots show one tree of paths
            locks.enter_context(locked(Place(root, place.form).lock("root"), stopped))
        locks.enter_context(locked(place.lock("root"), stopped))
        moving = pin_name(plan.request)
        pin = claims.read_pins(place).get(moving) if moving else None
        if pin is not None and pin != pinned and pin.commit != plan.revision:
            raise Overtaken(pin.commit)
        if not all(one.path.is_file() for one in held.values()):
            return None
        if place.form is not Form.HUB:  # entries that run side by side could not see each other before
            others = neighbours(place, author.project, (author.claim,))
            settle(place, plan, contested(place, plan, others), others, held)
        known = read_all(place)
        hidden = _hidden(place, plan, author, known)
        first = links.in_the_way(hidden, plan)
        moved = links.hide(place, first)
        held = {name: replace(one, path=moved.get(one.path, one.path)) for name, one in held.items()}
        files = links.expose(place, plan, held, known)
        links.hide(place, [record for record in hidden if record not in first])  # while the records still say so
        key = request_key(plan.request)
        manifest = Manifest(key, canonical(plan.request), plan.revision, plan.folder, files)
        if manifest not in known:
            write_manifest(place, manifest)
        if moving and (pin is None or pin.commit != plan.revision or (author.resolved and pin.run != author.run)):
            claims.write_pin(place, moving, Pin(plan.revision, author.entry, author.run))
        _claim(place, manifest, author)
        blobs.settle_in(place, held.values())
        partials.sweep_partials(place, older_than_s=_RESUMABLE_S)
        return manifest


def _roots_above(place: Place, project: Project) -> list[Path]:
    """Return the roots of this config that `place` lies in, outermost first; none for the hub, which nobody nests."""
    if place.form is Form.HUB:
        return []
    return sorted(Path(root) for root in project.roots if Path(root) in place.root.parents)


def claim_only(place: Place, manifest: Manifest, author: Author) -> None:
    """Claim a manifest that is whole as it is."""
    with locked(place.lock("root")):
        _claim(place, manifest, author)


def _claim(place: Place, manifest: Manifest, author: Author) -> None:
    project, fingerprint = author.project, author.fingerprint
    mine = claims.read_claims(place, project.id)
    old = claims.aligned(mine, project).entries.get(author.claim)
    if fingerprint is None and old is not None and old.request == manifest.key:
        fingerprint = old.fingerprint  # the file is absent now, which is not a change
    claim = Claim(manifest.key, manifest.request, fingerprint, time.time(), project.config, os.uname().nodename)
    claim = replace(claim, snapshot=manifest.snapshot)
    claims.write_claims(place, project.id, claims.add_claim(mine, author.claim, claim, project))


def _hidden(place: Place, plan: Plan, author: Author, known: Sequence[Manifest]) -> list[FileRecord]:
    """What this entry showed before and nobody shows from now on: narrowed patterns, another revision or folder.

    A hub snapshot of the same request stays when its revision moved: somebody may be reading it (`clean` takes it).
    """
    project = author.project
    old = claims.aligned(claims.read_claims(place, project.id), project).entries.get(author.claim)
    if old is None:
        return []
    key = request_key(plan.request)
    live = claims.live_keys(place, project, but=(author.claim,))
    before = [m for m in known if m.key == old.request and (m.key != key or place.form is not Form.HUB)]
    kept = {record.path for m in known if m.key in live for record in m.files}
    kept |= {planned.path for planned in plan.files}
    return [record for manifest in before for record in manifest.files if record.path not in kept]
