"""Gather the Evidence of one entry: its records, and the stat of its files. A run of fresh entries needs no more."""

from __future__ import annotations

from stat import S_ISDIR, S_ISLNK, S_ISREG

from truss_cache_tasks.model.keys import request_key
from truss_cache_tasks.model.records import Manifest, Project
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.model.status import Evidence
from truss_cache_tasks.store.files.disk import is_writable
from truss_cache_tasks.store.files.names import pin_name
from truss_cache_tasks.store.files.record_file import Unreadable
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records import claims
from truss_cache_tasks.store.records.manifest import read_manifest


def gather_evidence(
    root: CacheRoot, request: Request, project: Project, name: str, fingerprint: str | None
) -> Evidence:
    """Read the records of one entry, and the stat of its files. Writes nothing.

    What is missing or unreadable is part of the evidence.
    """
    key = request_key(request)
    claim = claims.claims_of(root, project).entries.get(name)
    manifest: Manifest | None = None
    unreadable = ""
    try:
        manifest = read_manifest(root, key)
    except Unreadable as exc:
        unreadable = str(exc)
    if manifest is None:
        known = claims.fingerprints(root, str(request.source))
        return Evidence(claim=claim, unreadable=unreadable, fingerprint=fingerprint, known_fingerprints=known)
    is_ours = claim is not None and not claim.cleaned and claim.request == key
    moving = pin_name(request)
    pin = claims.read_pins(root).get(moving) if moving else None
    pin_damage = claims.damage_of_pins(root) if moving and pin is None else ""
    stats = root.layout.stat_files(manifest.files)
    return Evidence(
        claim=claim,
        manifest=manifest,
        stats=stats,
        lost={path: describe_loss(root, path) for path, stat in stats.items() if stat is None},
        fingerprint=fingerprint,
        known_fingerprints=frozenset() if is_ours or fingerprint is None else claims.fingerprints(root, key),
        pin=(pin.commit, pin.by) if pin else None,
        pin_damage=pin_damage,
        ref=root.layout.refs.read(request.revision) if moving else None,
        writable=(is_ours and not pin_damage) or is_writable(root.records),
    )


def describe_loss(root: CacheRoot, path: str) -> str:
    """Return what is the matter with a visible path that does not show the file that a manifest lists there.

    As a predicate: "missing", "replaced by a folder".
    """
    holder = root.layout.path_of_bytes(path)
    stat = root.tree.lstat(holder)
    if stat is None:
        return "missing"
    if root.layout.find_bytes(path) is not None:
        return "linked to other bytes"
    if S_ISDIR(stat.st_mode):
        return "replaced by a folder"
    if S_ISLNK(stat.st_mode):
        return "replaced by a link that leads to no file of this cache"
    return "not readable by this user" if S_ISREG(stat.st_mode) else "replaced by something that is no file"
