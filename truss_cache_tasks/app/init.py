"""`truss-cache init`: write the dodo.py of a Truss, and what git is to ignore."""

from __future__ import annotations

import os
from pathlib import Path

from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.app.output import Write
from truss_cache_tasks.config.files import NAMES, find_config, shown_path
from truss_cache_tasks.errors import DiskError

IGNORED = ("/cache/", "/.doit.db*")

_DODO = '''\
"""`doit` fetches the weights of {name} into cache/ and the hub cache, once, verified."""

from truss_cache_tasks import cache_tasks

task_cache_weights = cache_tasks({path}model_cache_dir="cache")
'''
_LINES = (
    "from truss_cache_tasks import cache_tasks",
    'task_cache_weights = cache_tasks({path}model_cache_dir="cache")',
)


def init(path: Path, write: Write, facts: Facts) -> int:
    """Write dodo.py beside a config where there is none, and add what is missing to .gitignore.

    Args:
        path: the config, or its folder.

    Returns:
        0; 1 if there is a dodo.py without our tasks: it is left alone, and the lines to add are written.

    Raises:
        ConfigError: there is no config.
        DiskError: a file cannot be written.
    """
    config = find_config(path)
    argument = "" if config.name in NAMES else f'"{config.name}", '
    dodo, ignore = config.parent / "dodo.py", config.parent / ".gitignore"
    try:
        state = _write_dodo(dodo, _DODO.format(name=config.name, path=argument))
        added = _ignore(ignore)
    except OSError as exc:
        raise DiskError(f"{config.parent}: cannot write there: {exc.strerror}", hint="Make it writable.") from exc
    write(f"{shown_path(dodo)}: {state}")
    if state == "left alone":
        write("it has no task of ours; add these lines:", *(f"    {line.format(path=argument)}" for line in _LINES))
    write(f"{shown_path(ignore)}: {' '.join(['added', *added]) if added else 'unchanged'}")
    facts.add("files", {"path": dodo, "state": state})
    facts.add("files", {"path": ignore, "state": "written" if added else "unchanged"})
    return int(state == "left alone")


def _write_dodo(path: Path, text: str) -> str:
    try:
        with open(path, "x", encoding="utf-8") as file:  # also where a link leads nowhere, nothing is made
            file.write(text)
    except FileExistsError:
        there = path.read_bytes() if path.is_file() else b""
        return "unchanged" if b"truss_cache_tasks" in there else "left alone"
    return "written"


def _ignore(path: Path) -> list[str]:
    """Append what is missing; return that. A link is not followed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with open(descriptor, "r+b", buffering=0) as file:
        before = file.read()
        there = {line.strip() for line in before.decode(errors="replace").splitlines()}
        added = [line for line in IGNORED if there.isdisjoint({line, line.strip("/"), line[1:], line.rstrip("/")})]
        if added:
            start = "\n" if before and not before.endswith(b"\n") else ""
            file.write("".join([start, *(f"{line}\n" for line in added)]).encode())
    return added
