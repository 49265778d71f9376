"""Everything of a tree that a command may leave changed.

before = state(folder)
...
assert changes(before, folder) == []
"""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import NamedTuple


class Node(NamedTuple):
    """What lies at one path, no link followed; of a folder no times, as what it holds stands for them."""

    kind: int
    inode: int
    owner: int
    links: int
    mtime_ns: int
    content: bytes | str


def node(path: Path) -> Node:
    """Return what lies at `path`: bytes of a file, target of a link, "" of anything else."""
    stat = path.lstat()
    content: bytes | str = ""
    if S_ISREG(stat.st_mode):
        content = path.read_bytes()
    elif S_ISLNK(stat.st_mode):
        content = os.readlink(path)
    folder = S_ISDIR(stat.st_mode)
    return Node(
        stat.st_mode,
        stat.st_ino,
        stat.st_uid,
        0 if folder else stat.st_nlink,
        0 if folder else stat.st_mtime_ns,
        content,
    )


def state(folder: Path) -> dict[str, Node]:
    """Return what lies below `folder`, by relative path, no link followed."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = node(path)
    return found


def changes(before: dict[str, Node], folder: Path, *, links: bool = True) -> list[str]:
    """Return the paths below `folder` that came, went, or are not what they were.

    Args:
        links: how many names a file has elsewhere counts too.
    """
    there, here = (
        {path: one if links else one._replace(links=0) for path, one in nodes.items()}
        for nodes in (before, state(folder))
    )
    return [path for path in sorted({*there, *here}) if there.get(path) != here.get(path)]
