"""The paths of all that we write below a cache root. docs/on-disk-format.md has the JSON, and who may delete what.

{root}/.truss_cache/            only ours; {root} is models--org--name, {model cache}, or a mount
    manifests/{key}.json        one for each request; {key}.{snapshot:12}.json was superseded and waits for `clean`
    claims/{project}.json       which project uses which manifest
    pins.json                   the commit that each moving revision stands for
    fetches/{key}.json          what an unfinished fetch of a request may have left: blobs, partials, visible paths
    published/{etag}            hub layout: a blob of ours that no manifest lists yet, with the mtime of the blob
    blobs/{id:2}/{id}.{xxh3}.{digest}   whole files that no path shows: verified and not yet committed, or hidden again
    partials/{id}.{token}       files that are being fetched, or that a run left for the next one
    partials/{id}.{token}.parts     the journal of one: `start end xxh3 validator`, a line for each whole part of it
    partials/put.{token}        a file, link (`link.`) or ref (`ref.`) that gets its final name in the next step
    locks/{name}.lock           flock(2) files, empty: `root`, `entry-{key}`, `{id}`, `try.{token}`
{hub}/.locks/models--org--name/{etag}.lock      huggingface_hub's own, held while a blob of its cache is written
{hub}/.locks/models--org--name/removed          an empty repo folder on its way out

{id} is 40 or 64 hex digits, {token} 8. The JSON files are replaced by way of {name}.{token}.tmp beside them.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import NamedTuple, assert_never

from truss_cache_tasks.model.plan import RECORDS
from truss_cache_tasks.model.request import Layout, Request
from truss_cache_tasks.store.locks import LockFile
from truss_cache_tasks.store.tree import FileTree


@dataclass(frozen=True)
class CacheRoot:
    """Where an entry's files and our records of them are.

    Args:
        root: the cache root that holds `.truss_cache`.
        layout: how files are laid out below it.
        hub: the hub cache that `root` lies in (hub layout), else None.
    """

    root: Path
    layout: Layout
    hub: Path | None = None

    @cached_property
    def tree(self) -> FileTree:
        """The root's files: the only way to them."""
        return FileTree(self.root)

    @cached_property
    def hub_tree(self) -> FileTree | None:
        """The hub cache's files, of the hub layout."""
        return FileTree(self.hub) if self.hub is not None else None

    @cached_property
    def records(self) -> Path:
        """Our own folder."""
        return self.root / RECORDS

    def lock(self, name: str) -> LockFile:
        """The lock of this name."""
        return LockFile(self.tree, f"{RECORDS}/locks/{name}.lock")

    def blob_lock(self, blob_id: str) -> LockFile:
        """The lock under which the blob `blob_id` is written; one of the hub cache has huggingface_hub's own."""
        if self.hub_tree is not None:
            return LockFile(self.hub_tree, f".locks/{self.root.name}/{blob_id}.lock", is_ours=False)
        return self.lock(blob_id)


def hub_place(request: Request, hub: Path) -> CacheRoot:
    """Where huggingface_hub itself would put this repo."""
    return CacheRoot(hub / f"models--{request.source.root.replace('/', '--')}", Layout.HUB, hub)


def place_of(request: Request, hub: Path, model_cache: Path, mount_root: Path | None) -> CacheRoot:
    """Where this request's files go.

    Args:
        mount_root: prefixes an absolute `mount_location`, or None.
    """
    match request.layout:
        case Layout.HUB:
            return hub_place(request, hub)
        case Layout.MOUNT:
            mount = Path(request.folder)
            return CacheRoot(mount_root / mount.relative_to("/") if mount_root else mount, Layout.MOUNT)
        case Layout.VOLUME | Layout.BUCKET:
            return CacheRoot(model_cache, request.layout)
        case _:
            assert_never(request.layout)


def is_commit(revision: str) -> bool:
    """Whether a Hub revision names itself: a full commit needs no pin and no ref."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def pin_name(request: Request) -> str | None:
    """Return the name under which a root keeps this request's pin; None where nothing can move."""
    if not request.source.store.is_hub or is_commit(request.revision):
        return None
    return f"{request.source.root}@{request.revision}"


@lru_cache(1 << 16)  # asked several times a file
def blob_id(identity: str, layout: Layout) -> str:
    """Return the file name of these bytes: in the hub cache the ETag (the digest), elsewhere a name of ours."""
    if layout is Layout.HUB:
        return identity.partition(":")[2]
    return hashlib.sha256(identity.encode()).hexdigest()[:40]


# Names of ours, in full: nothing else in our folder is removed

