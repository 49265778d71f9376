"""Open the source of a request: import the class that its store's row (model/stores.py) names, and call it."""

from __future__ import annotations

import importlib

from truss_cache_tasks.model.credentials import Credential, NoCredential, Role
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.model.stores import OURS
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.base import Source


def open_source(request: Request, credential: Credential | Role | NoCredential, network: Network) -> Source:
    """Return the source of `request`.

    Its module is imported at this call and not before, so that a run that sends no request does not load it.

    Raises:
        ConfigError: a variable in `network`, such as an endpoint, is wrong.
        BrokenStore: the class of another package cannot be imported, or is no Source.
    """
    store = request.source.store
    if store not in OURS:
        with IMPORTS:
            from truss_cache_tasks.sources.foreign import open_foreign  # few configs have such a store

        return open_foreign(store, request, credential, network)
    module, _, name = store.opens.partition(":")
    with IMPORTS:
        opens = getattr(importlib.import_module(module), name)
    source: Source = opens(request, credential, network)
    return source
