"""Names in, paths out. The tree that we write, and who may delete what (docs/on-disk-format.md has the JSON):

{root}/.truss_cache/            ours alone; {root} is models--org--name, {model cache}, or a mount
    manifests/{key}.json        one a request; {key}.{snapshot:12}.json was superseded and waits for `clean`
    claims/{project}.json       who uses which manifest
    pins.json                   the commit that each moving revision stands for
    published/                  hub form: what is ours and no manifest lists yet, so that a kill makes it nobody else's
        {etag}                  a blob, with the mtime that the blob has
        links.json              links of the snapshots
    blobs/{id:2}/{id}.{xxh3}.{digest}   whole files that are not visible: verified and not yet committed, or retired
    partials/{id}.{token}       files on their way; the next run's once their writer is dead
    partials/{id}.{token}.parts     the journal of one: `start end xxh3 validator`, a line for each whole part of it
    locks/                      flock(2) files, empty
{hub}/.locks/models--org--name/{etag}.lock      huggingface_hub's own, taken while a blob of its cache is written
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from truss_cache_tasks.planning.plan import RECORDS
from truss_cache_tasks.planning.request import Form, Kind, Request


@dataclass(frozen=True)
class Place:
    """Where an entry's files and our records of them are.

    Args:
        root: the cache root that holds `.truss_cache`.
        form: how files are laid out below it.
        hub: the hub cache that `root` lies in (hub form), else None.
    """

    root: Path
    form: Form
    hub: Path | None = None

    @cached_property
    def records(self) -> Path:
        """Our own folder."""
        return self.root / RECORDS

    def lock(self, name: str) -> Path:
        """The lock file of this name; a blob of the hub cache has huggingface_hub's own."""
        return Path(f"{self.records}/locks/{name}.lock")  # one parse: each `/` takes as long as a system call

    def blob_lock(self, blob_id: str) -> Path:
        """The lock under which the blob `blob_id` is written."""
        if self.hub is not None:
            return Path(f"{self.hub}/.locks/{self.root.name}/{blob_id}.lock")
        return self.lock(blob_id)


def hub_place(request: Request, hub: Path) -> Place:
    """Where huggingface_hub itself would put this repo."""
    return Place(hub / f"models--{request.source.root.replace('/', '--')}", Form.HUB, hub)


def place_of(request: Request, hub: Path, model_cache: Path, mount_root: Path | None) -> Place:
    """Where this request's files go.

    Args:
        mount_root: prefixes an absolute `mount_location`, or None.
    """
    match request.form:
        case Form.HUB:
            return hub_place(request, hub)
        case Form.MOUNT:
            mount = Path(request.folder)
            return Place(mount_root / mount.relative_to("/") if mount_root else mount, Form.MOUNT)
        case Form.VOLUME | Form.BUCKET:
            return Place(model_cache, request.form)


def is_commit(revision: str) -> bool:
    """Whether a Hub revision names itself: a full commit needs no pin and no ref."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def pin_name(request: Request) -> str | None:
    """Return the name under which a root keeps this request's pin; None where nothing can move."""
    if request.source.kind is not Kind.HUGGINGFACE or is_commit(request.revision):
        return None
    return f"{request.source.root}@{request.revision}"


@lru_cache(1 << 16)  # asked several times a file
def blob_id(identity: str, form: Form) -> str:
    """Return the file name of these bytes: in the hub cache the ETag (the digest), elsewhere a name of ours."""
    if form is Form.HUB:
        return identity.partition(":")[2]
    return hashlib.sha256(identity.encode()).hexdigest()[:40]
