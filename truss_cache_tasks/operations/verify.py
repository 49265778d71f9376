"""Verify an entry: hash every file again, and compare it with its manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass

from truss_cache_tasks.events import Reporter, ignore_events
from truss_cache_tasks.model.records import Manifest
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.operations.context import EntryContext, read_entry_manifest, read_hub_manifest
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.store.local_blobs import find_bad_files


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What hashing an entry again found.

    Attributes:
        manifest: what the files were compared with; None for an entry that was not fetched.
        bad: one line for each file that is missing or has other bytes.
    """

    manifest: Manifest | None
    bad: tuple[str, ...] = ()


def verify(context: EntryContext, cancel: CancelToken, reporter: Reporter = ignore_events) -> Verification:
    """Hash every file of an entry on all cores, and the files of its repo in the hub cache too. Sends no request.

    Args:
        reporter: told of the bytes that were hashed.

    Raises:
        Stopped: `cancel` was cancelled.
        DiskError: a manifest or a file cannot be read.
    """
    manifest = read_entry_manifest(context)
    if manifest is None:
        return Verification(manifest=None)
    in_hub = None if context.hub_root is None else read_hub_manifest(context, manifest)
    on_hashed = RunContext(id="", reporter=reporter).hashes(manifest.size + (in_hub.size if in_hub else 0))
    bad = find_bad_files(context.root, manifest, cancel, on_hashed)
    if context.hub_root is not None and in_hub is not None:
        repo = os.path.basename(context.hub_root.path)
        bad += [f"{repo}/{line}" for line in find_bad_files(context.hub_root, in_hub, cancel, on_hashed)]
    return Verification(manifest=manifest, bad=tuple(bad))
