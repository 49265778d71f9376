"""What a cache root says about one entry, by reading our records and by stat: input of planning.freshness.judge."""

from __future__ import annotations

import os

from truss_cache_tasks.planning.freshness import Evidence
from truss_cache_tasks.planning.keys import request_key
from truss_cache_tasks.planning.records import Manifest, Project
from truss_cache_tasks.planning.request import Form, Request
from truss_cache_tasks.store import claims
from truss_cache_tasks.store.disk import is_writable
from truss_cache_tasks.store.layout import Place, pin_name
from truss_cache_tasks.store.links import read_ref
from truss_cache_tasks.store.manifest import Unreadable, read_manifest


def gather(place: Place, request: Request, project: Project, name: str, fingerprint: str | None) -> Evidence:
    """Read the records of this entry. Writes nothing; what is missing or unreadable is part of the evidence."""
    key = request_key(request)
    mine = claims.aligned(claims.read_claims(place, project.id), project).entries.get(name)
    manifest: Manifest | None = None
    unreadable = ""
    try:
        manifest = read_manifest(place, key)
    except Unreadable as exc:
        unreadable = str(exc)
    everyone = [claim for theirs in claims.read_all_claims(place).values() for claim in theirs.entries.values()]
    if manifest is None:
        source = str(request.source)
        known = frozenset(c.fingerprint for c in everyone if c.fingerprint and c.form.get("source") == source)
        return Evidence(claim=mine, unreadable=unreadable, fingerprint=fingerprint, known_fingerprints=known)
    moving = pin_name(request)
    pin = claims.read_pins(place).get(moving) if moving else None
    return Evidence(
        claim=mine,
        manifest=manifest,
        stats={file.path: _stat(os.path.join(place.root, file.path)) for file in manifest.files},
        fingerprint=fingerprint,
        known_fingerprints=frozenset(
            claim.fingerprint for claim in everyone if claim.fingerprint and key in (claim.request, *claim.former)
        ),
        pin=(pin.commit, pin.by) if pin else None,
        ref=read_ref(place, request.revision) if moving and place.form is Form.HUB else None,
        writable=is_writable(place.records),
    )


def _stat(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
