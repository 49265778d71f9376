"""Make urllib3's pools of connections, with the proxies and the certificates of a Network."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connectionpool import HTTPConnectionPool

from truss_cache_tasks.errors import ConfigError

_HOSTS = 64  # hosts whose connections are kept


def make_pools(
    proxy: str | None,
    trust: ssl.SSLContext | None,
    *,
    connections: int,
    classes: Mapping[str, type[HTTPConnectionPool]],
) -> urllib3.PoolManager:
    """Return pools of connections that go through `proxy`, or directly where it is None.

    Args:
        trust: None where TLS is not needed.
        connections: that are kept for each host.
        classes: of the pools, by scheme: those of `connections.POOLS`, or of `bounded_pools`.

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
        import certifi
    except ImportError:
        return
    trust.load_verify_locations(cafile=certifi.where())
