"""The protocol of a store's class: list a request, locate one file of it, explain a refused GET."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.model.listing import UNPINNED, Listing, Location, Pins, RemoteFile


class Source(Protocol):
    """Lists and locates the files of one request. Its class is called with `(request, credential, network)`.

    A class reads no environment and no config: what it needs is in these three values. The credential is a
    `Credential`, `NoCredential`, or, where the row of the store has `auth_methods`, a `Role`. The class imports the
    vendor's SDK in its module or later, raises errors of `truss_cache_tasks.errors` alone, and may be called from many
    threads.
    """

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """Resolve the request's revision, where it has one, and return every file, unfiltered.

        Args:
            pins: what an earlier listing found, and this one has to return or fail.

        Raises:
            NotFound, AccessDenied, CredentialError, TransientError: never an error of the vendor's.
        """
        ...

    def locate(self, file: RemoteFile) -> Location:
        """Return where `file`, of this source's last listing, can be read by ranges now. Raises as `listing` does."""
        ...

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a refused GET of `file`'s bytes: HTTP status, headers, the first 4 KiB of the body."""
        ...
