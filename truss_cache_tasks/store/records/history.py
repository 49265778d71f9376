"""The history of a cache root, `runs.jsonl`: a line for each entry of a run that changed something in the root.

Every function is called under the root's lock, so that the cut loses no line of another process.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Mapping
from stat import S_ISREG
from typing import Any

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import FORMAT, RECORDS
from truss_cache_tasks.store.files.disk import disk_errors
from truss_cache_tasks.store.files.names import HISTORY
from truss_cache_tasks.store.files.record_file import write_text
from truss_cache_tasks.store.files.tree import FileTree
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.version import __version__

_MOST_RUNS = 200
_MOST_BYTES = 1 << 20  # of the file: what is longer is cut to half of it
_TAIL = 1 << 15  # bytes: longer than any line of ours
_MOST_NAMES, _LONGEST_TEXT = 10, 200  # in a line
_URL = re.compile(r"(https?://)(?:[^\s/?#]*@)?([^\s?#]*)(?:[?#]\S*)?", re.IGNORECASE)


def new_line(run: str, project: str, did: str) -> dict[str, Any]:
    """Return what each line of the history begins with.

    Args:
        run: the id of the invocation.
        project: its id.
        did: what was done, in one word.
    """
    return {
        "format": FORMAT,
        "run": run,
        "when": round(time.time(), 3),
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "version": __version__,
        "project": project,
        "did": did,
    }


def shortened(text: str) -> str:
    """Return a text for a line: without users and queries of URLs, and cut at 200 characters.

    >>> shortened("https://user:password@host/w.bin?signature=abc: status 403")
    'https://host/w.bin status 403'
    """
    text = _URL.sub(r"\1\2", text)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def append_removal(
    root: CacheRoot, run: str, project: str, did: str, names: Collection[str], *, files: int, size: int
) -> None:
    """Append the line of a removal; nothing in a root whose last record was removed.

    Args:
        run, project, did: see `new_line`.
        names: of the claims that it was about; the first 10 are written.
        files, size: how many files and links were removed, and the bytes that this freed.

    Raises:
        DiskError: the history cannot be written.
    """
    entries = [shortened(name) for name in sorted(names)[:_MOST_NAMES]]
    line = {**new_line(run, project, did), "entries": entries, "files": files, "size": size}
    append_line(root, line)


def append_line(root: CacheRoot, line: Mapping[str, Any]) -> None:
    """Append a line in one write, and cut the history to the lines of its last 200 runs, and to 1 MiB.

    Nothing is written in a root that has no other record: the history goes with the last of them.

    Raises:
        DiskError: the history cannot be written.
    """
    if not has_records(root):
        return
    with disk_errors(f"cannot write {root.path / HISTORY}"):
        is_new_run = _append(root, line)
        if is_new_run:
            _cut(root.tree)


def has_records(root: CacheRoot) -> bool:
    """Whether the root has a manifest, claims, or a note of a fetch."""
    return any(root.tree.names(f"{RECORDS}/{folder}") for folder in ("manifests", "claims", "fetches"))


def _append(root: CacheRoot, line: Mapping[str, Any]) -> bool:
    """Write the line; return whether the history may have to be cut: it grew by a run, or is too long."""
    descriptor = root.tree.open(HISTORY, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK)
    try:
        stat = os.fstat(descriptor)
        if not S_ISREG(stat.st_mode) or stat.st_nlink > 1:
            hint = "Move it away."
            raise DiskError(f"{root.path / HISTORY}: no history, expected a file with one name", hint=hint)
        tail = os.pread(descriptor, _TAIL, max(0, stat.st_size - _TAIL))
        text = json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"  # surrogates: `\ud800`
        if tail and not tail.endswith(b"\n"):  # its writer was killed, or its disk full
            text = b"\n" + text
        os.write(descriptor, text)
    finally:
        os.close(descriptor)
    last = _parse(tail.rstrip(b"\n").rpartition(b"\n")[2])
    return last is None or last.get("run") != line["run"] or stat.st_size > _MOST_BYTES


def _cut(tree: FileTree) -> None:
    """Replace the history by the lines of its last runs; drop lines that cannot be read, and keep newer formats."""
    with open(tree.open(HISTORY, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_BYTES))
        start, lines = file.tell(), file.read().split(b"\n")
    kept: list[bytes] = []
    runs: set[Any] = set()
    size = 0
    for text in reversed(lines[1:] if start else lines):
        line = _parse(text)
        if line is None:
            continue
        size += len(text) + 1
        runs.add(line["run"])
        if len(runs) > _MOST_RUNS or (start and size > _MOST_BYTES // 2):
            break
        kept.append(text)
    if start or len(kept) < sum(map(bool, lines)):
        write_text(tree, HISTORY, "".join(f"{text.decode()}\n" for text in reversed(kept)))


def _parse(text: bytes) -> dict[str, Any] | None:
    """Return the line of a run; None for what is none."""
    try:
        line = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("run"), str) else None