BLOB_ID = r"(?:[0-9a-f]{40}|[0-9a-f]{64})"
TOKEN = r"[0-9a-f]{8}"
PARTIAL = re.compile(rf"({BLOB_ID})\.{TOKEN}")
JOURNAL = re.compile(rf"({BLOB_ID})\.{TOKEN}\.parts")
STAGED = re.compile(r"([0-9a-f]{40})\.([0-9a-f]{32})\.([a-z0-9-]+)")
MANIFEST = re.compile(r"([0-9a-f]{64})(?:\.[0-9a-f]{12})?\.json")
LOCK = re.compile(rf"(?:root|entry-[0-9a-f]{{64}}|{BLOB_ID}|try\.{TOKEN})\.lock")
REMOVED = re.compile(rf"removed\.{TOKEN}")  # a repo's folder on its way out, in huggingface_hub's folder of its locks

RECORD_NAMES: dict[str, str] = {  # folder below ours -> the names of its JSON files
    "": r"pins\.json",
    "manifests": MANIFEST.pattern,
    "fetches": MANIFEST.pattern,
    "claims": r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}\.json",
    "published": r"links\.json",
}
TEMPORARIES = {
    **{folder: re.compile(rf"(?:{names})\.{TOKEN}\.tmp") for folder, names in RECORD_NAMES.items()},
    "partials": re.compile(rf"(?:put|link|ref)\.{TOKEN}"),
}
TEMPORARIES[""] = re.compile(rf"{TEMPORARIES[''].pattern}|(?:link|ref)\.{TOKEN}")  # of 0.1.0


def is_name_of_ours(folder: str, name: str, *, is_folder: bool) -> bool:
    """Whether we give this name to something in `folder`, a path below our own folder."""
    if is_folder:
        return {
            "": name in ("manifests", "claims", "fetches", "published", "blobs", "partials", "locks"),
            "blobs": re.fullmatch("[0-9a-f]{2}", name) is not None,
        }.get(folder, False)
    names = {
        **RECORD_NAMES,
        "locks": LOCK.pattern,
        "partials": rf"{PARTIAL.pattern}|{JOURNAL.pattern}",
        "published": rf"{RECORD_NAMES['published']}|{BLOB_ID}",
    }
    if folder.startswith("blobs/"):
        return STAGED.fullmatch(name) is not None
    return re.fullmatch(names.get(folder, "(?!)"), name) is not None or is_temporary(folder, name)


def is_temporary(folder: str, name: str) -> bool:
    """Whether this is the name of a temporary of ours in `folder`, a path below our own folder."""
    return folder in TEMPORARIES and TEMPORARIES[folder].fullmatch(name) is not None


_SHARED = re.compile(r"\.\./\.\./(blobs/[0-9a-f]{2}/[0-9a-f]{64})")  # huggingface_hub/utils/_shared_blobs.py, 2.4.0


class Found(NamedTuple):
    """A file with bytes, no link.

    Args:
        root, at: where it is; `stat` of it.
        blob: the blob of the hub layout that was read on the way, relative to the place's root; "" for none.
    """

    root: FileTree
    at: str
    stat: os.stat_result
    blob: str = ""


def bytes_of(place: CacheRoot, path: str) -> Found | None:
    """Return where the bytes of a visible path are: there, or in the hub layout where its link leads.

    Links are followed in two cases alone: from a snapshot to a blob of the same repo, and from there to the store that
    huggingface_hub shares between repos. None where nothing is there, or what leads elsewhere.
    """
    stat = place.tree.lstat(path)
    if stat is None:
        return None
    if S_ISLNK(stat.st_mode) and place.layout is Layout.HUB:
        blob = blob_of_link(place, path)
        return None if blob is None else bytes_of_blob(place, blob)
    return Found(place.tree, path, stat) if S_ISREG(stat.st_mode) else None


def blob_of_link(place: CacheRoot, path: str) -> str | None:
    """Return the blob, relative to the root, that the link at `path` names; None where none is, or leads elsewhere."""
    text = place.tree.readlink(path)
    if text is None:
        return None
    target = os.path.normpath(os.path.join(os.path.dirname(path), text))
    folder, _, name = target.rpartition("/")
    return target if folder == "blobs" and name not in ("", ".", "..") else None


def bytes_of_blob(place: CacheRoot, blob: str) -> Found | None:
    """Return where the bytes of a blob of the hub layout are, as `bytes_of` does."""
    stat = place.tree.lstat(blob)
    if stat is None:
        return None
    if S_ISLNK(stat.st_mode) and place.hub_tree is not None:
        shared = _SHARED.fullmatch(place.tree.readlink(blob) or "")
        there = place.hub_tree.lstat(shared[1]) if shared else None
        if shared is None or there is None or not S_ISREG(there.st_mode):
            return None
        return Found(place.hub_tree, shared[1], there, blob)
    return Found(place.tree, blob, stat, blob) if S_ISREG(stat.st_mode) else None
