"""Search the config that a command without `-f` is about: in the current folder, then in those above it."""

from __future__ import annotations

import os
from pathlib import Path

from truss_cache_tasks.config.files import NAMES


def search_config(start: Path, home: str) -> Path | None:
    """Return the folder of the nearest config, None if there is none.

    The folder with `.git`, the home folder and the top of a file system are searched, and none above them: what is
    there belongs to another project, or to another user.

    Args:
        start: absolute, without links.
        home: the user's home folder.
    """
    top = os.path.realpath(home)
    for folder in (start, *start.parents):
        try:
            if os.stat(folder).st_dev != os.stat(start).st_dev:
                return None
        except OSError:
            return None
        if any(os.path.lexists(folder / name) for name in NAMES):
            return folder
        if os.path.lexists(folder / ".git") or str(folder) == top:
            return None
    return None
