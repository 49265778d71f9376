"""LocalBlob: a whole, verified file on this disk, and how it gets another name: hard link, reflink or copy."""

from __future__ import annotations

import contextlib
import os
from stat import S_IRGRP, S_IROTH, S_IRUSR, S_ISREG
from typing import TYPE_CHECKING, NamedTuple

from truss_cache_tasks.store.files.disk import NO_LINKS, copy_file, token
from truss_cache_tasks.store.files.names import PARTIALS
from truss_cache_tasks.store.files.tree import FileTree

if TYPE_CHECKING:
    from truss_cache_tasks.network.cancel import CancelToken

_ALL_READ = S_IRUSR | S_IRGRP | S_IROTH


class Vanished(Exception):
    """A file that was found on this disk is gone, or is another one now: the disk has to be looked at again."""


class Taken(Vanished):
    """Another process put something at an empty path before we showed a file there: what is there is not ours."""


class FoundFile(NamedTuple):
    """A file with bytes, no link.

    Args:
        tree, path: where it is; `stat` of it.
        blob: the blob of the hub cache that led to the file, relative to its root; "" for none.
    """

    tree: FileTree
    path: str
    stat: os.stat_result
    blob: str = ""

    def is_same_file(self, other: FoundFile | None) -> bool:
        """Whether both are names of one file."""
        return other is not None and os.path.samestat(self.stat, other.stat)


def found_file(tree: FileTree, path: str, stat: os.stat_result, blob: str = "") -> FoundFile | None:
    """Return the file at `path`, which has this stat; None if it is no regular file, or this user may not read it."""
    if not S_ISREG(stat.st_mode):
        return None
    is_for_all = is_readable_by_all(stat)
    is_for_owner = stat.st_mode & S_IRUSR and stat.st_uid == os.geteuid()
    return FoundFile(tree, path, stat, blob) if is_for_all or is_for_owner or tree.is_readable(path) else None


def is_readable_by_all(stat: os.stat_result) -> bool:
    """Whether this is the stat of a regular file that every user may read."""
    return S_ISREG(stat.st_mode) and stat.st_mode & _ALL_READ == _ALL_READ


class LocalBlob(NamedTuple):
    """Bytes that are on this disk, whole and verified, and the file that held them when it was looked at.

    Args:
        tree, path: the file itself, no link.
        size: bytes.
        xxh3: our xxh3-128 of them.
        digest: `algorithm:hex` of the store's digest that confirmed them once; "" is unverified.
        device, inode, mtime_ns: of the file, to tell it from another one that gets its name.
        ours: we made the file; one that huggingface_hub or the user made is never removed.
    """

    tree: FileTree
    path: str
    size: int
    xxh3: str
    digest: str
    device: int
    inode: int
    mtime_ns: int
    ours: bool = True

    def is_file(self, stat: os.stat_result | None) -> bool:
        """Whether `stat` is of this very file, not written to since it was looked at."""
        return (
            stat is not None
            and S_ISREG(stat.st_mode)
            and (stat.st_dev, stat.st_ino) == (self.device, self.inode)
            and (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)
        )

    def stat(self) -> os.stat_result:
        """Return the stat of the file. Raises Vanished where it is not this one any more."""
        stat = self.tree.lstat(self.path)
        if stat is None or not self.is_file(stat):
            raise Vanished(self.path)
        return stat


def local_blob(
    tree: FileTree, path: str, stat: os.stat_result, xxh3: str, digest: str, *, ours: bool = True
) -> LocalBlob:
    """Return the LocalBlob of the file `path`, which has this `stat` and this xxh3-128."""
    return LocalBlob(tree, path, stat.st_size, xxh3, digest, stat.st_dev, stat.st_ino, stat.st_mtime_ns, ours)


def link_or_copy(
    blob: LocalBlob, tree: FileTree, path: str, cancel: CancelToken, *, link: bool = True
) -> os.stat_result:
    """Make `path`, where nothing lies, the same bytes as `blob`: hard link, else reflink, else copy.

    The bytes of a copy are hashed and compared; a hard link must be of the very file that was looked at.

    Args:
        link: it may be a hard link. False for a file of the user, who may write to it.

    Raises:
        Vanished: `blob` is not there any more.
    """
    if link and (stat := link_blob(blob, tree, path)) is not None:
        return stat
    try:
        return _copy(blob, tree, path, cancel)
    except FileNotFoundError as exc:
        raise Vanished(path) from exc


def _copy(blob: LocalBlob, tree: FileTree, path: str, cancel: CancelToken) -> os.stat_result:
    try:
        if copy_file(blob.tree, blob.path, tree, path, cancel) != blob.xxh3:
            raise Vanished(path)
    except BaseException:
        with contextlib.suppress(OSError):
            tree.unlink(path)
        raise
    stat = tree.lstat(path)
    if stat is None:
        raise Vanished(path)
    return stat


def link_blob(blob: LocalBlob, tree: FileTree, path: str) -> os.stat_result | None:
    """Make `path`, where nothing lies, a hard link of the very file that was looked at; None if these disks cannot.

    Raises:
        Vanished: `blob` is not there any more.
        FileExistsError: something lies at `path`.
    """
    try:
        tree.link(blob.tree, blob.path, path)
    except FileNotFoundError as exc:
        raise Vanished(path) from exc
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        return None
    stat = tree.lstat(path)
    if stat is None or not blob.is_file(stat):
        tree.unlink(path)
        raise Vanished(path)
    return stat


def show_file(tree: FileTree, source: str, path: str, size: int, *, is_over: bool) -> os.stat_result:
    """Give `source`, a file of our own folder, the name `path` in one step; return the stat of what is there then.

    Where the disk has hard links, `source` keeps its name too.

    Args:
        size: bytes that `source` must have.
        is_over: something lies at `path` that is to be replaced; else nothing may be replaced.

    Raises:
        Taken: another process put something at `path` meanwhile.
        Vanished: `source` is gone, or `path` is not this file afterwards.
    """
    meant = tree.lstat(source)
    if meant is None:
        raise Vanished(path)
    _give_name(tree, source, path, is_over=is_over)
    shown = tree.lstat(path)
    if shown is None or (shown.st_dev, shown.st_ino, shown.st_size) != (meant.st_dev, meant.st_ino, size):
        raise Vanished(path)
    return shown


def _give_name(tree: FileTree, source: str, path: str, *, is_over: bool) -> None:
    try:
        if not is_over:
            return tree.link(tree, source, path)
        temporary = f"{PARTIALS}/put.{token()}"
        tree.link(tree, source, temporary)
        return tree.rename(temporary, path)
    except FileExistsError as exc:
        raise Taken(path) from exc
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
    if not is_over and tree.lstat(path) is not None:
        raise Taken(path)
    tree.rename(source, path)
