"""Facts: what a command found, as one JSON document on stdout (`--json`). The schema: docs/reference/json.md."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truss_cache_tasks.errors import CacheTaskError

if TYPE_CHECKING:
    from truss_cache_tasks.app.workspace import Workspace
    from truss_cache_tasks.model.records import Manifest
    from truss_cache_tasks.operations.context import EntryContext

VERSION = 1  # of the documents; a new one for each change that a reader of the old one would not survive

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Facts:
    """Collects what one command found. Any thread may add to it."""

    def __init__(self, command: str) -> None:
        self.command = command
        self._values: dict[str, Any] = {}
        self._configs: dict[str, None] = {}
        self._warnings: dict[str, None] = {}
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        self._errors: list[dict[str, Any]] = []

    def put(self, **values: Any) -> None:
        """Set keys of the document."""
        self._values.update(values)

    def add(self, key: str, value: Any) -> None:
        """Add to a list of the document."""
        self._values.setdefault(key, []).append(value)

    def config(self, workspace: Workspace) -> None:
        """Add the path of a config, and its warnings."""
        self._configs[str(workspace.path)] = None
        self._warnings.update(dict.fromkeys(workspace.all_warnings))

    def warn(self, warnings: Iterable[str]) -> None:
        """Add warnings."""
        self._warnings.update(dict.fromkeys(warnings))

    def entry(self, label: str, context: EntryContext, **values: Any) -> None:
        """Set keys of one entry; entries are listed in the order of their first call.

        Args:
            label: its name on the command line.
        """
        config = str(context.entry.config)
        self._entries.setdefault((config, label), {"name": label, "config": config}).update(values)

    def error(self, error: BaseException, entry: str = "", message: str = "") -> None:
        """Add an error.

        Args:
            entry: the name of the entry that failed; "" for the whole command.
            message: in place of that of the error, as for an internal one.
        """
        self._errors.append({"entry": entry or None, **facts_of_error(error, message)})

    @property
    def has_errors(self) -> bool:
        """Whether an error was added."""
        return bool(self._errors)

    def document(self, exit_status: int) -> str:
        """Return the document, with a newline at its end."""
        facts: dict[str, Any] = {
            "schema": f"truss-cache.{self.command}",
            "version": VERSION,
            "exit_status": exit_status,
            "configs": list(self._configs),
            "warnings": list(self._warnings),
            "errors": list(self._errors),
        }
        if self._entries:
            facts["entries"] = list(self._entries.values())
        return f"{to_json(facts | self._values, indent=2)}\n"


def facts_of_error(error: BaseException, message: str = "") -> dict[str, Any]:
    """Return class, message and hint of an error; the text of an internal one may hold secrets, and is left out."""
    if isinstance(error, CacheTaskError):
        return {"class": type(error).__name__, "message": message or str(error), "hint": error.hint}
    return {"class": "InternalError", "message": message or f"internal error: {type(error).__name__}", "hint": None}


def facts_of_manifest(context: EntryContext, manifest: Manifest) -> dict[str, Any]:
    """Return what an entry that was fetched has: the folder to open, and its files."""
    return {
        "path": context.root.path / manifest.folder,
        "revision": manifest.revision,
        "snapshot_key": manifest.snapshot,
        "files": len(manifest.files),
        "size": manifest.size,
        "unverified": sum(not file.digest for file in manifest.files),
    }


def to_json(value: Any, *, indent: int | None = None) -> str:
    r"""Return JSON in ASCII that every parser reads, without a newline at its end.

    A number that is not finite becomes null. Half a surrogate pair, which Python puts for a byte of a path that is not
    UTF-8, becomes the six characters of its escape. Control characters are escaped.

    >>> to_json({"a": float("nan"), "b": "\udcff\x1b\x7f"})
    '{"a":null,"b":"\\\\udcff\\u001b\\u007f"}'

    Args:
        indent: spaces of a level; None for one line.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(_plain(value), allow_nan=False, indent=indent, separators=separators)
    return text.replace("\x7f", "\\u007f")


def _plain(value: Any) -> Any:
    """Return the value made of dicts, lists, texts, finite numbers, booleans and None alone."""
    match value:
        case bool() | int() | None:
            return value
        case str():
            return _LONE_SURROGATE.sub(lambda found: repr(found[0])[1:-1], value)
        case float():
            return value if math.isfinite(value) else None
        case Path():
            return _plain(str(value))
        case Mapping():
            return {_plain(str(key)): _plain(item) for key, item in value.items()}
        case Iterable():
            return [_plain(item) for item in value]
    raise TypeError(f"no JSON for {type(value).__name__}")
