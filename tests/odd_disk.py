"""A disk that lacks something, or fails in the middle: the library of tests/odd_disk.c, preloaded into a command.

def test_...(odd_disk, truss):
    truss.cli(**odd_disk(truss.root, "symlink=ENOSYS,link=ENOSYS"))     # no links below that folder
    truss.cli(**odd_disk(truss.root, "change=EROFS@20"))                # read-only from the 20th change on
    truss.cli(**odd_disk(truss.root, "flock=ok"))                       # locks that do nothing
    calls(truss, odd_disk, "run")["change"]                             # how many changes a run makes
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from preload import build

OddDisk = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def odd_disk(tmp_path_factory: pytest.TempPathFactory) -> OddDisk:
    """Return what makes the variables of a command whose disk is odd below a folder."""
    library = build("odd_disk", tmp_path_factory.mktemp("odd_disk"))

    def variables(below: Path, rules: str, count: Path | None = None) -> dict[str, str]:
        numbers = re.sub("E[A-Z0-9]+", lambda name: str(getattr(errno, name[0])), rules)
        env = {"LD_PRELOAD": str(library), "ODD_DISK_BELOW": os.path.realpath(below), "ODD_DISK_RULES": numbers}
        return env if count is None else {**env, "ODD_DISK_COUNT": str(count)}

    return variables
