"""Entry -> Listing. A source answers two questions; the bytes are the business of `transfer/`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol

from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import CacheTaskError
from truss_cache_tasks.model.listing import Listing, Location, RemoteFile
from truss_cache_tasks.network.cancel import NEVER, CancelToken


class Source(Protocol):
    """A place weights come from, bound to one entry and its credential. Two questions, and the words for a refusal."""

    def listing(self, pinned: str | None = None) -> Listing:
        """Pin the entry's revision and return every file it has, unfiltered.

        Args:
            pinned: a full commit that stands for the entry's revision (Hub only); None resolves it anew.

        Raises:
            NotFound, AccessDenied, CredentialError, TransientError: in our words, never the vendor's.
        """
        ...

    def locate(self, file: RemoteFile) -> Location:
        """Return where `file`, of this source's last listing, can be read by ranges now. Raises as `listing` does."""
        ...

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Word a refused GET of `file`'s bytes (HTTP status, headers, the first 4 KiB of the body) in our errors."""
        ...


def open_source(entry: Entry, settings: Settings, cancel: CancelToken = NEVER) -> Source:
    """Return the source of `entry`. The vendor's SDK is imported here, only when something is to be asked.

    Args:
        cancel: ends the waits of a listing.
    """
    module, _, name = entry.request.source.store.opens.partition(":")
    opened: Source = getattr(importlib.import_module(module), name)(entry, settings, cancel=cancel)
    return opened
