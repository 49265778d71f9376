"""A source of another package, whose answers and errors are checked: a mistake of it is not one of this package."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping

from truss_cache_tasks.errors import BrokenStore, CacheTaskError, missing_package
from truss_cache_tasks.model.credentials import Credential, NoCredential, Role
from truss_cache_tasks.model.listing import (
    UNPINNED,
    Listing,
    Location,
    Pins,
    RemoteFile,
    fault_of_digest,
    fault_of_file,
)
from truss_cache_tasks.model.records import DIGITS
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.model.stores import Store
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.base import Source

_HINT = "Install another version of the package that has this store, or tell its author."
_METHODS = ("listing", "locate", "explain")


def open_foreign(
    store: Store, request: Request, credential: Credential | Role | NoCredential, network: Network
) -> Source:
    """Import the class of a store that is not of this package, and return its source, checked.

    Raises:
        CacheTaskError: what the class raises itself; BrokenStore for all else that goes wrong.
    """
    module, _, name = store.opens.partition(":")
    with _errors(store, "cannot be opened"):
        with IMPORTS:
            opens = getattr(importlib.import_module(module), name)
        source: Source = opens(request, credential, network)
    lacks = [method for method in _METHODS if not callable(getattr(source, method, None))]
    if lacks:
        raise _broken(store, f"{type(source).__name__} has no method {lacks[0]}")
    return CheckedSource(store, source)


class CheckedSource:
    """Passes each call on; raises BrokenStore for an error that is no CacheTaskError, and for a wrong answer."""

    def __init__(self, store: Store, source: Source) -> None:
        self._store = store
        self._source = source

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """Return the listing, each of its files checked as `listed_file` does."""
        with self._errors("listing"):
            listing = self._source.listing(pins)
            if not isinstance(listing, Listing):
                raise self._wrong("listing", listing, "a Listing")
            if not isinstance(listing.files, tuple):
                raise self._wrong("listing", listing.files, "a tuple of files")
            for file in listing.files:
                if not isinstance(file, RemoteFile):
                    raise self._wrong("listing", file, "a RemoteFile")
                if fault := fault_of_remote_file(file):
                    raise _broken(self._store, f"listing() gives {fault[0]}, expected {fault[1]}")
        return listing

    def locate(self, file: RemoteFile) -> Location:
        """Return the location, whose URL has to be one that can be read."""
        with self._errors("locate"):
            location = self._source.locate(file)
            if not isinstance(location, Location):
                raise self._wrong("locate", location, "a Location")
            if not location.url.startswith(("http://", "https://", "file:///")):
                raise _broken(self._store, "locate() gives a URL that is not http, https or file")
        return location

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a refused GET."""
        with self._errors("explain"):
            error = self._source.explain(file, status, headers, body)
            if not isinstance(error, CacheTaskError):
                raise self._wrong("explain", error, "a CacheTaskError")
        return error

    def _errors(self, method: str) -> contextlib.AbstractContextManager[None]:
        return _errors(self._store, f"{method}() failed")

    def _wrong(self, method: str, got: object, expected: str) -> BrokenStore:
        return _broken(self._store, f"{method}() gives a {type(got).__name__}, expected {expected}")


def fault_of_remote_file(file: RemoteFile) -> tuple[str, str] | None:
    """Return what is wrong with the fields of a file, as (what was found, what was expected); None if nothing is."""
    if fault := fault_of_file(path=file.path, size=file.size, version=file.version, key=file.key):
        return fault
    digest = file.digest
    if digest is None:
        return None
    if getattr(digest, "algorithm", None) not in DIGITS:
        return f"{file.path}: the digest {digest}", f"one of {', '.join(DIGITS)}"
    return fault_of_digest(digest.algorithm, digest.value, digest.parts)


@contextlib.contextmanager
def _errors(store: Store, what: str) -> Iterator[None]:
    """Raise BrokenStore for an error of the block that is not of this package. Its text may hold a secret: left out."""
    try:
        yield
    except CacheTaskError:
        raise
    except Exception as exc:
        if (missing := missing_package(exc)) is not None:
            raise missing from exc
        why = f"{type(exc).__name__}: {exc}" if isinstance(exc, ImportError) else type(exc).__name__
        raise _broken(store, f"{what} ({' '.join(why.split())})") from exc


def _broken(store: Store, what: str) -> BrokenStore:
    return BrokenStore(f"{store.scheme}://: the store of another package is broken: {store.opens} {what}", hint=_HINT)
