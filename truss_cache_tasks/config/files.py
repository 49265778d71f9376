"""Find the config file that a path names, and show its path. Imports no PyYAML."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from truss_cache_tasks.errors import ConfigError

NAMES = ("config.yaml", "config.yml")


def find_config(path: Path) -> Path:
    """Return the absolute path of the config file that `path` names: the file itself, or the one in that folder.

    Raises:
        ConfigError: there is none, there are two (config.yaml and config.yml), or it is not a file.
    """
    path = Path(os.path.abspath(path))
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode) and path.name not in NAMES:
        found = [path / name for name in NAMES if _mode(path / name) is not None]
        path = found[0] if found else path / NAMES[0]
        mode = _mode(path)
    if mode is None:
        raise ConfigError(f"{shown_path(path)}: not found", hint=_hint_for_missing(path))
    if path.name in NAMES:
        _refuse_second_config(path)
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise ConfigError(f"{shown_path(path)}: is {what}", hint="Put a YAML file there, or name another path.")
    return path


def shown_path(path: Path) -> str:
    """Return `path` for messages: relative to the working folder where it is below that, else absolute."""
    try:
        return str(path.relative_to(os.getcwd()))
    except (ValueError, OSError):
        return str(path)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else str(why)
        raise ConfigError(f"{str(path)!r}: cannot be looked at ({reason})", hint="Name another path.") from None


def _hint_for_missing(path: Path) -> str:
    if path.name == NAMES[0] and _mode(path.with_name(NAMES[1])) is not None:
        return f"Name {NAMES[1]} instead, which is there."
    return "Write one there, or name another: cache_tasks(PATH), TRUSS_CONFIG or `truss-cache -f PATH`."


def _refuse_second_config(path: Path) -> None:
    twin = path.with_name(NAMES[1] if path.name == NAMES[0] else NAMES[0])
    if _mode(twin) is not None:
        raise ConfigError(f"{shown_path(path)}: {twin.name} is there too", hint="Keep one of the two, and remove it.")
