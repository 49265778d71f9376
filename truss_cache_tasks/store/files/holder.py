"""Write and read, in the file of a lock, who holds it: for the messages of processes that wait.

No decision depends on it. Where the text is missing, cut or stale, a message lacks the name or has a wrong one.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from stat import S_ISREG
from typing import Any

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.events import Holder
from truss_cache_tasks.model.records import FORMAT
from truss_cache_tasks.store.files import record_file
from truss_cache_tasks.store.files.record_file import Unreadable, check_fields, check_format
from truss_cache_tasks.store.files.tree import FileTree

_SIZE = 512  # bytes of every text: written over the one before in one call, and never longer or shorter than it
_LONGEST_HOST = 64  # HOST_NAME_MAX of Linux
_END_OF_TIME = 253_370_764_800  # the year 9999, which every clock can show
_FIELDS: dict[str, record_file.Check] = {
    "host": lambda value: record_file.is_text(value) and 0 < len(value) <= _LONGEST_HOST and value.isprintable(),
    "pid": lambda value: type(value) is int and 0 < value < 1 << 31,
    "since": lambda value: type(value) in (int, float) and 0 <= value < _END_OF_TIME,
    "waits": bool,
    "done": record_file.is_size,
    "size": record_file.is_size,
}


def write(descriptor: int, holder: Holder) -> None:
    """Write who holds the lock into its file. A file that cannot be written is left, or emptied."""
    known = {name: value for name, value in asdict(holder).items() if value is not None}
    text = json.dumps({"format": FORMAT, **known, "host": holder.host[:_LONGEST_HOST]}).encode()
    try:
        os.pwrite(descriptor, text.ljust(_SIZE - 1) + b"\n", 0)
    except OSError:  # another user's file, or a full disk
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)


def read(tree: FileTree, path: str) -> Holder | None:
    """Return who holds the lock whose file is at `path`; None where that file does not say."""
    try:
        descriptor = tree.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, DiskError):
        return None
    try:
        text = os.pread(descriptor, _SIZE, 0) if S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return None
    finally:
        os.close(descriptor)
    try:
        value: Any = check_format(json.loads(text))
        return Holder(**check_fields(value, _FIELDS, "it", optional=("waits", "done", "size"), more=True))
    except (ValueError, RecursionError, Unreadable):
        return None
