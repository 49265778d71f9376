"""Make pools of connections: through a proxy or not, and with the certificates that are trusted."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connectionpool import HTTPConnectionPool

from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.network.connections import POOLS
from truss_cache_tasks.network.imports import IMPORTS

_HOSTS = 64  # hosts whose connections are kept


def make_pools(
    proxy: str | None,
    trust: ssl.SSLContext | None,
    connections: int,
    classes: Mapping[str, type[HTTPConnectionPool]] = POOLS,
) -> urllib3.PoolManager:
    """Return the pools of connections to all hosts that are reached in this way.

    Args:
        proxy: its URL, or None.
        trust: as `load_trust` returns it; None where no connection uses TLS.
        connections: to each host that are kept for reuse.
        classes: of the pools, by scheme.

    Raises:
        ConfigError: the proxy's URL cannot be used.
    """
    options: dict[str, Any] = {"num_pools": _HOSTS, "maxsize": connections, "ssl_context": trust}
    if proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        parts = urlsplit(proxy)
        credential = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
        headers = urllib3.make_headers(proxy_basic_auth=credential) if credential else {}
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        try:
            manager = urllib3.ProxyManager(bare, proxy_headers=headers, proxy_ssl_context=trust, **options)
        except (urllib3.exceptions.HTTPError, ValueError) as exc:
            raise ConfigError(
                f"the proxy variables name a proxy that cannot be used: {parts.scheme}://{parts.hostname}",
                hint="Set HTTPS_PROXY to http://host:port or https://host:port.",
            ) from exc
    manager.pool_classes_by_scheme = dict(classes)
    return manager


def load_trust(ca_bundle: str | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the file or folder `ca_bundle`; None for the system's certificates.

    Raises:
        ConfigError: they cannot be read.
    """
    try:
        if ca_bundle is not None and os.path.isdir(ca_bundle):
            return ssl.create_default_context(capath=ca_bundle)
        trust = ssl.create_default_context(cafile=ca_bundle)
        if ca_bundle is None and not _has_roots(trust):
            _add_certifi(trust)
        return trust
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            f"the CA bundle {ca_bundle} cannot be used: {exc.strerror or exc}",
            hint="Set SSL_CERT_FILE, REQUESTS_CA_BUNDLE or AWS_CA_BUNDLE to a PEM file of certificates.",
        ) from exc


def _has_roots(trust: ssl.SSLContext) -> bool:
    """Return whether the system has certificates of authorities: a file, or a folder that is read on demand."""
    folder = ssl.get_default_verify_paths().capath
    return trust.cert_store_stats()["x509_ca"] > 0 or bool(folder and os.listdir(folder))


def _add_certifi(trust: ssl.SSLContext) -> None:
    """Trust Mozilla's list, for systems without one (slim images), if certifi is installed, as it is with requests."""
    try:
        with IMPORTS:
            import certifi
    except ImportError:
        return
    trust.load_verify_locations(cafile=certifi.where())
