"""Verify entries offline: compare their files with their manifests, and read their records."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.events import Reporter, ignore_events
from truss_cache_tasks.model.keys import request_key
from truss_cache_tasks.model.records import Manifest
from truss_cache_tasks.network.cancel import CancelToken
from truss_cache_tasks.operations.context import EntryContext, read_entry_manifest, read_hub_manifest
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.store.entries.damage import ListedFile, find_damaged_files, find_damaged_records
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.layouts.layout import CacheRoot


@dataclass(kw_only=True, slots=True)
class Verification:
    """What is wrong with an entry.

    Attributes:
        manifest: what the files were compared with; None for an entry that was not fetched, or whose manifest cannot
            be read.
        bad_files: one line for each file that is missing or damaged.
        bad_records: one line for each record that cannot be read. One that several entries use is named once.
    """

    manifest: Manifest | None = None
    bad_files: list[str] = field(default_factory=list)
    bad_records: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether the entry was fetched, and nothing is wrong."""
        return self.manifest is not None and not self.bad_files and not self.bad_records


def verify(
    contexts: Iterable[EntryContext], cancel: CancelToken, reporter: Reporter = ignore_events, *, quick: bool = False
) -> list[Verification]:
    """Compare the files of entries with their manifests, those of their repos in the hub cache too; read their records.

    All files are hashed by one pool of threads, on all cores. Sends no request and writes nothing.

    Args:
        reporter: told of the bytes that were hashed.
        quick: compare the sizes alone, and look at the headers of safetensors files.

    Returns:
        One for each entry, in the same order.

    Raises:
        Stopped: `cancel` was cancelled.
    """
    found: list[Verification] = []
    listed: list[tuple[Verification, str, ListedFile]] = []  # (its entry, prefix of its line, itself)
    named: set[tuple[CacheRoot, str]] = set()
    for context in contexts:
        found.append(verification := Verification())
        try:
            for root in context.roots:
                _read_records(context, root, verification, named)
            verification.manifest = read_entry_manifest(context)
            if verification.manifest is not None:
                listed += [(verification, "", file) for file in _files(context.root, verification.manifest)]
                in_hub = read_hub_manifest(context, verification.manifest)
                if context.hub_root is not None and in_hub is not None:
                    repo = os.path.basename(context.hub_root.path)
                    listed += [(verification, f"{repo}/", file) for file in _files(context.hub_root, in_hub)]
        except DiskError as error:
            verification.bad_records.append(str(error))
    on_hashing = RunContext(id="", reporter=reporter).hashes
    faults = find_damaged_files([file for _, _, file in listed], cancel, quick=quick, on_hashing=on_hashing)
    for (verification, prefix, file), fault in zip(listed, faults, strict=True):
        if fault:
            verification.bad_files.append(f"{prefix}{file.record.path}: {fault}")
    return found


def _files(root: CacheRoot, manifest: Manifest) -> Sequence[ListedFile]:
    return [ListedFile(root, record, record.path in manifest.hidden) for record in manifest.files]


def _read_records(
    context: EntryContext, root: CacheRoot, verification: Verification, named: set[tuple[CacheRoot, str]]
) -> None:
    """Add the records of the entry in one of its roots that cannot be used, and that are not `named` yet."""
    with disk_errors(f"cannot read {root.records}"):
        lines = find_damaged_records(root, context.project.id, request_key(context.request_in(root)))
    prefix = "" if root == context.root else f"{os.path.basename(root.path)}/"
    verification.bad_records += [f"{prefix}{line}" for line in lines if (root, line) not in named]
    named.update((root, line) for line in lines)
