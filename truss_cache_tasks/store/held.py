"""LocalBlob: a whole, verified file on this disk, and how it gets another name: hard link, reflink or copy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from truss_cache_tasks.store.disk import NO_LINKS, copy_file
from truss_cache_tasks.store.tree import FileTree


class Vanished(Exception):
    """What was found on this disk is there no more, or is not what it was: look again."""


class Taken(Vanished):
    """Something came to a path where nothing lay, before we showed anything there: it is not ours."""


@dataclass(frozen=True)
class LocalBlob:
    """Bytes that are on this disk, whole and verified, and the file that held them when it was looked at.

    Args:
        root, at: the file itself, no link.
        size: bytes.
        xxh3: our xxh3-128 of them.
        digest: `algorithm:hex` of the store's digest that confirmed them once; "" is unverified.
        device, inode, mtime_ns: of the file: another one of its name is another file.
        ours: we brought them; what huggingface_hub left is not ours to remove.
    """

    root: FileTree
    at: str
    size: int
    xxh3: str
    digest: str
    device: int
    inode: int
    mtime_ns: int
    ours: bool = True

    @property
    def path(self) -> Path:
        """The file, for people and for questions about its disk."""
        return self.root.path / self.at

    def is_file(self, stat: os.stat_result | None) -> bool:
        """Whether `stat` is of this very file, not written to since it was looked at."""
        return (
            stat is not None
            and S_ISREG(stat.st_mode)
            and (stat.st_dev, stat.st_ino) == (self.device, self.inode)
            and (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)
        )

    @property
    def is_unchanged(self) -> bool:
        """Whether the file is still there, and is this one."""
        return self.is_file(self.root.lstat(self.at))


def held_file(root: FileTree, at: str, stat: os.stat_result, xxh3: str, digest: str, *, ours: bool = True) -> LocalBlob:
    """Return what `stat` says of the file `at`, whose bytes have this xxh3-128."""
    return LocalBlob(root, at, stat.st_size, xxh3, digest, stat.st_dev, stat.st_ino, stat.st_mtime_ns, ours)


def place_file(
    held: LocalBlob, root: FileTree, path: str, stopped: Callable[[], bool], *, link: bool = True
) -> os.stat_result:
    """Make `path`, where nothing lies, the same bytes as `held`: hard link, else reflink, else copy.

    A copy is hashed before it is believed, a hard link is compared with the file that was looked at.

    Args:
        link: it may be a hard link; not of a file of the user's, who may write to it.

    Raises:
        Vanished: `held` is not there any more.
    """
    try:
        _link_or_copy(held, root, path, stopped, link=link)
        stat = root.lstat(path)
        if stat is None:
            raise Vanished(path)
    except FileNotFoundError as exc:
        raise Vanished(path) from exc
    return stat


def _link_or_copy(held: LocalBlob, root: FileTree, path: str, stopped: Callable[[], bool], *, link: bool) -> None:
    if link and _is_linked(held, root, path):
        return
    try:
        if copy_file(held.root, held.at, root, path, stopped) != held.xxh3:
            raise Vanished(path)
    except BaseException:
        with contextlib.suppress(OSError):
            root.unlink(path)
        raise


def _is_linked(held: LocalBlob, root: FileTree, path: str) -> bool:
    """Make a hard link of the very file that was looked at, if these disks can."""
    try:
        root.link(held.root, held.at, path)
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        return False
    if not held.is_file(root.lstat(path)):
        root.unlink(path)
        raise Vanished(path)
    return True
