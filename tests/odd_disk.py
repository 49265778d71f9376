"""A disk that lacks something, or fails in the middle: the library of tests/odd_disk.c, preloaded into a command.

def test_...(odd_disk, truss):
    truss.cli(**odd_disk(truss.root, "symlink=ENOSYS,link=ENOSYS"))     # no links below that folder
    truss.cli(**odd_disk(truss.root, "change=EROFS@20"))                # read-only from the 20th change on
    truss.cli(**odd_disk(truss.root, "flock=ok"))                       # locks that do nothing
    truss.cli(**odd_disk(truss.root, "change=kill@20"))                 # SIGKILL just before the 20th change
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.tools import require

OddDisk = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def odd_disk(tmp_path_factory: pytest.TempPathFactory) -> OddDisk:
    """Return what makes the variables of a command whose disk is odd below a folder."""
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD of Linux")
    library = build(tmp_path_factory.mktemp("odd_disk"))

    def variables(below: Path, rules: str, count: Path | None = None) -> dict[str, str]:
        return {"LD_PRELOAD": str(library), **ruled(below, rules, count)}

    return variables


def build(folder: Path) -> Path:
    """Compile the library into `folder`, and return its path."""
    library = folder / "odd_disk.so"
    compiler = require("gcc", "apt-get install gcc libc6-dev")
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


def ruled(below: Path, rules: str, count: Path | None = None, only: str = "") -> dict[str, str]:
    """Return the variables that give a process in which the library is these rules for the disk below a folder.

    Args:
        rules: as in tests/odd_disk.c, with the names of errno in place of its numbers.
        count: the file that gets how many calls of each kind were made.
        only: calls count whose path has this text in it.
    """
    numbers = re.sub("E[A-Z0-9]+", lambda name: str(getattr(errno, name[0])), rules)
    env = {"ODD_DISK_BELOW": os.path.realpath(below), "ODD_DISK_RULES": numbers, "ODD_DISK_ONLY": only}
    return env if count is None else {**env, "ODD_DISK_COUNT": str(count)}
