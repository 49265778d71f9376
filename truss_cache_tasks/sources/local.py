"""`file://`: a folder or a file of this machine, relative to the config that names it."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from truss_cache_tasks.errors import (
    RUN_AGAIN,
    AccessDenied,
    CacheTaskError,
    LeadsOut,
    NotFound,
    NothingSelected,
    SourceChanged,
    TransientError,
)
from truss_cache_tasks.model.credentials import Credential, NoCredential
from truss_cache_tasks.model.listing import UNPINNED, Digest, Listing, Location, Pins, RemoteFile
from truss_cache_tasks.model.patterns import select
from truss_cache_tasks.model.records import RECORDS
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.objects import check_pins

_CHUNK = 4 << 20  # bytes


class LocalSource:
    """Every file below a folder, or one file. Dot files are listed too: only patterns select by name."""

    def __init__(self, request: Request, credential: Credential | NoCredential, network: Network) -> None:
        self._as_written = str(request.source)
        self._request = request
        self._follow_links = network.follow_links
        self._cancel = network.cancel
        # abspath and not resolve(): a link that the config names may be changed to lead to other weights
        self._root = os.path.abspath(network.base / request.source.root)

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """Return every regular file. Links to files and folders are followed; sockets, pipes and devices are left out.

        Each folder is listed once: below its own path if it is in the source, else below that of one link to it. Other
        links to it are left out with a warning.

        Raises:
            NotFound, NothingSelected, AccessDenied, LeadsOut; CacheTaskError for a name that is not UTF-8.
        """
        listing = self._listing()
        if pins.files is None:
            return listing
        # A pin names a file by its path, or by the key that a listing gave it. Compare paths, which messages show.
        paths = {file.key: file.path for file in listing.files}
        keys = {file.path: file.key for file in listing.files}
        wanted = [replace(pin, key=paths.get(pin.key, pin.key)) for pin in pins.files]
        kept = check_pins([replace(file, key=file.path) for file in listing.files], wanted, self._request.source)
        files = tuple(replace(file, key=keys[file.path]) for file in kept)
        if pins.in_detail:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                files = tuple(pool.map(self._hashed, files))
        return replace(listing, files=files)

    def _hashed(self, file: RemoteFile) -> RemoteFile:
        """Return the file with our own xxh3-128 of its bytes as its digest: a folder has no other."""
        from truss_cache_tasks.model.hashing import Hasher

        self.locate(file)  # refuses a link that leads out
        hasher = Hasher(file.size, None)
        try:
            with open(file.key, "rb", buffering=0) as opened:
                while chunk := opened.read(_CHUNK):
                    self._cancel.check()
                    hasher.update(chunk)
        except OSError as exc:
            raise _refused(file.key, exc) from exc
        self.locate(file)  # refuses a file that changed meanwhile
        return replace(file, digest=Digest("xxh3-128", hasher.xxh3()))

    def _listing(self) -> Listing:
        seen = self._stat(self._root)
        if stat.S_ISREG(seen.st_mode):
            return Listing("", (_file(os.path.basename(self._root), self._root, seen),), single=True)
        if not stat.S_ISDIR(seen.st_mode):
            raise NotFound(
                f"{self._as_written}: {self._root} is neither a file nor a folder", hint="Correct the path in repo_id."
            )
        warnings: list[str] = []
        files = tuple(self._walk(warnings))
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
            raise SourceChanged(f"{file.key}: removed since it was listed", hint=RUN_AGAIN) from exc
        except OSError as exc:
            raise _refused(file.key, exc) from exc
        if not stat.S_ISREG(now.st_mode) or _version(now) != file.version:
            raise SourceChanged(
                f"{file.key}: changed since it was listed",
                hint=f"{RUN_AGAIN} Let no other program write to it meanwhile.",
            )
        if not os.access(file.key, os.R_OK):
            raise AccessDenied(f"{file.key}: not readable", hint="Give the user who runs this the right to read it.")
        validator = f"{now.st_mtime_ns}-{now.st_size}"
        if self._follow_links:
            return Location(Path(file.key).as_uri(), validator=validator)
        real = os.path.realpath(file.key)
        root = os.path.realpath(self._root)
        if real == root:  # the URI names this one file
            root = os.path.dirname(root)
        if not _is_below(real, root):
            raise self._leads_out(file.path, real)
        return Location(Path(real).as_uri(), validator=validator, root=root)

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a failed read; a local file has no status that would say more."""
        return TransientError(f"{file.key}: cannot be read", hint=RUN_AGAIN)

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

    def _walk(self, warnings: list[str]) -> Iterator[RemoteFile]:
        """Yield every file: first those in the folders of the source, then those in folders that only links lead to."""
        folders, links = [""], deque[str]()  # relative, "" or with a final slash
        listed: set[tuple[int, int]] = set()
        while folders or links:
            below = folders.pop() if folders else links.popleft()
            here = self._stat(os.path.join(self._root, below))
            if (here.st_dev, here.st_ino) in listed:
                warnings.append(f"{self._as_written}: {_shown(below[:-1])} {self._known(below[:-1])} and is left out")
                continue
            listed.add((here.st_dev, here.st_ino))
            for path, full, seen, linked in self._items(below, warnings):
                if stat.S_ISDIR(seen.st_mode):
                    (links if linked else folders).append(f"{path}/")
                elif _shown(path) != path:
                    raise CacheTaskError(
                        f"{self._as_written}: the name {_shown(path)!r} is not UTF-8", hint="Rename the file."
                    )
                else:
                    yield _file(path, full, seen)

    def _known(self, path: str) -> str:
        """Return why a path to a folder that is listed already is left out."""
        full = os.path.join(self._root, path)
        around = _is_below(os.path.realpath(os.path.dirname(full)), os.path.realpath(full))
        return "links to a folder around it" if around else "links to a folder that is listed already"

    def _items(self, below: str, warnings: list[str]) -> Iterator[tuple[str, str, os.stat_result, bool]]:
        """Yield (path, absolute path, stat, whether it is a link) of each file and folder in `below`, sorted by name.

        The stat of a link is that of the file or folder that it leads to.
        """
        folder = os.path.join(self._root, below)
        try:
            with os.scandir(folder) as found:
                items = sorted((item.name, item.is_symlink()) for item in found)
        except OSError as exc:
            raise _refused(folder, exc) from exc
        for name, linked in items:
            path, full = below + name, os.path.join(folder, name)
            try:
                seen = os.stat(full)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ELOOP):
                    raise _refused(full, exc) from exc
                warnings.append(f"{self._as_written}: {_shown(path)} is a link to nothing and is left out")
                continue
            if linked and not self._follow_links and not self._may_follow(path, full, seen):
                continue
            if name == RECORDS and stat.S_ISDIR(seen.st_mode):
                continue
            if not stat.S_ISDIR(seen.st_mode) and not stat.S_ISREG(seen.st_mode):
                warnings.append(f"{self._as_written}: {_shown(path)} is no regular file and is left out")
                continue
            yield path, full, seen, linked

    def _may_follow(self, path: str, full: str, seen: os.stat_result) -> bool:
        """Return whether a link stays in the source; raise LeadsOut if it does not and the patterns may select it."""
        real = os.path.realpath(full)
        if _is_below(real, os.path.realpath(self._root)):
            return True
        request = self._request
        if stat.S_ISDIR(seen.st_mode):  # its files are not known; one may be selected, unless all are ignored
            chosen = select([f"{path}/any"], None, request.ignore, dialect=request.dialect)
        else:
            chosen = select([path], request.allow, request.ignore, dialect=request.dialect)
        if chosen:
            raise self._leads_out(path, real)
        return False

    def _leads_out(self, path: str, real: str) -> LeadsOut:
        return LeadsOut(
            f"{self._as_written}: {_shown(path)} is a link that leads out of the folder, to {_shown(real)}",
            hint="Put a copy there, ignore it by a pattern, or set TRUSS_CACHE_FOLLOW_LINKS=1 or "
            "cache_tasks(follow_links=True), which a snapshot folder of the Hub needs, as its files are such links.",
        )


