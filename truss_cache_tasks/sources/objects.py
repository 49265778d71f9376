"""What a bucket URI names: the rules of docs/contract.md for prefixes, one object, and folder markers. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from truss_cache_tasks.errors import NothingSelected
from truss_cache_tasks.model.listing import Listing, RemoteFile
from truss_cache_tasks.model.request import SourceRef


def under_prefix(objects: Iterable[RemoteFile], source: SourceRef) -> Listing:
    """Return the Listing of what `source` names among `objects`.

    Args:
        objects: N >= 0 of a bucket, in any order, at least those whose keys begin with `source.prefix`; siblings
            (`m-hf/x` beside `m`) are dropped here. `path` is not read, only rewritten.
        source: a bucket (`root`) and a prefix without slashes at its ends, "" for the whole bucket.

    A key that ends in `/` is a folder marker, whatever its size; a zero-byte object is a file.

    Raises:
        NothingSelected: nothing is there, or folder markers alone, and the message says which.

    >>> def at(key): return RemoteFile("", 1, "v", key)
    >>> found = under_prefix([at("m/a.bin"), at("m/b/"), at("m-hf/x")], SourceRef("s3", "b", "m"))
    >>> [file.path for file in found.files], found.single
    (['a.bin'], False)
    >>> found = under_prefix([at("m/a.bin"), at("m/a.bin.bak")], SourceRef("s3", "b", "m/a.bin"))
    >>> [file.path for file in found.files], found.single
    (['a.bin'], True)
    """
    folder = source.prefix + "/" if source.prefix else ""
    inside: list[RemoteFile] = []
    itself: RemoteFile | None = None
    markers = 0
    for found in objects:
        if source.prefix and found.key == source.prefix:
            itself = found
        elif not found.key.startswith(folder):
            continue
        elif found.key.endswith("/"):
            markers += 1
        else:
            inside.append(replace(found, path=found.key[len(folder) :]))
    if inside:
        both = f"{source} is an object and a prefix: the {len(inside)} objects below it are taken, the object is not"
        return Listing("", tuple(inside), (both,) if itself else ())
    if itself:
        return Listing("", (replace(itself, path=itself.key.rpartition("/")[2]),), single=True)
    if markers:
        raise NothingSelected(
            f"{source}: found only folder markers (keys that end in '/'), no file",
            hint="Upload the weights below this prefix, or correct repo_id.",
        )
    raise NothingSelected(
        f"{source}: the bucket is readable, but has nothing " + (f"at {folder!r}" if folder else "in it"),
        hint="Correct the prefix in repo_id; capital letters count, and a prefix ends at a '/'.",
    )
