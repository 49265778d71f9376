"""A disk that lacks something, or fails in the middle: the library of tests/odd_disk.c, preloaded into a command.

def test_...(odd_disk, truss):
    truss.cli(**odd_disk(truss.root, "symlink=ENOSYS,link=ENOSYS"))     # no links below that folder
    truss.cli(**odd_disk(truss.root, "change=EROFS@20"))                # read-only from the 20th change on
    truss.cli(**odd_disk(truss.root, "change=EIO@20!"))                 # the 20th change fails, and no other
    truss.cli(**odd_disk(truss.root, "flock=ok"))                       # locks that do nothing
    calls(truss, odd_disk, "run")["change"]                             # how many changes a run makes
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import preload
import pytest

OddDisk = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def odd_disk(tmp_path_factory: pytest.TempPathFactory) -> OddDisk:
    """Return what makes the variables of a command whose disk is odd below a folder."""
    library = build(tmp_path_factory.mktemp("odd_disk"))

    def of(below: Path, rules: str, count: Path | None = None) -> dict[str, str]:
        return {"LD_PRELOAD": str(library), **variables(below, rules, count)}

    return of


def build(folder: Path) -> Path:
    """Compile the library into `folder`; return its path."""
    return preload.build("odd_disk", folder)


def variables(
    below: Path, rules: str, count: Path | None = None, failed: Path | None = None, only: str = ""
) -> dict[str, str]:
    """Return the variables of a disk that is odd below a folder, without the one that loads the library.

    Args:
        rules: with names of errors.
        count: a file that gets the number of calls.
        failed: a file that gets the first call that failed.
        only: calls count whose path has this text in it; with `$` after it, at its end.
    """
    numbers = re.sub("E[A-Z0-9]+", lambda name: str(getattr(errno, name[0])), rules)
    env = {"ODD_DISK_BELOW": os.path.realpath(below), "ODD_DISK_RULES": numbers, "ODD_DISK_ONLY": only}
    env |= {} if count is None else {"ODD_DISK_COUNT": str(count)}
    return env | ({} if failed is None else {"ODD_DISK_FAILED": str(failed)})
