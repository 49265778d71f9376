"""What the package of a store needs: its row, its source, and the values that these get and return.

A package names its row in the entry-point group `truss_cache_tasks.stores`, under each scheme that it serves. The
tests that every source passes are `truss_cache_tasks.sources.testing.SourceContract`. See docs/how-to/stores.md.

Importing this module imports nothing else; each name is loaded when it is first used. The module of a row imports only
`Store` and the classes of credentials, as every run of a config with its scheme loads it, also one without work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truss_cache_tasks.model.credentials import (
        AuthMethod,
        Credential,
        JsonCredential,
        LoginCredential,
        NoCredential,
        Role,
        Secret,
        TokenCredential,
    )
    from truss_cache_tasks.model.listing import (
        UNPINNED,
        Digest,
        FilePin,
        Listing,
        Location,
        PaginationGuard,
        Pins,
        RemoteFile,
        listed_digest,
        listed_file,
        wrong_answer,
    )
    from truss_cache_tasks.model.request import Request, SourceRef
    from truss_cache_tasks.model.stores import NamePart, Store, register_store
    from truss_cache_tasks.network.bounded import WholeAnswer
    from truss_cache_tasks.network.client import HttpClient
    from truss_cache_tasks.network.retry import is_transient_status, retry_after_s
    from truss_cache_tasks.network.settings import Network
    from truss_cache_tasks.sources.base import Source
    from truss_cache_tasks.sources.objects import check_pins, under_prefix

__all__ = [
    "UNPINNED",
    "AuthMethod",
    "Credential",
    "Digest",
    "FilePin",
    "HttpClient",
    "JsonCredential",
    "Listing",
    "Location",
    "LoginCredential",
    "NamePart",
    "Network",
    "NoCredential",
    "PaginationGuard",
    "Pins",
    "RemoteFile",
    "Request",
    "Role",
    "Secret",
    "Source",
    "SourceRef",
    "Store",
    "TokenCredential",
    "WholeAnswer",
    "check_pins",
    "is_transient_status",
    "listed_digest",
    "listed_file",
    "register_store",
    "retry_after_s",
    "under_prefix",
    "wrong_answer",
]

_MODULES = {
    "model.credentials": (
        *("AuthMethod", "Credential", "JsonCredential", "LoginCredential", "NoCredential", "Role", "Secret"),
        "TokenCredential",
    ),
    "model.listing": (
        *("UNPINNED", "Digest", "FilePin", "Listing", "Location", "PaginationGuard", "Pins", "RemoteFile"),
        *("listed_digest", "listed_file", "wrong_answer"),
    ),
    "model.request": ("Request", "SourceRef"),
    "model.stores": ("NamePart", "Store", "register_store"),
    "network.bounded": ("WholeAnswer",),
    "network.client": ("HttpClient",),
    "network.retry": ("is_transient_status", "retry_after_s"),
    "network.settings": ("Network",),
    "sources.base": ("Source",),
    "sources.objects": ("check_pins", "under_prefix"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"truss_cache_tasks.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
