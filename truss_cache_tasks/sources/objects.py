"""Rules of buckets, without I/O: which objects a URI names, and whether pinned files are there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from truss_cache_tasks.errors import NotFound, NothingSelected
from truss_cache_tasks.model.listing import Digest, FilePin, Listing, RemoteFile
from truss_cache_tasks.model.request import SourceRef


def under_prefix(objects: Iterable[RemoteFile], source: SourceRef) -> Listing:
    """Return the Listing of what `source` names among `objects`.

    Args:
        objects: of a bucket, in any order: all whose keys begin with `source.prefix`, and any others, which are dropped
            here, as siblings are (`m-hf/x` beside `m`). Their `path` is not read, but replaced.
        source: a bucket (`root`) and a prefix without slashes at its ends, "" for the whole bucket.

    A key that ends in `/` is a folder marker, whatever its size; any other zero-byte object is a file.

    Raises:
        NothingSelected: there is no object, or there are only folder markers; the message says which.

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


def check_pins(
    found: Iterable[RemoteFile], pins: Iterable[FilePin], source: SourceRef, known: Iterable[RemoteFile] = ()
) -> list[RemoteFile]:
    """Return the files that `pins` name, each with the digest of its pin, which its bytes are then compared with.

    A file whose pin has no digest keeps that of the store.

    Args:
        found: files of the store; at most one for each key of a pin.
        known: what else the store has under these keys, for the message.

    Raises:
        NotFound: a pinned file is not there any more, or is another one now.

    >>> here = RemoteFile("a", 1, "7", "a")
    >>> check_pins([here], [FilePin("a", "7")], SourceRef("gs", "b")) == [here]
    True
    """
    files = {file.key: file for file in found}
    others = {file.key: file for file in known}
    return [_checked(files.get(pin.key), pin, source, others.get(pin.key)) for pin in pins]


def _checked(file: RemoteFile | None, pin: FilePin, source: SourceRef, other: RemoteFile | None) -> RemoteFile:
    there = file or other
    if file is not None and pin.version in ("", file.version) and not _contradict(pin.digest, file.digest):
        return replace(file, digest=pin.digest or file.digest)
    pinned = " ".join(str(part) for part in (pin.version_id or pin.version, pin.digest) if part)
    now = "it is gone"
    if there is not None:
        now = f"the store has {' '.join(str(part) for part in (there.version, there.digest) if part)}"
    raise NotFound(
        f"{source}: {pin.key} is pinned at {pinned or 'any version'}, and {now}",
        hint="Put the pinned version back, or pin the one that is there.",
    )


def _contradict(one: Digest | None, other: Digest | None) -> bool:
    """Return whether two digests cannot be of the same bytes; False for two algorithms, which cannot be compared."""
    if one is None or other is None or (one.algorithm, one.parts) != (other.algorithm, other.parts):
        return False
    return one.value != other.value
