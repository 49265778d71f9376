"""RequestKey and SnapshotKey: SHA-256 over canonical forms (described in docs/on-disk-format.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NewType

from truss_cache_tasks.model.request import Request, implied_dialect

RequestKey = NewType("RequestKey", str)
SnapshotKey = NewType("SnapshotKey", str)
ContentId = NewType("ContentId", str)  # names exactly these bytes, whichever file has them (model/plan.py)

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
SCHEMA = 1  # of the canonical forms below: a new number changes every key


def canonical(request: Request) -> dict[str, Any]:
    """Return the canonical form of `request`: patterns sorted and without duplicates.

    Every field is present, save `dialect` and `digest`, which only the requests have that need them.

    >>> from truss_cache_tasks.model.request import Layout, SourceRef
    >>> r = Request(SourceRef("gs", "b", "m"), "", ("*.bin", "*.json", "*.bin"), (), Layout.BUCKET)
    >>> json.dumps(canonical(r), separators=(",", ":"))
    '{"allow":["*.bin","*.json"],"folder":"","form":"bucket","ignore":[],"revision":"","schema":1,"source":"gs://b/m"}'
    """
    form: dict[str, Any] = {
        "allow": None if request.allow is None else sorted(set(request.allow)),
        "folder": request.folder,
        "form": request.layout.value,
        "ignore": sorted(set(request.ignore)),
        "revision": request.revision,
        "schema": SCHEMA,
        "source": str(request.source),
    }
    if (request.allow or request.ignore) and request.dialect is not implied_dialect(request.layout):
        form["dialect"] = request.dialect.value  # read in another dialect, the same patterns may select other files
    if request.digest:
        form["digest"] = request.digest
    return form


@lru_cache(1 << 14)  # asked several times for each entry of a run
def request_key(request: Request) -> RequestKey:
    """Return 64 hex digits that name what was asked, the same on every machine."""
    return RequestKey(_digest(canonical(request)))


def snapshot_key(revision: str, files: Iterable[tuple[str, int, str]]) -> SnapshotKey:
    """Return 64 hex digits that name what a request resolved to.

    Args:
        revision: the commit of a Hub repo, else "".
        files: (path, size in bytes, digest as `algorithm:hex`), in any order. A generation or an ETag is no part of
            it: the same bytes uploaded again are the same weights.
    """
    return SnapshotKey(_digest({"files": sorted(files), "revision": revision, "schema": SCHEMA}))


def _digest(form: dict[str, Any]) -> str:
    return hashlib.sha256(_encode(form).encode()).hexdigest()
