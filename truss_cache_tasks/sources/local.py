"""`file://`: a folder or a file of this machine, relative to the config that names it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import AccessDenied, CacheTaskError, NotFound, NothingSelected, SourceChanged, Unavailable
from truss_cache_tasks.planning.listing import Listing, Location, RemoteFile

RECORDS = ".truss_cache"  # our own records, should a cache root lie inside the folder


class LocalSource:
    """A folder (every file below it) or one file. Nothing is hidden from the patterns, dot files included."""

    def __init__(self, entry: Entry, settings: Settings) -> None:
        self._as_written = str(entry.request.source)
        # abspath and not resolve(): a link named in the config may be moved to other weights
        self._root = os.path.abspath(entry.config.parent / entry.request.source.root)

    def listing(self, pinned: str | None = None) -> Listing:
        """Return every regular file, links to files and folders followed; sockets, pipes and devices left out.

        A folder that is reached twice is listed twice; one that contains itself, by a link, is left out with a warning.

        Raises:
            NotFound, NothingSelected, AccessDenied; CacheTaskError for a name that is not UTF-8.
        """
        with_root = self._stat(self._root)
        if stat.S_ISREG(with_root.st_mode):
            return Listing("", (_file(os.path.basename(self._root), self._root, with_root),), single=True)
        if not stat.S_ISDIR(with_root.st_mode):
            raise NotFound(
                f"{self._as_written}: {self._root} is neither a file nor a folder", hint="Correct the path in repo_id."
            )
        warnings: list[str] = []
        files = tuple(self._walk("", ((with_root.st_dev, with_root.st_ino),), warnings))
        if not files:
            raise NothingSelected(
                f"{self._as_written}: no file below {self._root}",
                hint="Put the weights there, or correct the path in repo_id.",
            )
        return Listing("", files, tuple(warnings))

    def locate(self, file: RemoteFile) -> Location:
        """Return the file's `file://` URL, if it still is what was listed. Raises SourceChanged, AccessDenied."""
        try:
            now = os.stat(file.key)
        except FileNotFoundError as exc:
            raise SourceChanged(f"{file.key}: removed since it was listed", hint="Run again.") from exc
        except OSError as exc:
            raise _refused(file.key, exc) from exc
        if not stat.S_ISREG(now.st_mode) or _version(now) != file.version:
            raise SourceChanged(f"{file.key}: changed since it was listed", hint="Run again, once nobody writes to it.")
        if not os.access(file.key, os.R_OK):
            raise AccessDenied(f"{file.key}: not readable", hint="Give the user who runs this the right to read it.")
        return Location(Path(file.key).as_uri(), validator=f"{now.st_mtime_ns}-{now.st_size}")

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return what a failed read means; a local file has no status of its own."""
        return Unavailable(f"{file.key}: cannot be read", hint="Run again.")

    def _stat(self, path: str) -> os.stat_result:
        try:
            return os.stat(path)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFound(
                f"{self._as_written}: {path} does not exist",
                hint="Correct the path in repo_id; it is relative to the folder of the config.",
            ) from exc
        except OSError as exc:
            raise _refused(path, exc) from exc

    def _walk(self, below: str, ancestors: tuple[tuple[int, int], ...], warnings: list[str]) -> Iterator[RemoteFile]:
        """Yield the files of the folder `below` (relative, "" or with a final slash), depth first, by name."""
        folder = os.path.join(self._root, below)
        try:
            with os.scandir(folder) as found:
                names = sorted(item.name for item in found)
        except OSError as exc:
            raise _refused(folder, exc) from exc
        for name in names:
            path, full = below + name, os.path.join(folder, name)
            try:
                seen = os.stat(full)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ELOOP):
                    raise _refused(full, exc) from exc
                warnings.append(f"{self._as_written}: {_shown(path)} is a link to nothing and is left out")
                continue
            if stat.S_ISDIR(seen.st_mode):
                here = (seen.st_dev, seen.st_ino)
                if name == RECORDS:
                    continue
                if here in ancestors:
                    warnings.append(f"{self._as_written}: {_shown(path)} links to a folder around it and is left out")
                    continue
                yield from self._walk(f"{path}/", (*ancestors, here), warnings)
            elif stat.S_ISREG(seen.st_mode):
                if _shown(path) != path:
                    raise CacheTaskError(
                        f"{self._as_written}: the name {_shown(path)!r} is not UTF-8", hint="Rename the file."
                    )
                yield _file(path, full, seen)
            else:
                warnings.append(f"{self._as_written}: {_shown(path)} is no regular file and is left out")


def _file(path: str, full: str, seen: os.stat_result) -> RemoteFile:
    return RemoteFile(path=path, size=seen.st_size, version=_version(seen), key=full)


def _version(seen: os.stat_result) -> str:
    """Name these bytes; the ctime tells a file from another one that was given its mtime (SOURCE_DATE_EPOCH)."""
    return f"{seen.st_mtime_ns}-{seen.st_size}-{seen.st_ctime_ns}"


def _shown(path: str) -> str:
    """Return `path` as it can be printed: bytes that are not UTF-8 escaped as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _refused(path: str, exc: OSError) -> CacheTaskError:
    why = exc.strerror or type(exc).__name__
    if isinstance(exc, PermissionError):
        return AccessDenied(
            f"{_shown(path)}: {why.lower()}", hint="Give the user who runs this the right to read the folder."
        )
    return NotFound(f"{_shown(path)}: {why.lower()}", hint="Correct the path in repo_id, or repair the link.")
