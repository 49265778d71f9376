"""`truss-cache migrate`: print a config in its next form as a diff. Nothing is written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from truss_cache_tasks.app import output
from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.config.files import shown_path
from truss_cache_tasks.config.migration import migrate


def print_migration(config: Path, write: output.Write, facts: Facts) -> None:
    """Write the diff that makes `weights` of the entries of a config; `patch -p0` takes it. Raises as `migrate`."""
    found = migrate(config)
    diff = list(_diff(found.before, found.after, shown_path(config)))
    facts.warn(found.notes)
    facts.add("files", {"path": config, "diff": diff})
    if not diff:
        output.notify(f"{shown_path(config)}: found no `model_cache` entries, nothing to migrate")
        return
    write(*diff)
    for note in found.notes:
        output.notify(f"warning: {note}")


def _diff(before: str, after: str, name: str) -> Iterator[str]:
    for line in difflib.unified_diff(_lines(before), _lines(after), name, name):
        yield line.rstrip("\r\n")
        if not line.endswith("\n"):
            yield "\\ No newline at end of file"


def _lines(text: str) -> list[str]:
    return re.findall(r".*\n|.+", text)
