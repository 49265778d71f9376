"""cache-verify: every byte on disk against the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable

from truss_cache_tasks.planning.digests import Hasher
from truss_cache_tasks.planning.records import FileRecord, Manifest
from truss_cache_tasks.store.blobs import as_digest, hash_file
from truss_cache_tasks.store.layout import Place


def bad_files(place: Place, manifest: Manifest, stopped: Callable[[], bool]) -> list[str]:
    """Re-hash every file on all cores; return one line for each that is missing or has other bytes.

    A file is held against our xxh3-128, and against the store's own digest where the manifest keeps one whole.
    """

    def check(record: FileRecord) -> str:
        want = as_digest(record.digest)
        hasher = Hasher(record.size, want)
        try:
            hash_file(place.root / record.path, hasher, stopped)
        except FileNotFoundError:
            return f"{record.path}: missing"
        except OSError as exc:
            return f"{record.path}: cannot be read ({exc.strerror})"
        if hasher.seen != record.size:
            return f"{record.path}: {hasher.seen:,} bytes, want {record.size:,}"
        if hasher.xxh3() != record.xxh3:
            return f"{record.path}: got xxh3-128 {hasher.xxh3()[:16]}…, want {record.xxh3[:16]}…"
        if not hasher.matches:
            return f"{record.path}: its {want} does not match"
        return ""

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [line for line in pool.map(check, manifest.files) if line]
