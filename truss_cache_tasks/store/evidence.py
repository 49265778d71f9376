"""gather: read our records of one entry, and the stat of its files: the input of model.status.judge."""

from __future__ import annotations

from truss_cache_tasks.model.keys import request_key
from truss_cache_tasks.model.records import FileRecord, Manifest, Project
from truss_cache_tasks.model.request import Layout, Request
from truss_cache_tasks.model.status import Evidence
from truss_cache_tasks.store import claims
from truss_cache_tasks.store.disk import is_writable
from truss_cache_tasks.store.layout import CacheRoot, bytes_of, pin_name
from truss_cache_tasks.store.manifest import Unreadable, read_manifest
from truss_cache_tasks.store.refs import read_ref


def gather(place: CacheRoot, request: Request, project: Project, name: str, fingerprint: str | None) -> Evidence:
    """Read the records of this entry. Writes nothing; what is missing or unreadable is part of the evidence."""
    key = request_key(request)
    mine = claims.claims_of(place, project).entries.get(name)
    manifest: Manifest | None = None
    unreadable = ""
    try:
        manifest = read_manifest(place, key)
    except Unreadable as exc:
        unreadable = str(exc)
    if manifest is None:
        known = claims.fingerprints(place, str(request.source))
        return Evidence(claim=mine, unreadable=unreadable, fingerprint=fingerprint, known_fingerprints=known)
    moving = pin_name(request)
    pin = claims.read_pins(place).get(moving) if moving else None
    return Evidence(
        claim=mine,
        manifest=manifest,
        stats={file.path: _stat(place, file) for file in manifest.files},
        fingerprint=fingerprint,
        known_fingerprints=claims.fingerprints(place, key),
        pin=(pin.commit, pin.by) if pin else None,
        ref=read_ref(place, request.revision) if moving and place.layout is Layout.HUB else None,
        writable=is_writable(place.records),
    )


def _stat(place: CacheRoot, record: FileRecord) -> tuple[int, int] | None:
    """Return (size, mtime in ns) of the bytes that a path shows; None where it links to other ones than recorded."""
    found = bytes_of(place, record.path)
    if found is None or found.blob not in ("", record.blob):
        return None
    return found.stat.st_size, found.stat.st_mtime_ns
