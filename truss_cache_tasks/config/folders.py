"""Parse volume_folder and mount_location: normalise the path, and refuse one that leaves its root."""

from __future__ import annotations

from truss_cache_tasks.config.fields import InvalidText
from truss_cache_tasks.model.records import RECORDS


def parse_volume_folder(text: str) -> str:
    """Return `text` relative and without `.` or empty components. Raises InvalidText.

    >>> parse_volume_folder("./llama//fp16/")
    'llama/fp16'
    """
    if text.startswith("/"):
        raise InvalidText(f"{text!r} is absolute", "Write a folder relative to the model cache, such as llama.")
    parts = _parts(text)
    if not parts:
        raise InvalidText(f"{text!r} is the model cache itself", "Name a folder in it, such as llama.")
    return "/".join(parts)


def parse_mount_location(text: str) -> str:
    """Return `text` absolute and without `.` or empty components. Raises InvalidText.

    >>> parse_mount_location("//models/./llama/")
    '/models/llama'
    """
    if not text.startswith("/"):
        raise InvalidText(f"{text!r} is relative", "Write an absolute path, such as /models/llama.")
    parts = _parts(text)
    if not parts:
        raise InvalidText("the root folder cannot be a mount", "Write a folder of its own, such as /models/llama.")
    return "/" + "/".join(parts)


def _parts(text: str) -> list[str]:
    """Return the components of a path without `.` and empty ones. Raises InvalidText for `..` and our own folder."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidText(f"{text!r} leaves its folder by '..'", "Write the path without '..'.")
    if any(part.casefold() == RECORDS for part in parts):
        raise InvalidText(f"{text!r} goes into {RECORDS}, where our own records are", "Choose another name.")
    return parts
