"""cache-verify: hash every file on disk and compare it with its manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.hashing import Hasher
from truss_cache_tasks.model.records import FileRecord, Manifest
from truss_cache_tasks.store.blobs import as_digest
from truss_cache_tasks.store.disk import hash_file
from truss_cache_tasks.store.layout import CacheRoot, bytes_of


def bad_files(place: CacheRoot, manifest: Manifest, stopped: Callable[[], bool]) -> list[str]:
    """Re-hash every file on all cores; return one line for each that is missing or has other bytes.

    A file is held against our xxh3-128, and against the store's own digest where the manifest keeps one whole.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = pool.map(partial(_fault, place, stopped), manifest.files)
        return [f"{file.path}: {fault}" for file, fault in zip(manifest.files, faults, strict=True) if fault]


def _fault(place: CacheRoot, stopped: Callable[[], bool], record: FileRecord) -> str:
    want = as_digest(record.digest)
    hasher = Hasher(record.size, want)
    try:
        if missing := _hash(place, record.path, hasher, stopped):
            return missing
    except OSError as exc:
        return f"cannot be read ({exc.strerror})"
    except DiskError as error:
        return str(error)
    if hasher.seen != record.size:
        return f"{hasher.seen:,} bytes, want {record.size:,}"
    if hasher.xxh3() != record.xxh3:
        return f"got xxh3-128 {hasher.xxh3()[:16]}…, want {record.xxh3[:16]}…"
    return "" if hasher.matches else f"its {want} does not match"


def _hash(place: CacheRoot, path: str, hasher: Hasher, stopped: Callable[[], bool]) -> str:
    """Hash what `path` shows; return what lies there instead of a file, or of a link to a blob, "" for nothing else."""
    found = bytes_of(place, path)
    if found is None:
        if place.tree.lstat(path) is None:
            return "missing"
        return "no file" if place.tree.readlink(path) is None else "leads to no file of this cache"
    descriptor = found.root.open(found.at, os.O_RDONLY | os.O_NONBLOCK)
    try:
        hash_file(descriptor, hasher, stopped)
    finally:
        os.close(descriptor)
    return ""
