"""Opens the source of a request: the class that its store's row (model/stores.py) names."""

from __future__ import annotations

import importlib

from truss_cache_tasks.model.request import Request
from truss_cache_tasks.model.stores import Credential, NoCredential
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.base import Source


def open_source(request: Request, credential: Credential | NoCredential, network: Network) -> Source:
    """Return the source of `request`. The vendor's SDK is imported here, only when something is to be asked.

    Raises:
        ConfigError: a variable in `network`, such as an endpoint, is wrong.
    """
    module, _, name = request.source.store.opens.partition(":")
    source: Source = getattr(importlib.import_module(module), name)(request, credential, network)
    return source
