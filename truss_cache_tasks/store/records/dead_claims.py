"""Tell which claims are dead: of this host without their config, or of another host and not renewed for a given time.

A claim that is wrongly taken for dead costs its project a fetch; one that is wrongly taken for living costs disk space.
Where it cannot be told, a claim lives (docs/adr/0023).
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from truss_cache_tasks.model.records import ClaimId, Claims, Maker, Project
from truss_cache_tasks.store.records.claims import current_claims

# Disks are mounted in these by convention, below a folder that goes with the disk
_FOLDERS_OF_MOUNTS = {"/", "/mnt", "/media", "/net", "/Volumes", "/run/media"}


@dataclass(frozen=True)
class DeadRule:
    """Tells which claims are dead.

    Args:
        projects: whose entries are living whatever their claims say: their configs have just been read.
        host: this host.
        now: seconds since the epoch.
        older_than_s: claims of other hosts that were last renewed longer ago are dead; None: none are.
    """

    projects: tuple[Project, ...]
    host: str
    now: float
    older_than_s: float | None = None
    _gone: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def why_dead(self, claim: ClaimId, maker: Maker) -> str:
        """Return why a claim is dead, one clause; "" for a living one."""
        if (project := self.project_of(claim)) is not None and claim[1] in project.entries:
            return ""
        if maker.host != self.host:
            return "of another host, and not renewed since" if self._is_old(maker.when) else ""
        return "its config is gone" if self.is_gone(maker.config) else ""

    def is_gone(self, config: str) -> bool:
        """Whether this config of this host is gone; looked up once."""
        if config not in self._gone:
            self._gone[config] = is_config_gone(config)
        return self._gone[config]

    def project_of(self, claim: ClaimId) -> Project | None:
        """Return the project of a claim, if its config was read."""
        return next((project for project in self.projects if project.id == claim[0]), None)

    def current(self, project: str, stored: Claims) -> Claims:
        """Return the claims of the project of this id: if its config was read, as that stands now."""
        known = self.project_of((project, ""))
        return stored if known is None else current_claims(stored, known)

    def _is_old(self, when: float) -> bool:
        return self.older_than_s is not None and math.isfinite(when) and when < self.now - self.older_than_s


def is_config_gone(config: str) -> bool:
    """Return whether the file at this absolute path was removed, or the folders above it were.

    False where that cannot be told: permission denied, a loop of links, a link that leads nowhere, a disk that is not
    mounted, a disk that is mounted on demand, or no folder of the path but those in which disks are mounted.
    """
    if not config.startswith("/"):
        return False
    try:
        os.lstat(config)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError):  # a path that no disk can have comes from a damaged record
        return False
    else:
        return False
    nearest = _nearest_there(config)
    if nearest is None or nearest in _FOLDERS_OF_MOUNTS or os.path.dirname(nearest) in ("/media", "/run/media"):
        return False
    mounted = dict(_mounted())
    holding = max((point for point in mounted if _is_below(nearest, point)), key=len, default="/")
    if mounted.get(holding) == "autofs":
        return False
    whole = os.path.realpath(config)
    return not any(_is_below(whole, point) and point not in mounted for point in _to_be_mounted())


def _nearest_there(path: str) -> str | None:
    """Return the nearest folder or file above `path` that is there; None where that cannot be told."""
    for parent in map(str, Path(path).parents):
        try:
            os.stat(parent)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(parent):  # it leads to nothing now, as to a disk that is not mounted
                return None
        except OSError:
            return None
        else:
            return os.path.realpath(parent)
    return None


def _is_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _mounted() -> Iterator[tuple[str, str]]:
    """Yield (folder, type of the file system) of what is mounted; the last one at a folder hides the others."""
    for fields in _fields_of("/proc/self/mountinfo"):
        if "-" in fields[6:-1]:
            yield _unescaped(fields[4]), fields[fields.index("-", 6) + 1]


def _to_be_mounted() -> Collection[str]:
    """Return the folders at which this machine mounts disks when it starts."""
    lines = [fields for fields in _fields_of("/etc/fstab") if len(fields) > 2 and not fields[0].startswith("#")]
    return {_unescaped(fields[1]) for fields in lines if fields[1].startswith("/") and fields[1] != "/"}


def _fields_of(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line.split() for line in file if line.strip()]
    except OSError:  # as on macOS
        return []


def _unescaped(text: str) -> str:
    for octal, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(octal, character)
    return text