def _is_below(path: str, root: str) -> bool:
    """Return whether a real path is the real folder `root`, or is inside it."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def _file(path: str, full: str, seen: os.stat_result) -> RemoteFile:
    return RemoteFile(path=path, size=seen.st_size, version=_version(seen), key=full)


def _version(seen: os.stat_result) -> str:
    """Return a version that changes with the bytes. It has the ctime, as mtimes can be equal (SOURCE_DATE_EPOCH)."""
    return f"{seen.st_mtime_ns}-{seen.st_size}-{seen.st_ctime_ns}"


def _shown(path: str) -> str:
    """Return `path` as it can be printed: bytes that are not UTF-8 escaped as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _refused(path: str, exc: OSError) -> CacheTaskError:
    """Return the error for `path`, which cannot be read."""
    why = exc.strerror or type(exc).__name__
    if isinstance(exc, PermissionError):
        return AccessDenied(
            f"{_shown(path)}: {why.lower()}", hint="Give the user who runs this the right to read the folder."
        )
    if exc.errno == errno.ENAMETOOLONG:
        return CacheTaskError(
            f"{_shown(path)[:200]}...: the path has {len(path):,} characters, more than this system takes",
            hint="Name a folder further down in repo_id, or give the folders shorter names.",
        )
    return NotFound(f"{_shown(path)}: {why.lower()}", hint="Correct the path in repo_id, or repair the link.")
